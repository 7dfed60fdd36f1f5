"""What is said of a backend that a machine cannot run, and which ones are used where none is named."""

from __future__ import annotations

import inspect
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from bench import availability
from bench.availability import default_backends, why_no_compiler, why_unavailable
from bench.backends import BACKENDS, DEFAULT_BACKENDS, REFERENCE_BACKEND, loader_at
from bench.backends.interface import Backend, LoadRequest
from bench.results import Trial, TrialResult
from bench.sessions import is_eager
from bench.trials import available_backends, trials_of_run
from harness.core.runs import RunDirectory
from harness.options import BACKEND_NAMES


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that says what the machine has: modules, a driver, libraries for CUDA, a compiler."""

    def has(*modules: str, driver: bool = True, cuda_libraries: bool = True, compiler: bool = True) -> None:
        for library in ("lib/libtorch_cuda.so", "capi/libonnxruntime_providers_cuda.so"):
            path = tmp_path / library
            path.parent.mkdir(exist_ok=True)
            path.touch() if cuda_libraries else path.unlink(missing_ok=True)

        def find_spec(name: str) -> Any:
            return SimpleNamespace(origin=str(tmp_path / "__init__.py")) if name in modules else None

        monkeypatch.setattr(util, "find_spec", find_spec)
        monkeypatch.setattr(availability, "gpu_driver_present", lambda: driver)
        monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if compiler else None)

    return has


_ALL = ("torch", "onnxruntime", "openvino", "cuda.bindings", "pycuda")


def test_a_machine_that_has_everything_runs_every_backend(machine: Any) -> None:
    machine(*_ALL)
    assert {name for name, reason in available_backends().items() if reason} == set()


def test_without_a_driver_nothing_for_a_gpu_runs_whatever_is_installed(machine: Any) -> None:
    machine(*_ALL, driver=False)
    reasons = available_backends()
    missing = {name for name, reason in reasons.items() if reason}
    assert missing == {name for name in BACKENDS if name.startswith("tensorrt") or name.endswith("-cuda")}
    assert {reasons[name] for name in missing} == {"no NVIDIA driver on this machine"}


@pytest.mark.parametrize(
    ("modules", "changes", "backend", "words"),
    [
        (("onnxruntime",), {}, "pytorch", "torch is not installed"),
        (("onnxruntime",), {}, "pytorch-compile-cuda", "torch is not installed"),
        (_ALL, {"cuda_libraries": False}, "pytorch-cuda", "torch is installed without CUDA"),
        (_ALL, {"cuda_libraries": False}, "onnxruntime-cuda", "onnxruntime is installed without CUDA"),
        (("onnxruntime",), {}, "onnxruntime-cuda", "cuda-python is not installed"),
        (("torch",), {"compiler": False}, "pytorch-compile", "there is no g++"),
        (("torch",), {"compiler": False}, "pytorch-compile-cuda", "there is no g++"),
        (("torch",), {}, "openvino-throughput", "openvino is not installed"),
        (("torch",), {}, "tensorrt", "cuda-python is not installed"),
        (("pycuda",), {}, "tensorrt", ""),
        (("pycuda",), {}, "tensorrt-graph", "cuda-python is not installed"),
        (("cuda.bindings",), {}, "tensorrt-pycuda", "pycuda is not installed"),
    ],
)
def test_what_is_missing_is_said(
    machine: Any, monkeypatch: pytest.MonkeyPatch, modules: Any, changes: Any, backend: str, words: str
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    machine(*modules, **changes)
    assert words in why_unavailable(backend)
    assert bool(why_unavailable(backend)) is bool(words)


def test_headers_of_python_are_needed_to_compile(machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(*_ALL)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    assert "python3-dev" in why_no_compiler()


def test_where_none_is_named_a_machine_without_a_gpu_hears_nothing_of_those_on_it(machine: Any) -> None:
    machine(*_ALL, driver=False)
    assert default_backends() == ("pytorch", "onnxruntime", "openvino", "tensorrt")
    machine(*_ALL)
    assert default_backends() == DEFAULT_BACKENDS
    assert set(DEFAULT_BACKENDS) < set(BACKENDS)


def test_every_name_leads_to_a_loader_and_can_be_chosen() -> None:
    assert tuple(BACKENDS) == BACKEND_NAMES
    for place in BACKENDS.values():
        if not util.find_spec(place.partition(":")[0]):
            pytest.fail(f"there is no {place}")
        loader = loader_at(place)
        assert list(inspect.signature(loader).parameters) == ["request"]
        hints = get_type_hints(loader)
        assert hints == {"request": LoadRequest, "return": Backend}


def test_every_backend_gets_the_files_that_it_loads(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    for name in ("fp32.onnx", "fp32.ir.xml", "fp32.rtx.engine"):
        (folder / name).touch()
    trials = trials_of_run(RunDirectory(tmp_path / "run"), tuple(BACKENDS), (1,), 2)
    assert [trial.identifier.removesuffix(".b1.t2") for trial in trials] == [
        *("eager.pytorch", "compiled.pytorch-compile", "eager.pytorch-cuda", "compiled.pytorch-compile-cuda"),
        *("fp32.onnxruntime", "fp32.onnxruntime-cuda", "fp32.openvino", "fp32.openvino-throughput"),
        *("fp32.ir.openvino", "fp32.ir.openvino-throughput"),
        *("fp32.rtx.tensorrt", "fp32.rtx.tensorrt-graph", "fp32.rtx.tensorrt-pycuda"),
    ]
    assert {trial.artifact for trial in trials[:4]} == {"checkpoint.safetensors"}
    assert len({trial.identifier for trial in trials}) == len(trials)


def test_the_reference_of_every_speed_up_is_eager_pytorch_on_the_cpu() -> None:
    def result(variant: str, backend: str) -> TrialResult:
        trial = Trial(
            run="run", variant=variant, artifact="a", backend=backend, precision="fp32", batch_size=1, threads=1
        )
        common: dict[str, Any] = {"margin": 0.01, "margin_set": "", "mode": "full", "created": "", "machine": {}}
        return TrialResult(trial=trial, status="measured", **common)

    assert is_eager(result("eager", REFERENCE_BACKEND))
    assert not is_eager(result("eager", "pytorch-cuda"))
    assert not is_eager(result("compiled", "pytorch-compile"))
