"""What PyTorch's backends do around a network: what is compiled, in which order a GPU is asked, what float32 is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.availability import why_no_compiler
from bench.backends.interface import LoadRequest
from bench.backends.pytorch_compilation import Compilation
from bench.backends.pytorch_cuda import PytorchCuda, load
from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import gpu_driver_present
from tests.stand_ins.torch_cuda import TorchCudaStandIn

torch = pytest.importorskip("torch")
_SHAPE = (2, 3, 8, 8)
needs_compiler = pytest.mark.skipif(bool(why_no_compiler()), reason=why_no_compiler() or "there is one")


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    # What an earlier test compiled would be found again, and no graph made.
    torch.compiler.reset()
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = tf32


class _Small(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Pools, and where `breaks` does something that no graph can hold."""

    def __init__(self, *, breaks: bool = False) -> None:
        super().__init__()
        self.breaks = breaks

    def forward(self, images: Any) -> Any:
        pooled = images.relu().mean(dim=(2, 3))
        if self.breaks:
            torch._dynamo.graph_break()
        return pooled * 2


@needs_compiler
def test_a_network_is_compiled_to_one_graph_and_says_so() -> None:
    images = torch.randn(_SHAPE)
    compilation = Compilation(_Small(), images)
    assert compilation.departures() == []
    assert "inductor; 1 graph of " in compilation.words
    with torch.inference_mode():
        assert torch.allclose(compilation.network(images), _Small()(images))


@needs_compiler
def test_what_was_compiled_for_one_shape_is_not_compiled_again_on_other_images() -> None:
    from torch._dynamo.utils import counters

    images = torch.zeros(_SHAPE)
    compilation = Compilation(_Small(), images)
    before = counters["stats"]["unique_graphs"]
    for _ in range(3):
        images.copy_(torch.randn(_SHAPE))
        with torch.inference_mode():
            assert torch.allclose(compilation.network(images), _Small()(images))
    assert counters["stats"]["unique_graphs"] == before


def test_a_network_that_would_be_left_to_eager_in_part_is_refused() -> None:
    with pytest.raises(BackendError, match=r"torch\.compile failed") as caught:
        Compilation(_Small(breaks=True), torch.zeros(_SHAPE))
    assert "--backend pytorch" in caught.value.hint


def test_a_compiler_that_is_not_there_is_told() -> None:
    from torch._inductor import config

    # The library's own way to change a setting: what monkeypatch puts back is not found again afterwards.
    changed = config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
    with changed, pytest.raises(BackendError, match=r"torch\.compile failed"):
        Compilation(_Small(), torch.zeros(3, 3, 5, 7))


def _loaded(session_run: Any) -> tuple[PytorchCuda, TorchCudaStandIn]:
    cuda = TorchCudaStandIn()
    request = LoadRequest(
        artifact=session_run.folder / "checkpoint.safetensors",
        case="d2-resnet18-ce",
        batch_size=2,
        image_px=64,
        class_count=3,
        threads=1,
    )
    return PytorchCuda(request, cuda=cuda, device="cpu"), cuda


def test_copies_and_kernels_are_on_the_own_stream_and_waited_for(session_run: Any) -> None:
    backend, cuda = _loaded(session_run)
    on, off = "on the stream", "off the stream"
    assert cuda.said == ["device waited for", on, off], "the weights came by another stream"
    told = []
    for verb in (lambda: backend.bind(np.zeros((2, 3, 64, 64), np.float32)), backend.step, backend.sync, backend.fetch):
        cuda.said.clear()
        verb()
        told.append(list(cuda.said))
    assert told == [[on, off, "waited"], [on, "marked", "marked", off], ["waited"], [on, off, "waited"]]
    assert backend.device_time_s() == pytest.approx(0.001)
    assert backend.device_bytes() == 12345


def test_float32_is_no_tf32_and_one_who_turns_it_on_again_is_noticed(session_run: Any) -> None:
    torch.backends.cudnn.allow_tf32 = True
    backend, _ = _loaded(session_run)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert backend.describe().precision == "fp32 (TF32 off)"
    torch.backends.cudnn.allow_tf32 = True
    assert backend.describe().departures == ["TF32 is on in convolutions, asked for float32"]
    assert "TF32 off" not in backend.describe().precision


@pytest.mark.skipif(gpu_driver_present(), reason="there is an NVIDIA driver here")
def test_without_a_gpu_loading_says_so(session_run: Any) -> None:
    request = LoadRequest(
        artifact=session_run.folder / "checkpoint.safetensors",
        case="d2-resnet18-ce",
        batch_size=1,
        image_px=64,
        class_count=3,
        threads=1,
    )
    with pytest.raises(BackendError, match="no GPU"):
        load(request)
