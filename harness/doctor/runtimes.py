"""The packages that everything needs, torch and its ImageNet weights, ONNX Runtime and its providers, OpenVINO."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.availability import why_no_compiler
from harness.doctor.child import Answer
from harness.doctor.findings import Finding, finding_from_failure, reinstall, shortened, size_text
from harness.doctor.gpu import NEEDS_GPU, Answers, driver_present

# Distribution -> the module of it that is imported, deep enough to load its native parts.
CORE_MODULES: Mapping[str, str] = {
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "scipy": "scipy.stats",
    "scikit-learn": "sklearn.metrics",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "click": "click",
    "rich": "rich.progress",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "gdown": "gdown",
    "requests": "requests",
    "tensorboard": "tensorboard.summary.writer.event_file_writer",
    "pytest-benchmark": "pytest_benchmark",
}
# Short name -> ONNX Runtime's own. It lists all that were compiled in, whether they can load or not.
PROVIDERS: Mapping[str, str] = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
}
_INSTALL = "pip install -e . -c constraints.txt"
_UNUSED = "; `harness bench` does not use it: it has TensorRT itself"
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file")


def core_findings(answers: Answers) -> list[Finding]:
    """Return one line for the packages that import, and one for each that does not."""
    failed = [
        finding_from_failure(name, answers[name], install=_INSTALL, distribution=name, required=True)
        for name in CORE_MODULES
        if not answers[name].ok
    ]
    works = [name for name in CORE_MODULES if answers[name].ok]
    return [
        Finding(
            component="core packages",
            status="limited" if failed else "ok",
            detail=f"{len(works)} of {len(CORE_MODULES)} import",
            remedy="See the lines below." if failed else "",
            facts={name: _version(name) for name in works},
        ),
        *failed,
    ]


def torch_findings(answers: Answers, *, bf16: bool) -> list[Finding]:
    """Return what is said about torch, torchvision and the weights that `--weights imagenet` would load."""
    torch, vision = answers["torch"], answers["torchvision"]
    found = [_torch(torch, bf16=bf16), _torch_compile()]
    if not vision.ok:
        return [
            *found,
            finding_from_failure("torchvision", vision, install=_INSTALL, distribution="torchvision", required=True),
        ]
    found.append(
        Finding(
            component="torchvision",
            status="ok",
            detail=vision.facts["version"],
            required=True,
            facts={"version": vision.facts["version"]},
        )
    )
    return found + [_imagenet(architecture, file) for architecture, file in vision.facts["files"].items()]


def _torch(answer: Answer, *, bf16: bool) -> Finding:
    if not answer.ok:
        return finding_from_failure("torch", answer, install=_INSTALL, distribution="torch", required=True)
    facts = answer.facts
    on = ", ".join([f"CPU ({facts['instructions']})", *(device["name"] for device in facts["devices"])])
    built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built without CUDA"
    cpu_precision = "bf16" if bf16 else "float32, for bf16 would be emulated"
    return Finding(
        component="torch",
        status="ok",
        detail=f"{facts['version']}, {built}; computes on {on}; trains on this CPU in {cpu_precision}",
        required=True,
        facts={**facts, "bf16_on_cpu": bf16},
    )


def _torch_compile() -> Finding:
    """Say whether the compiler is there that torch.compile calls; nothing is compiled, which takes half a minute."""
    missing = why_no_compiler()
    return Finding(
        component="torch.compile",
        status="absent" if missing else "ok",
        detail=missing or "there is a C++ compiler, and the headers of Python; not tried",
        remedy="Install a C++ compiler and python3-dev: `--backend pytorch-compile` needs both." if missing else "",
        facts={"missing": missing},
    )


def _imagenet(architecture: str, file: Mapping[str, Any]) -> Finding:
    component, path = f"imagenet {architecture}", Path(file["path"])
    fetch = f"curl -fL --create-dirs -o {shlex.quote(str(path))} {file['url']}"
    if file["size_bytes"] is None:
        detail = f"no {path.name} in {path.parent}; `train` fetches it there, or takes --weights random"
        return Finding(component=component, status="absent", detail=detail, remedy=fetch, facts=file)
    if file["problem"]:
        return Finding(
            component=component, status="broken", detail=shortened(file["problem"]), remedy=fetch, facts=file
        )
    detail = f"{path.name} ({size_text(file['size_bytes'])}) in {path.parent}, as its hash says"
    return Finding(component=component, status="ok", detail=detail, facts=file)


def onnxruntime_findings(answers: Answers) -> list[Finding]:
    """Return what is said about ONNX Runtime, then about each provider, which was really tried."""
    answer = answers["onnxruntime"]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if not answer.ok:
        name = both[-1] if both else "onnxruntime"
        return [finding_from_failure("onnxruntime", answer, install=_INSTALL, distribution=name, required=True)]
    untried = [name for name in answer.facts["providers"] if name not in PROVIDERS.values()]
    detail = answer.facts["version"] + (f"; lists also {', '.join(untried)}, not tried" if untried else "")
    clash = len(both) > 1
    if clash:
        detail += "; onnxruntime and onnxruntime-gpu are both installed, into the same folder"
    first = Finding(
        component="onnxruntime",
        status="limited" if clash else "ok",
        detail=detail,
        remedy=f"pip uninstall -y {' '.join(both)} && {_INSTALL}" if clash else "",
        required=True,
        facts=answer.facts,
    )
    return [first, *(_provider(name, answers, distribution=both[-1] if both else "onnxruntime") for name in PROVIDERS)]


def _provider(name: str, answers: Answers, *, distribution: str) -> Finding:
    answer, component, required = answers[f"onnxruntime {name}"], f"onnxruntime {name}", name == "CPU"
    if answer.facts.get("runs"):
        use = {"CUDA": "; `harness bench` has it as its backend onnxruntime-cuda", "TensorRT": _UNUSED}
        detail = "ran a model" + use.get(name, "")
        return Finding(component=component, status="ok", detail=detail, required=required, facts=answer.facts)
    if answer.ok and not answer.facts["listed"]:
        detail = "not in this build of ONNX Runtime"
        return Finding(component=component, status="absent", detail=detail, required=required, facts=answer.facts)
    why = answer.failure or f"the model ran on {', '.join(answer.facts['ran_on'])} instead, or wrongly"
    # What it raises says only that the CPU would have had to step in; the cause is in what it printed.
    if missing := _MISSING_LIBRARY.search(answer.log):
        why = f"there is no {missing[1]}"
    remedy = reinstall(distribution)
    if name == "TensorRT":
        why += ". It wants TensorRT 10 (libnvinfer.so.10) and cannot use TensorRT 11"
        remedy = "Use TensorRT itself: harness export --trt"
    elif name == "CUDA":
        remedy = (
            f"pip install '{distribution}[cuda,cudnn]' -c constraints.txt" if driver_present(answers) else NEEDS_GPU
        )
    return Finding(
        component=component,
        status="broken" if required or (name == "CUDA" and driver_present(answers)) else "absent",
        detail=shortened(f"listed, but does not load: {why}" if not required else why),
        remedy=remedy,
        required=required,
        facts={"listed": True, "runs": False, "failure": answer.failure},
    )


def openvino_finding(answers: Answers) -> Finding:
    """Return what is said about OpenVINO."""
    answer, install = answers["openvino"], "pip install -e '.[openvino]' -c constraints.txt"
    if not answer.ok:
        return finding_from_failure("openvino", answer, install=install, distribution="openvino")
    devices = ", ".join(f"{device} ({name})" for device, name in answer.facts["devices"].items())
    if not answer.facts["runs"]:
        detail = f"{answer.facts['version']} computes a convolution wrongly on the CPU"
        return Finding(
            component="openvino", status="broken", detail=detail, remedy=reinstall("openvino"), facts=answer.facts
        )
    detail = f"{answer.facts['version']}; ran a model on the CPU; devices: {devices}"
    return Finding(component="openvino", status="ok", detail=detail, facts=answer.facts)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
