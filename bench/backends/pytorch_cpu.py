"""PyTorch in float32 on the CPU: eager, which is the speed to beat, and torch.compile with inductor.

Eager is what the checkpoint does before anybody converts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from bench.backends.pytorch_compilation import Compilation
from harness.core.cases import case_named
from harness.core.models import model_from_checkpoint


def load(request: LoadRequest) -> Backend:
    """Load a checkpoint; raise ArtifactError where it is of another network."""
    return PytorchCpu(request)


def load_compiled(request: LoadRequest) -> Backend:
    """Load a checkpoint and compile it for this batch size; raise BackendError where that does not work."""
    return PytorchCpu(request, compiled=True)


class PytorchCpu:
    """A network with its input tensor; `step` leaves the output tensor for `fetch`."""

    def __init__(self, request: LoadRequest, *, compiled: bool = False) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(request.threads)
        # The default; said, because another library in this process could have lowered it.
        torch.set_float32_matmul_precision("highest")
        self._threads = request.threads
        self._network = model_from_checkpoint(case_named(request.case), request.artifact)
        self._input_bchw = torch.zeros(request.batch_size, 3, request.image_px, request.image_px)
        self._output_bc = torch.zeros(request.batch_size, request.class_count)
        self._compilation = Compilation(self._network, self._input_bchw) if compiled else None
        self._call: Any = self._compilation.network if self._compilation else self._network

    def bind(self, images: Images) -> None:
        self._input_bchw.copy_(self._torch.from_numpy(images))

    def step(self) -> None:
        with self._torch.inference_mode():
            self._output_bc = self._call(self._input_bchw)

    def sync(self) -> None:
        """Nothing is queued on the CPU."""

    def fetch(self) -> Float32s:
        return np.array(self._output_bc.numpy(), copy=True)

    def fetch_answers(self) -> None:
        """A checkpoint gives logits only."""

    def describe(self) -> Description:
        dtypes = sorted({str(parameter.dtype) for parameter in self._network.parameters()})
        departures = [] if self._compilation is None else self._compilation.departures()
        if dtypes != ["torch.float32"]:
            departures.append(f"parameters are {', '.join(dtypes)}, asked for torch.float32")
        if self._torch.get_num_threads() != self._threads:
            departures.append(f"{self._torch.get_num_threads()} threads, asked for {self._threads}")
        return Description(
            runtime=f"PyTorch {self._compilation.words if self._compilation else 'eager'}",
            version=self._torch.__version__,
            device="CPU",
            precision="fp32" if dtypes == ["torch.float32"] else ", ".join(dtypes),
            threads=self._torch.get_num_threads(),
            departures=departures,
        )

    def close(self) -> None:
        del self._network, self._call, self._compilation
