"""Both bodies of device memory by one suite, on doubles that copy; which of them is used; CUDA graphs of the first."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bench.backends import device_memory, pycuda_memory, tensorrt_loading
from bench.backends.cuda_memory import CudaMemory
from bench.backends.device_memory import DeviceMemory, chosen_body, opened_memory
from bench.backends.interface import MeasuredMemory, TimedOnDevice
from bench.backends.pycuda_memory import PycudaMemory
from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import gpu_driver_present
from tests.stand_ins.cuda import CudaStandIn
from tests.stand_ins.pycuda import PycudaStandIn
from tests.stand_ins.setting import Setting, request_for

Opens = Callable[[CudaStandIn], DeviceMemory]
_BODIES: dict[str, Opens] = {
    "cuda-python": CudaMemory,
    "pycuda": lambda cuda: PycudaMemory(PycudaStandIn(cuda)),
}


@pytest.fixture(params=list(_BODIES))
def open_memory(request: pytest.FixtureRequest) -> Opens:
    return _BODIES[request.param]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_what_is_copied_to_the_device_comes_back(open_memory: Opens) -> None:
    cuda = CudaStandIn()
    memory = open_memory(cuda)
    there = memory.transfer((2, 3), np.float32)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    there.host[:] = values
    memory.copy_to_device(there)
    memory.synchronise()
    there.host[:] = 0
    memory.copy_to_host(there)
    assert not there.host.any(), "a copy is only enqueued"
    memory.synchronise()
    np.testing.assert_array_equal(there.host, values)
    assert (memory.device_name(), memory.compute_capability()) == ("Stand-in GPU", "SM89")
    memory.close()


class _WithoutAddress(np.ndarray[Any, Any]):
    """An array that must not be asked for its address, which takes numpy 23 us."""

    @property
    def ctypes(self) -> Any:
        raise AssertionError("asked for its address")


def test_a_copy_asks_numpy_for_no_address() -> None:
    cuda = CudaStandIn()
    memory = CudaMemory(cuda)
    there = memory.transfer((2, 3), np.float32)
    assert there.host_address == there.host.ctypes.data
    silent = replace(there, host=there.host.view(_WithoutAddress))
    memory.copy_to_device(silent)
    memory.copy_to_host(silent)
    memory.synchronise()
    memory.close()


def test_time_and_memory_are_the_devices_own(open_memory: Opens) -> None:
    cuda = CudaStandIn()
    memory = open_memory(cuda)
    assert memory.used_bytes() == 0
    there = memory.transfer((100,), np.float32)
    assert memory.used_bytes() == 400
    memory.mark_start()
    memory.copy_to_device(there)
    memory.mark_end()
    memory.copy_to_host(there)
    with pytest.raises(BackendError):
        memory.elapsed_s()  # Neither mark was reached.
    memory.synchronise()
    assert memory.elapsed_s() == pytest.approx(0.002)
    memory.close()


def test_closing_releases_everything_in_order_and_may_be_repeated(open_memory: Opens) -> None:
    cuda = CudaStandIn()
    memory = open_memory(cuda)
    memory.transfer((4,), np.float32)
    memory.close()
    assert (cuda.memory, cuda.streams, cuda.events) == ({}, set(), {})
    freed = [call for call in cuda.calls if "Free" in call or "Destroy" in call]
    assert freed == ["cudaFree", "cudaFreeHost", *["cudaEventDestroy"] * 2, "cudaStreamDestroy"]
    memory.close()


@pytest.mark.parametrize("call", ["cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMemGetInfo"])
def test_memory_that_cannot_be_opened_leaves_nothing_behind(open_memory: Opens, call: str) -> None:
    cuda = CudaStandIn()
    cuda.failing = call
    with pytest.raises(BackendError, match="out of memory"):
        open_memory(cuda)
    assert (cuda.streams, cuda.events) == (set(), {})


def test_an_engine_answers_alike_through_either_body(setting: Setting, open_memory: Opens) -> None:
    backend = setting.load(open_memory=lambda: open_memory(setting.cuda))
    for seed in (1, 2):
        images = setting.images(seed)
        backend.bind(images)
        backend.step()
        backend.sync()
        np.testing.assert_allclose(backend.fetch(), setting.expected(images), rtol=1e-5, atol=1e-5)
    assert isinstance(backend, TimedOnDevice)
    assert isinstance(backend, MeasuredMemory)
    assert backend.device_bytes() == 2 * 3 * 4 * 4 * 4 + 2 * 3 * 4
    backend.step()
    backend.sync()
    assert backend.device_time_s() == pytest.approx(0.002)
    assert backend._cuda.library in backend.describe().runtime
    backend.close()
    setting.assert_all_released()


def test_a_graph_is_recorded_once_and_runs_what_was_recorded_on_new_images(setting: Setting) -> None:
    backend = setting.load(graph=True)
    assert "a CUDA graph" in backend.describe().runtime
    for seed in (1, 2, 3):
        images = setting.images(seed)
        backend.bind(images)
        setting.cuda.calls.clear()
        backend.step()
        assert setting.cuda.calls == ["cudaEventRecord", "cudaGraphLaunch", "cudaEventRecord"]
        backend.sync()
        np.testing.assert_allclose(backend.fetch(), setting.expected(images), rtol=1e-5, atol=1e-5)
    assert len(setting.cuda.executables) == 1
    assert setting.cuda.graphs == {}
    backend.close()
    setting.assert_all_released()


def test_a_graph_is_destroyed_before_the_context_and_memory_that_it_works_on(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = setting.load(graph=True)
    backend.bind(setting.images())
    backend.step()
    destroy = setting.cuda.cudaGraphExecDestroy
    alive: list[bool] = []

    def destroyed(executable: int) -> tuple[Any, ...]:
        alive.append(backend._context is not None)
        return destroy(executable)

    monkeypatch.setattr(setting.cuda, "cudaGraphExecDestroy", destroyed)
    setting.cuda.calls.clear()
    backend.close()
    assert alive == [True]
    assert setting.cuda.calls[:2] == ["cudaStreamSynchronize", "cudaGraphExecDestroy"]
    assert setting.cuda.calls.count("cudaGraphExecDestroy") == 1


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "invalidated", "not started"]
)
def test_a_graph_that_cannot_be_recorded_is_an_error_and_never_quietly_none(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    backend = setting.load(graph=True)
    runs = iter([True, False])
    if call == "not started":
        real = setting.engine.execute_async_v3
        monkeypatch.setattr(setting.engine, "execute_async_v3", lambda stream: next(runs) and real(stream))
    elif call == "invalidated":
        setting.engine.always_allocates = True
    else:
        setting.cuda.failing = call
    with pytest.raises(BackendError, match="cannot be recorded as a CUDA graph") as caught:
        backend.bind(setting.images())
    assert "--backend tensorrt" in caught.value.hint
    with pytest.raises(BackendError, match="no images were bound"):
        backend.step()
    assert setting.cuda.recording is None
    setting.cuda.failing = ""
    monkeypatch.undo()
    backend.close()
    setting.assert_all_released()


def test_the_double_does_not_record_a_first_inference() -> None:
    cuda = CudaStandIn()
    memory = CudaMemory(cuda)
    with pytest.raises(BackendError):
        memory.recorded(lambda: cuda.enqueue(lambda: None, capturable=False))
    ran: list[int] = []
    recording = memory.recorded(lambda: cuda.enqueue(lambda: ran.append(1)))
    assert ran == []
    recording.launch()
    recording.launch()
    memory.synchronise()
    assert ran == [1, 1]
    recording.close()
    memory.close()
    assert cuda.executables == {}


@pytest.mark.parametrize("capturable", [True, False])
def test_tensorrt_rtx_records_its_graph_by_itself_and_one_that_it_cannot_record_is_a_departure(
    setting: Setting, capturable: bool
) -> None:
    setting.engine.capturable = capturable
    backend = setting.load(name="fp32.rtx.engine", graph=True)
    assert setting.engine.runtime_config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"
    backend.bind(setting.images())
    assert "cudaStreamBeginCapture" not in setting.cuda.calls
    assert bool(backend.describe().departures) is not capturable


def test_pycuda_is_used_where_it_is_asked_for_or_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_installed(*names: str) -> None:
        monkeypatch.setattr(device_memory, "is_installed", lambda name: name in names)

    with_installed("cuda.bindings", "pycuda")
    assert (chosen_body(None), chosen_body("pycuda")) == ("cuda-python", "pycuda")
    with_installed("pycuda")
    assert (chosen_body(None), chosen_body("cuda-python")) == ("pycuda", "cuda-python")
    with_installed()
    assert chosen_body(None) == "cuda-python"


def test_pycuda_takes_the_primary_context_and_is_told_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    driver: Any = ModuleType("pycuda.driver")
    stand_in = PycudaStandIn(CudaStandIn())
    for name in [name for name in dir(stand_in) if not name.startswith("_")]:
        setattr(driver, name, getattr(stand_in, name))
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.delitem(sys.modules, "pycuda.autoprimaryctx", raising=False)
    with pytest.raises(BackendError, match=r"pycuda cannot be imported: .*autoprimaryctx"):
        opened_memory("pycuda")
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", ModuleType("pycuda.autoprimaryctx"))
    memory = opened_memory("pycuda")
    assert memory.library == "pycuda"
    memory.close()


@pytest.mark.skipif(gpu_driver_present(), reason="there is an NVIDIA driver here")
def test_without_a_driver_each_body_says_what_is_missing() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(BackendError, match="CUDA reports"):
        opened_memory("cuda-python")
    with pytest.raises(BackendError, match="pycuda cannot be imported") as caught:
        opened_memory("pycuda")
    assert "[pycuda]" in caught.value.hint


def test_each_backend_of_an_engine_asks_for_its_own_body_and_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, bool]] = []

    def made(*_: Any, open_memory: Callable[[], object], graph: bool, **__: Any) -> object:
        asked.append((open_memory(), graph))
        return object()

    monkeypatch.setattr(tensorrt_loading, "gpu_driver_present", lambda: True)
    monkeypatch.setattr(tensorrt_loading, "imported_flavour", lambda flavour: None)
    monkeypatch.setattr(tensorrt_loading, "opened_memory", lambda body: body)
    monkeypatch.setattr(tensorrt_loading, "TensorrtEngine", made)
    path = tmp_path / "fp32.tensorrt.engine"
    path.write_bytes(b"plan")
    for load in (tensorrt_loading.load, tensorrt_loading.load_with_graph, tensorrt_loading.load_through_pycuda):
        load(request_for(path))
    assert asked == [(None, False), ("cuda-python", True), ("pycuda", False)]


def _names_of_driver(source: str) -> set[str]:
    owners = {"driver", "self._driver"}
    attributes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return {node.attr for node in attributes if ast.unparse(node.value) in owners}


# What pycuda 2026.1 has, read from a build of it linked to an empty driver library.
_PYCUDA_NAMES = frozenset(
    {"Stream", "Event", "pagelocked_empty", "mem_alloc", "memcpy_htod_async", "memcpy_dtoh_async", "mem_get_info"}
    | {"Context", "Error"}
)


def test_every_name_of_pycuda_exists_in_it_and_in_the_double() -> None:
    used = _names_of_driver(Path(pycuda_memory.__file__).read_text(encoding="utf-8"))
    assert used == _PYCUDA_NAMES
    assert [name for name in sorted(used) if not hasattr(PycudaStandIn(CudaStandIn()), name)] == []


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_driver_present(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("body", ["cuda-python", "pycuda"])
def test_a_real_gpu_copies_waits_and_times(body: Any) -> None:
    pytest.importorskip("cuda.bindings.runtime" if body == "cuda-python" else "pycuda")
    memory = opened_memory(body)
    try:
        there = memory.transfer((1024, 1024), np.float32)
        values = np.random.default_rng(0).normal(size=there.host.shape).astype(np.float32)
        there.host[:] = values
        memory.mark_start()
        memory.copy_to_device(there)
        memory.mark_end()
        memory.synchronise()
        there.host[:] = 0
        memory.copy_to_host(there)
        memory.synchronise()
        np.testing.assert_array_equal(there.host, values)
        assert 0 < memory.elapsed_s() < 1
        assert memory.device_name()
    finally:
        memory.close()
