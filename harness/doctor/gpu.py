"""The GPU, and what only a GPU runs: both TensorRT flavours, cuda-python, pycuda.

Not run on a GPU yet: on this project's machines there is none, and the words for one were tried with stand-ins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.doctor.child import Answer
from harness.doctor.findings import Finding, finding_from_failure, shortened, size_text
from harness.doctor.machine import nvidia_card_present

NEEDS_GPU = "Use a machine with an NVIDIA GPU and its driver."
_SETUP_GPU = "make setup GPU=1"
_NEW_DRIVER = "Install NVIDIA's driver, 580 or newer: CUDA 13 needs it."
_CUDA_MAJOR = 13  # What every package of constraints.txt is built for.
# Told most by the first; the others are asked where it is silent.
_SOURCES: Mapping[str, str] = {"nvml": "NVML", "cuda": "cuda-python", "torch": "torch"}

Answers = Mapping[str, Answer]


def gpu_findings(answers: Answers) -> list[Finding]:
    """Return what is said about the GPU and what needs one."""
    return [_gpu(answers), _cuda_python(answers), _pycuda(answers), _tensorrt(answers), _rtx(answers)]


def gpu_devices(answers: Answers) -> list[dict[str, Any]]:
    """Return name, memory_bytes and architecture (SM89 is 8.9) of every GPU that somebody tells of."""
    source = _telling_source(answers)
    return list(answers[source].facts["devices"]) if source else []


def driver_present(answers: Answers) -> bool:
    return bool(answers["driver"].facts.get("present"))


def _telling_source(answers: Answers) -> str:
    return next((source for source in _SOURCES if answers[source].facts.get("devices")), "")


def _gpu(answers: Answers) -> Finding:
    source = _telling_source(answers)
    return _gpu_told_by(source, answers) if source else _no_gpu(answers)


def _gpu_told_by(source: str, answers: Answers) -> Finding:
    devices, told = gpu_devices(answers), answers[source].facts
    names = ", ".join(f"{each['name']} ({size_text(each['memory_bytes'])}, {each['architecture']})" for each in devices)
    driver = told.get("driver") or f"version not told (NVML: {_silence(answers['nvml'])})"
    detail = f"{names}; driver {driver}; CUDA {told['cuda'] or 'none'}; told by {_SOURCES[source]}"
    new_enough = int((told["cuda"] or "0").split(".")[0]) >= _CUDA_MAJOR
    return Finding(
        component="gpu",
        status="ok" if new_enough else "limited",
        detail=detail if new_enough else f"{detail}, too old",
        remedy="" if new_enough else _NEW_DRIVER,
        facts={"devices": devices, "driver": told.get("driver"), "cuda": told["cuda"], "told_by": source},
    )


def _no_gpu(answers: Answers) -> Finding:
    silent = "; ".join(f"{name}: {_silence(answers[each])}" for each, name in _SOURCES.items())
    card, there = nvidia_card_present(), driver_present(answers) or bool(answers["driver"].failure)
    if there:
        # Loading the driver's library may itself be what fails.
        why, remedy = answers["driver"].failure or "the driver shows no GPU", f"See nvidia-smi. {_NEW_DRIVER}"
    elif card:
        why, remedy = "an NVIDIA card, no driver (libcuda)", _NEW_DRIVER
    else:
        why, remedy = "no NVIDIA card, no driver (libcuda)", NEEDS_GPU
    return Finding(
        component="gpu",
        status="broken" if there else "absent",
        detail=shortened(f"{why}; {silent}"),
        remedy=remedy,
        facts={"devices": [], "driver": None, "cuda": None, "told_by": None},
    )


def _silence(answer: Answer) -> str:
    """Say why a source tells of no GPU."""
    if answer.absent:
        return "not installed"
    return answer.failure or answer.facts.get("problem") or "no GPU"


def _cuda_python(answers: Answers) -> Finding:
    answer = answers["cuda"]
    if not answer.ok:
        return finding_from_failure("cuda-python", answer, install=_SETUP_GPU, distribution="cuda-bindings")
    reached = len(answer.facts["devices"])
    return Finding(
        component="cuda-python",
        status="ok" if reached else "limited",
        detail=f"cuda.bindings {answer.facts['version']}; "
        + (f"reaches {reached} GPU" if reached else f"reaches no GPU: {_silence(answer)}"),
        remedy="" if reached else NEEDS_GPU,
        facts=answer.facts,
    )


def _pycuda(answers: Answers) -> Finding:
    answer, install = answers["pycuda"], "pip install -e '.[pycuda]' -c constraints.txt"
    if answer.absent:
        detail = "not installed; optional, and its build needs the CUDA toolkit"
        return Finding(component="pycuda", status="absent", detail=detail, remedy=install)
    if not answer.ok and not driver_present(answers):
        detail = shortened(f"installed; does not load without NVIDIA's driver: {answer.failure}")
        return Finding(component="pycuda", status="limited", detail=detail, remedy=NEEDS_GPU)
    if not answer.ok:
        return finding_from_failure("pycuda", answer, install=install, distribution="pycuda")
    detail = f"{answer.facts['version']}; reaches {answer.facts['devices']} GPU"
    return Finding(component="pycuda", status="ok", detail=detail, facts=answer.facts)


def _tensorrt(answers: Answers) -> Finding:
    answer = answers["tensorrt"]
    if not answer.ok:
        return finding_from_failure("tensorrt", answer, install=_SETUP_GPU, distribution="tensorrt")
    version, builds = answer.facts["version"], bool(answer.facts["targets"])
    runs = builds and bool(answers["cuda"].facts.get("devices"))
    facts = {"version": version, "targets": answer.facts["targets"], "builds": builds, "runs": runs}
    if not builds:
        detail = f"{version} imports; it needs an NVIDIA GPU to build engines, and to run them"
        return Finding(component="tensorrt", status="limited", detail=detail, remedy=NEEDS_GPU, facts=facts)
    return Finding(
        component="tensorrt",
        status="ok" if runs else "limited",
        detail=f"{version}; built an engine for this GPU" + ("" if runs else "; running one needs cuda-python"),
        remedy="" if runs else _SETUP_GPU,
        facts=facts,
    )


def _rtx(answers: Answers) -> Finding:
    answer, install = answers["tensorrt-rtx"], "pip install -e '.[rtx]' -c constraints.txt"
    if not answer.ok:
        return finding_from_failure("tensorrt-rtx", answer, install=install, distribution="tensorrt-rtx")
    targets, here = answer.facts["targets"], [each["architecture"] for each in gpu_devices(answers)]
    fits = any(architecture in targets for architecture in here)
    runs = fits and bool(answers["cuda"].facts.get("devices"))
    detail = f"{answer.facts['version']}; built an engine here, for {', '.join(targets)}"
    remedy = ""
    if not here:
        detail, remedy = f"{detail}; running it needs such a GPU", "Run engines on a machine with such a GPU."
    elif not fits:
        detail, remedy = f"{detail}; this GPU is {', '.join(here)}", f"Use TensorRT itself here: {_SETUP_GPU}"
    elif not runs:
        detail, remedy = f"{detail}; running it needs cuda-python", _SETUP_GPU
    return Finding(
        component="tensorrt-rtx",
        status="ok" if runs else "limited",
        detail=detail,
        remedy=remedy,
        facts={"version": answer.facts["version"], "targets": targets, "builds": True, "runs": runs},
    )
