"""What the doctor makes of answers that no machine of this project gives: GPUs, old drivers, providers that load."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.doctor import machine
from harness.doctor.child import Answer
from harness.doctor.examination import Examination
from harness.doctor.gpu import gpu_findings
from harness.doctor.runtimes import CORE_MODULES, PROVIDERS, core_findings, onnxruntime_findings, torch_findings

_ROOT = Path(__file__).resolve().parents[2]


def test_weights_that_are_there_are_said_to_be_there() -> None:
    file = {"path": "/cache/vgg16-397923af.pth", "url": "https://x", "size_bytes": 553433881, "problem": ""}
    vision = Answer(facts={"version": "0.29.1", "files": {"vgg16": file}})

    finding = torch_findings({"torch": Answer(failure="x"), "torchvision": vision}, bf16=True)[-1]

    assert (finding.component, finding.status, finding.remedy) == ("imagenet vgg16", "ok", "")
    assert "vgg16-397923af.pth (0.5 GiB) in /cache" in finding.detail


@pytest.mark.parametrize("component", ["pycuda", "tensorrt", "tensorrt-rtx"])
def test_an_extra_that_a_remedy_names_is_one_of_the_project(component: str) -> None:
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (finding,) = (each for each in gpu_findings(_machine()) if each.component == component)

    assert finding.status == "absent"
    named = re.findall(r"\.\[(\w+)\]", finding.remedy) or (["gpu"] if finding.remedy == "make setup GPU=1" else [])
    assert len(named) == 1
    assert any(component in line for line in extras[named[0]])


_H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85520809984, "architecture": "SM90"}
_L4 = {"name": "NVIDIA L4", "memory_bytes": 24 * 2**30, "architecture": "SM89"}
_RTX = Answer(facts={"version": "1.7.1.116", "targets": ["SM86", "SM89"]})
_TENSORRT = Answer(facts={"version": "11.4.0.106", "targets": ["this GPU"]})


def _cuda(*devices: Mapping[str, Any], problem: str = "") -> Answer:
    return Answer(facts={"version": "13.4.4", "cuda": "13.0", "devices": list(devices), "problem": problem})


def _machine(**answers: Answer) -> dict[str, Answer]:
    """Answers of a machine of the given kind, where nothing else is installed: a stand-in for a GPU."""
    absent = dict.fromkeys(("nvml", "cuda", "pycuda", "tensorrt", "tensorrt-rtx"), Answer(absent=True))
    torch = Answer(facts={"cuda": "13.0", "devices": []})
    driver = Answer(facts={"present": "driver" in answers})
    given = {name.replace("_", "-"): answer for name, answer in answers.items()}
    return absent | {"torch": torch} | given | {"driver": driver}


def _said(answers: Mapping[str, Answer]) -> dict[str, Any]:
    return {finding.component: finding for finding in gpu_findings(answers)}


def test_nvml_tells_of_the_gpu_first_and_cuda_python_where_it_is_silent() -> None:
    nvml = Answer(facts={"driver": "580.95.05", "cuda": "13.0", "devices": [_H100]})
    first, second = (_said(_machine(driver=_RTX, **each))["gpu"] for each in ({"nvml": nvml}, {"cuda": _cuda(_H100)}))

    assert (first.status, second.status) == ("ok", "ok")
    assert "NVIDIA H100 80GB HBM3 (79.6 GiB, SM90); driver 580.95.05; CUDA 13.0; told by NVML" in first.detail
    assert "driver version not told (NVML: not installed); CUDA 13.0; told by cuda-python" in second.detail


def test_a_driver_too_old_for_the_packages_is_told() -> None:
    nvml = Answer(facts={"driver": "535.1", "cuda": "12.2", "devices": [_H100]})

    gpu = _said(_machine(driver=_RTX, nvml=nvml))["gpu"]

    assert gpu.status == "limited"
    assert "580 or newer" in gpu.remedy


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ({"driver": _RTX, "cuda": _cuda(problem="cudaErrorNoDevice")}, "broken", "cuda-python: cudaErrorNoDevice"),
        ({"nvml": Answer(failure="NVMLError_LibraryNotFound: no")}, "absent", "NVML: NVMLError_LibraryNotFound"),
    ],
    ids=["a driver without a GPU", "neither"],
)
def test_where_there_is_no_gpu_each_source_gives_its_reason(answers: Any, status: str, words: str) -> None:
    gpu = _said(_machine(**answers))["gpu"]

    assert gpu.status == status
    assert words in gpu.detail
    assert gpu.facts["devices"] == []


def test_an_rtx_engine_runs_on_its_targets_only() -> None:
    fits = _said(_machine(driver=_RTX, cuda=_cuda(_L4), tensorrt_rtx=_RTX))["tensorrt-rtx"]
    not_here = _said(_machine(driver=_RTX, cuda=_cuda(_H100), tensorrt_rtx=_RTX))["tensorrt-rtx"]
    nothing_to_run_it = _said(_machine(driver=_RTX, nvml=_cuda(_L4), tensorrt_rtx=_RTX))["tensorrt-rtx"]

    assert (fits.status, fits.facts["runs"]) == ("ok", True)
    assert (not_here.status, not_here.facts["runs"]) == ("limited", False)
    assert "this GPU is SM90" in not_here.detail
    assert not_here.remedy == "Use TensorRT itself here: make setup GPU=1"
    assert (nothing_to_run_it.facts["builds"], nothing_to_run_it.facts["runs"]) == (True, False)
    assert "cuda-python" in nothing_to_run_it.detail


def test_tensorrt_needs_a_gpu_to_build_and_cuda_python_to_run() -> None:
    both = _said(_machine(driver=_RTX, cuda=_cuda(_H100), tensorrt=_TENSORRT))["tensorrt"]
    builds = _said(_machine(driver=_RTX, tensorrt=_TENSORRT))["tensorrt"]
    neither = _said(_machine(tensorrt=Answer(facts={"version": "11.4.0.106", "targets": []})))["tensorrt"]
    refused = _said(_machine(tensorrt=Answer(failure="tensorrt 10.9.0 is too old", remedy="Install")))["tensorrt"]

    verbs = [(finding.facts.get("builds"), finding.facts.get("runs")) for finding in (both, builds, neither, refused)]
    assert verbs == [(True, True), (True, False), (False, False), (None, None)]
    assert [each.status for each in (both, builds, neither, refused)] == ["ok", "limited", "limited", "broken"]
    assert refused.remedy == "Install"


def test_pycuda_without_a_driver_is_not_called_broken() -> None:
    fails = Answer(failure="ImportError: libcuda.so.1")

    assert _said(_machine(pycuda=fails))["pycuda"].status == "limited"
    assert _said(_machine(driver=_RTX, pycuda=fails))["pycuda"].status == "broken"


def _ort_answers(**providers: Answer) -> dict[str, Answer]:
    listed = Answer(facts={"version": "1.31.1", "providers": list(PROVIDERS.values())})
    loads = Answer(facts={"listed": True, "runs": True, "ran_on": ["x"]})
    return {"onnxruntime": listed, "driver": Answer(facts={"present": True})} | {
        f"onnxruntime {name}": providers.get(name, loads) for name in PROVIDERS
    }


def test_a_provider_that_another_stepped_in_for_does_not_count_as_running() -> None:
    fell_back = Answer(facts={"listed": True, "runs": False, "ran_on": ["CPUExecutionProvider"]})
    answers = _ort_answers(CUDA=fell_back, TensorRT=Answer(facts={"listed": False, "runs": False}))

    _, _, cuda, tensorrt = onnxruntime_findings(answers)

    assert (cuda.status, tensorrt.status) == ("broken", "absent")
    assert "the model ran on CPUExecutionProvider instead" in cuda.detail
    assert "[cuda,cudnn]" in cuda.remedy
    assert tensorrt.detail == "not in this build of ONNX Runtime"


def test_a_provider_that_loads_is_ok_and_said_to_be_of_use_to_bench_or_not() -> None:
    _, cpu, cuda, tensorrt = onnxruntime_findings(_ort_answers())

    assert [each.status for each in (cpu, cuda, tensorrt)] == ["ok"] * 3
    assert "backend onnxruntime-cuda" in cuda.detail
    assert "`harness bench` does not use it" in tensorrt.detail
    assert Examination(findings=[cpu, cuda, tensorrt]).runs() == ["ONNX Runtime (CPU, CUDA, TensorRT)"]


def test_only_what_all_commands_need_decides_the_exit_code() -> None:
    sound = {name: Answer(facts={"version": "1"}) for name in CORE_MODULES}
    no_onnx = core_findings(sound | {"onnx": Answer(absent=True)})
    cpu_fails = onnxruntime_findings(_ort_answers(CPU=Answer(failure="Fail: no kernel")))
    cuda_fails = onnxruntime_findings(_ort_answers(CUDA=Answer(failure="Fail: no kernel")))

    broken = [
        Examination(findings=each).core_is_broken for each in (core_findings(sound), no_onnx, cpu_fails, cuda_fails)
    ]
    assert broken == [False, True, True, False]
    assert no_onnx[1].remedy == "pip install -e . -c constraints.txt"


def test_torch_compile_lacks_a_compiler_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    answers = {"torch": Answer(failure="x"), "torchvision": Answer(failure="x")}
    finding = torch_findings(answers, bf16=False)[1]
    assert (finding.component, finding.status, finding.required) == ("torch.compile", "absent", False)
    assert "there is no no-such-compiler" in finding.detail
    assert "python3-dev" in finding.remedy


def test_onnx_is_built_where_torch_and_both_onnx_packages_import() -> None:
    sound = {name: Answer(facts={"version": "1"}) for name in CORE_MODULES}
    torch = Answer(facts={"version": "2.14.1", "cuda": None, "instructions": "AVX2", "devices": []})
    vision = Answer(facts={"version": "0.29.1", "files": {}})
    findings = torch_findings({"torch": torch, "torchvision": vision}, bf16=False)

    assert Examination(findings=[*findings, *core_findings(sound)]).builds() == ["ONNX"]
    for name in ("onnx", "onnxscript"):
        lacking = core_findings(sound | {name: Answer(absent=True)})
        assert Examination(findings=[*findings, *lacking]).builds() == []
    assert Examination(findings=core_findings(sound)).closing_line() == "This machine builds: nothing; runs: nothing."


@pytest.mark.parametrize(
    ("files", "cores", "memory_bytes"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "2147483648\n"}, 1.5, 2**31),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, None, 2**30),
        ({}, None, None),
    ],
    ids=["version 2", "version 2 without limits", "version 1", "version 1 without limits", "memory only", "none"],
)
def test_the_limits_of_a_container_are_read(
    tmp_path: Path, files: dict[str, str], cores: float | None, memory_bytes: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")

    assert machine.cpu_quota_cores(tmp_path) == cores
    assert machine.memory_limit_bytes(tmp_path) == memory_bytes


def test_a_small_container_and_a_full_disk_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota_cores", lambda: 0.5)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))

    said = {finding.component: finding for finding in machine.machine_findings()}

    assert (said["processor"].status, said["processor"].remedy) == ("limited", "harness bench --threads 1")
    assert said["processor"].detail.endswith("this container gets the time of 0.5")
    assert (said["disk"].status, said["disk"].facts["free_bytes"]) == ("limited", 2**30)
    assert said["disk"].remedy
