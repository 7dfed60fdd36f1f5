"""One suite for every backend: those that this machine runs, those for a GPU on doubles, and really where there is one.

The network is the session's, trained for one epoch; what is right is its golden.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.availability import why_unavailable
from bench.backends import BACKENDS, loader_at
from bench.backends.cuda_memory import CudaMemory
from bench.backends.interface import Backend, LoadRequest, MeasuredMemory, QueuedBackend, TimedOnDevice
from bench.backends.onnx_runtime_cuda import OnnxRuntimeCuda
from bench.backends.pytorch_cuda import PytorchCuda
from harness.core.contract import Preprocessing
from harness.data.preprocessing import images_from_pixels
from tests.stand_ins.cuda import CudaStandIn
from tests.stand_ins.onnxruntime_cuda import OnnxRuntimeStandIn
from tests.stand_ins.torch_cuda import TorchCudaStandIn

_BATCH, _PX, _CLASSES = 4, 64, 3
_DOUBLE = " on a double"


def _onnxruntime_on_a_double(request: LoadRequest) -> Backend:
    cuda = CudaStandIn()
    return OnnxRuntimeCuda(request, onnxruntime=OnnxRuntimeStandIn(cuda), open_memory=lambda: CudaMemory(cuda))


def _pytorch_on_a_double(request: LoadRequest) -> Backend:
    return PytorchCuda(request, cuda=TorchCudaStandIn(), device="cpu")


_DOUBLES: dict[str, Callable[[LoadRequest], Backend]] = {
    "onnxruntime-cuda" + _DOUBLE: _onnxruntime_on_a_double,
    "pytorch-cuda" + _DOUBLE: _pytorch_on_a_double,
}
# An engine's own contract is test_tensorrt_engine.py's: there is none of this network for the GPU at hand.
_NAMES = [
    pytest.param(name, marks=pytest.mark.gpu) if name.endswith("-cuda") else name
    for name in (*BACKENDS, *_DOUBLES)
    if not name.startswith("tensorrt")
]


class _Bed:
    """A backend's name, its loaded model, and the images with their golden answers."""

    def __init__(self, name: str, session_run: Any) -> None:
        self.name, self._run = name, session_run
        (pixels,) = session_run.runs_folder.glob("evaluation-sets/*/images.npy")
        preprocessing = Preprocessing(resize_px=73, crop_px=64)
        self.images_bchw = images_from_pixels(np.load(pixels, mmap_mode="r")[: 3 * _BATCH], preprocessing)
        with np.load(session_run.folder / "golden.npz") as golden:
            self.logits_bc: npt.NDArray[np.float32] = golden["logits_bc"][: 3 * _BATCH]
        self.backend = self.load()

    @property
    def in_pytorch(self) -> bool:
        return self.name.startswith("pytorch")

    def load(self, *, batch_size: int = _BATCH, threads: int = 1) -> Any:
        folder: Path = self._run.folder
        request = LoadRequest(
            artifact=folder / "checkpoint.safetensors" if self.in_pytorch else folder / "export" / "fp32.onnx",
            case="d2-resnet18-ce",
            batch_size=batch_size,
            image_px=_PX,
            class_count=_CLASSES,
            threads=threads,
        )
        loader = _DOUBLES[self.name] if self.name in _DOUBLES else loader_at(BACKENDS[self.name])
        return loader(request)

    def batch(self, index: int) -> npt.NDArray[np.float32]:
        return self.images_bchw[index * _BATCH : (index + 1) * _BATCH].copy()

    def expected(self, index: int) -> npt.NDArray[np.float32]:
        return self.logits_bc[index * _BATCH : (index + 1) * _BATCH]


