"""PyTorch in float32 on the first GPU: eager, and torch.compile with inductor.

Not run on a GPU yet: the order of its calls is tested with a stand-in for `torch.cuda`.

Float32 is float32 here: torch multiplies in TF32 by default in convolutions, which keeps 10 of the 23 bits, so both
switches are turned off and read back. Page-locked host memory on both sides and one stream of its own, as for
TensorRT; `bind` returns when the images are on the device. No CUDA graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from bench.backends.pytorch_compilation import Compilation
from harness.core.cases import case_named
from harness.core.errors import BackendError
from harness.core.models import model_from_checkpoint


def load(request: LoadRequest) -> Backend:
    """Load a checkpoint onto the GPU; raise BackendError where there is none, ArtifactError for another network's."""
    return _loaded(request, compiled=False)


def load_compiled(request: LoadRequest) -> Backend:
    """Load a checkpoint and compile it for the GPU and this batch size; raises as `load` does."""
    return _loaded(request, compiled=True)


def _loaded(request: LoadRequest, *, compiled: bool) -> Backend:
    import torch

    if not torch.cuda.is_available():
        raise BackendError(
            "torch reaches no GPU here.", hint="`harness doctor` says why; without one use `--backend pytorch`."
        )
    return PytorchCuda(request, cuda=torch.cuda, device="cuda:0", compiled=compiled)


class PytorchCuda:
    """A network on the GPU; `cuda` is `torch.cuda`, or what stands for it where `device` is the CPU."""

    def __init__(self, request: LoadRequest, *, cuda: Any, device: str, compiled: bool = False) -> None:
        import torch

        self._torch, self._cuda = torch, cuda
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        # Its choice of an algorithm by trying would differ from process to process, and with it the answers.
        torch.backends.cudnn.benchmark = False
        pinned = device != "cpu"
        input_shape, output_shape = request.input_shape, (request.batch_size, request.class_count)
        self._network = model_from_checkpoint(case_named(request.case), request.artifact).to(device)
        self._host_bchw = torch.zeros(input_shape, pin_memory=pinned)
        self._host_bc = torch.zeros(output_shape, pin_memory=pinned)
        self._input_bchw = torch.zeros(input_shape, device=device)
        self._output_bc = torch.zeros(output_shape, device=device)
        self._stream = cuda.Stream()
        self._start, self._end = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda.synchronize()  # The weights and zeros came by another stream.
        with cuda.stream(self._stream):
            self._compilation = Compilation(self._network, self._input_bchw) if compiled else None
        self._call: Any = self._compilation.network if self._compilation else self._network

    def bind(self, images: Images) -> None:
        """Copy the images to the device, and wait until they are there."""
        self._host_bchw.copy_(self._torch.from_numpy(images))
        with self._cuda.stream(self._stream):
            self._input_bchw.copy_(self._host_bchw, non_blocking=True)
        self._stream.synchronize()

    def step(self) -> None:
        with self._torch.inference_mode(), self._cuda.stream(self._stream):
            self._start.record(self._stream)
            self._output_bc = self._call(self._input_bchw)
            self._end.record(self._stream)

    def sync(self) -> None:
        self._stream.synchronize()

    def fetch(self) -> Float32s:
        with self._cuda.stream(self._stream):
            self._host_bc.copy_(self._output_bc, non_blocking=True)
        self._stream.synchronize()
        return np.array(self._host_bc.numpy(), copy=True)

    def fetch_answers(self) -> None:
        """A checkpoint gives logits only."""

    def device_time_s(self) -> float:
        """Return the GPU's time from the first to the last kernel of the last step."""
        return float(self._start.elapsed_time(self._end)) / 1e3

    def device_bytes(self) -> int:
        """Return the most memory that torch's allocator had handed out at once, which excludes the CUDA context."""
        return int(self._cuda.max_memory_allocated())

    def describe(self) -> Description:
        dtypes = sorted({str(parameter.dtype) for parameter in self._network.parameters()})
        departures = [] if self._compilation is None else self._compilation.departures()
        if dtypes != ["torch.float32"]:
            departures.append(f"parameters are {', '.join(dtypes)}, asked for torch.float32")
        departures += [f"TF32 is on in {name}, asked for float32" for name in self._in_tf32()]
        return Description(
            runtime=f"PyTorch {self._compilation.words if self._compilation else 'eager'}, no CUDA graph",
            version=self._torch.__version__,
            device=self._cuda.get_device_name(0),
            precision="fp32 (TF32 off)" if not departures else f"{', '.join(dtypes)} (see departures)",
            threads=None,
            departures=departures,
        )

    def _in_tf32(self) -> list[str]:
        backends = self._torch.backends
        switches = {"matrix products": backends.cuda.matmul.allow_tf32, "convolutions": backends.cudnn.allow_tf32}
        return [name for name, on in switches.items() if on]

    def close(self) -> None:
        self._stream.synchronize()
        del self._network, self._call, self._compilation, self._input_bchw, self._output_bc
