"""PyTorch eager in float32 on the CPU: what the checkpoint does before anybody converts it, and the speed to beat."""

from __future__ import annotations

import numpy as np

from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from harness.core.cases import case_named
from harness.core.models import model_from_checkpoint


class PytorchEager:
    """A network with its input tensor; `step` leaves the output tensor for `fetch`."""

    def __init__(self, request: LoadRequest) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(request.threads)
        # The default; said, because another library in this process could have lowered it.
        torch.set_float32_matmul_precision("highest")
        self._threads = request.threads
        self._network = model_from_checkpoint(case_named(request.case), request.artifact)
        self._input_bchw = torch.zeros(request.batch_size, 3, request.image_px, request.image_px)
        self._output_bc = torch.zeros(request.batch_size, request.class_count)

    def bind(self, images: Images) -> None:
        self._input_bchw.copy_(self._torch.from_numpy(images))

    def step(self) -> None:
        with self._torch.inference_mode():
            self._output_bc = self._network(self._input_bchw)

    def sync(self) -> None:
        """Nothing is queued on the CPU."""

    def fetch(self) -> Float32s:
        return np.array(self._output_bc.numpy(), copy=True)

    def fetch_answers(self) -> None:
        """A checkpoint gives logits only."""

    def describe(self) -> Description:
        dtypes = sorted({str(parameter.dtype) for parameter in self._network.parameters()})
        departures = []
        if dtypes != ["torch.float32"]:
            departures.append(f"parameters are {', '.join(dtypes)}, asked for torch.float32")
        if self._torch.get_num_threads() != self._threads:
            departures.append(f"{self._torch.get_num_threads()} threads, asked for {self._threads}")
        return Description(
            runtime="PyTorch eager",
            version=self._torch.__version__,
            device="CPU",
            precision="fp32" if dtypes == ["torch.float32"] else ", ".join(dtypes),
            threads=self._torch.get_num_threads(),
            departures=departures,
        )

    def close(self) -> None:
        del self._network


def load(request: LoadRequest) -> Backend:
    """Load a checkpoint; raise ArtifactError where it is of another network."""
    return PytorchEager(request)