def _answered(backend: Backend, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    backend.bind(images)
    backend.step()
    backend.sync()
    return backend.fetch()


@pytest.fixture(scope="module", autouse=True)
def switches_of_torch() -> Iterator[None]:
    """Put back what a backend sets for its whole process."""
    import torch

    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(scope="module", params=_NAMES)
def bed(request: pytest.FixtureRequest, session_run: Any) -> Iterator[_Bed]:
    if request.param in BACKENDS and (reason := why_unavailable(request.param)):
        pytest.skip(reason)
    made = _Bed(request.param, session_run)
    yield made
    made.backend.close()


def test_it_answers_as_the_golden_does(bed: _Bed) -> None:
    for index in range(3):
        answered_bc = _answered(bed.backend, bed.batch(index))
        assert (answered_bc.dtype, answered_bc.shape) == (np.float32, (_BATCH, _CLASSES))
        np.testing.assert_allclose(answered_bc, bed.expected(index), atol=1e-4, rtol=1e-4)
    assert bed.backend.fetch_answers() is None


def test_no_image_hears_of_the_others_in_its_batch(bed: _Bed) -> None:
    straight_bc = _answered(bed.backend, bed.batch(0))
    rolled_bc = _answered(bed.backend, np.roll(bed.batch(0), 1, axis=0))
    np.testing.assert_allclose(np.roll(rolled_bc, -1, axis=0), straight_bc, atol=1e-5, rtol=1e-5)


def test_another_batch_size_gives_the_same_answers(bed: _Bed) -> None:
    alone = bed.load(batch_size=1)
    try:
        np.testing.assert_allclose(_answered(alone, bed.batch(0)[:1]), bed.expected(0)[:1], atol=1e-4, rtol=1e-4)
    finally:
        alone.close()
    # Two instances in one process, as the worker has them: the first is not disturbed.
    np.testing.assert_allclose(_answered(bed.backend, bed.batch(0)), bed.expected(0), atol=1e-4, rtol=1e-4)


def test_bind_copies_the_images(bed: _Bed) -> None:
    images = bed.batch(0)
    bed.backend.bind(images)
    images[:] = 1e6
    bed.backend.step()
    bed.backend.sync()
    np.testing.assert_allclose(bed.backend.fetch(), bed.expected(0), atol=1e-4, rtol=1e-4)


def test_what_was_fetched_is_the_callers(bed: _Bed) -> None:
    first_bc = _answered(bed.backend, bed.batch(0))
    assert first_bc.flags.owndata
    kept_bc = first_bc.copy()
    second_bc = _answered(bed.backend, bed.batch(1))
    np.testing.assert_array_equal(first_bc, kept_bc)
    first_bc[:] = 0
    np.testing.assert_array_equal(bed.backend.fetch(), second_bc)


def test_a_step_can_be_repeated_on_what_is_bound(bed: _Bed) -> None:
    once_bc = _answered(bed.backend, bed.batch(2))
    for _ in range(2):
        bed.backend.step()
        bed.backend.sync()
    np.testing.assert_allclose(bed.backend.fetch(), once_bc, atol=1e-6)


def test_it_says_what_it_runs_in_and_departs_from_nothing(bed: _Bed) -> None:
    described = bed.backend.describe()
    assert described.departures == []
    assert described.precision.startswith("fp32")
    assert described.version
    assert described.threads == (None if "cuda" in bed.name else 1)
    assert "GPU" in described.device or described.device == "CPU"
    if "cuda" in bed.name:
        assert "TF32 off" in described.precision
        assert "CUDA graph" in described.runtime


def test_it_has_as_many_threads_as_it_was_told_to(bed: _Bed) -> None:
    if "cuda" in bed.name:
        pytest.skip("the CPU's threads say nothing about a GPU")
    if bed.name == "pytorch-compile":
        pytest.skip("a second compilation for what the eager one shows")
    other = bed.load(threads=2)
    assert (other.describe().threads, other.describe().departures) == (2, [])
    other.close()
    if bed.in_pytorch:  # All of a process has one number of threads: that it is another now is a departure.
        assert bed.backend.describe().departures == ["2 threads, asked for 1"]
        bed.load().close()


@pytest.mark.parametrize("attribute", ["_network", "_session", "_compiled"])
def test_closing_lets_the_model_go(bed: _Bed, attribute: str) -> None:
    if not hasattr(bed.backend, attribute):
        pytest.skip(f"it has no {attribute}")
    other = bed.load()
    _answered(other, bed.batch(0))
    model = weakref.ref(getattr(other, attribute))
    other.close()
    gc.collect()
    assert model() is None


def test_the_gpus_clock_and_memory_are_told_by_those_that_use_one(bed: _Bed) -> None:
    _answered(bed.backend, bed.batch(0))
    on_a_gpu = "cuda" in bed.name
    assert isinstance(bed.backend, TimedOnDevice) is isinstance(bed.backend, MeasuredMemory) is on_a_gpu
    if on_a_gpu:
        assert 0 < bed.backend.device_time_s() < 10
        assert bed.backend.device_bytes() > 0


def test_a_queue_works_on_copies_runs_every_batch_and_is_waited_for(bed: _Bed) -> None:
    if bed.name != "openvino-throughput":
        assert not isinstance(bed.backend, QueuedBackend)
        pytest.skip("it does not queue")
    assert isinstance(bed.backend, QueuedBackend)
    done: list[npt.NDArray[np.float32]] = []
    bed.backend._queue.set_callback(lambda request, _: done.append(request.get_output_tensor(0).data.copy()))
    orders = [0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 1]
    for index in orders:
        images = bed.batch(index)
        bed.backend.submit(images)
        images[:] = 1e6
    bed.backend.wait()
    assert len(done) == len(orders) > bed.backend.request_count
    for each in done:  # In whatever order they came.
        fitting = [index for index in orders if np.allclose(each, bed.expected(index), atol=1e-4, rtol=1e-4)]
        orders.remove(fitting[0])
    bed.backend.wait()
    # The four verbs have a request of their own.
    np.testing.assert_allclose(_answered(bed.backend, bed.batch(0)), bed.expected(0), atol=1e-4, rtol=1e-4)
    assert f"requests {bed.backend.request_count})" in bed.backend.describe().runtime
