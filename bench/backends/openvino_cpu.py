"""OpenVINO on the CPU in its latency mode, static shape, precision set and read back.

Left alone, OpenVINO computes a float32 file in bfloat16 on processors that have it, which is another model at
another speed; every figure here is of the precision that was asked for.
"""

from __future__ import annotations

import numpy as np

from bench.backends.interface import Backend, Description, Float32s, LoadRequest
from harness.core.errors import BackendError

_REMEDY = "Install the extra: `pip install -e '.[openvino]' -c constraints.txt`."


class OpenvinoCpu:
    """A compiled model with one request, whose tensors are read and written in place."""

    def __init__(self, request: LoadRequest) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError(f"OpenVINO cannot be imported: {error}.", hint=_REMEDY) from error

        self._version = openvino.get_version()
        self._threads = request.threads
        try:
            core = openvino.Core()
            model = core.read_model(str(request.artifact))
            model.reshape([request.batch_size, 3, request.image_px, request.image_px])
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",
                    "INFERENCE_NUM_THREADS": request.threads,
                },
            )
            self._request = self._compiled.create_infer_request()
            self._input_bchw = self._request.get_input_tensor(0).data
            self._output_bc = self._request.get_output_tensor(0).data
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot load {request.artifact}: {error}",
                hint="Export it again: `harness export --force`.",
            ) from error

    def bind(self, images_bchw: Float32s) -> None:
        self._input_bchw[:] = images_bchw

    def step(self) -> None:
        self._request.start_async()

    def sync(self) -> None:
        self._request.wait()

    def fetch(self) -> Float32s:
        return np.array(self._output_bc, copy=True)

    def describe(self) -> Description:
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        devices = list(self._compiled.get_property("EXECUTION_DEVICES"))
        departures = []
        if precision != "f32":
            departures.append(f"computes in {precision}, asked for f32")
        if threads != self._threads:
            departures.append(f"{threads} threads, asked for {self._threads}")
        if devices != ["CPU"]:
            departures.append(f"runs on {', '.join(devices)}, asked for CPU")
        return Description(
            runtime="OpenVINO",
            version=self._version,
            device=", ".join(devices),
            precision={"f32": "fp32", "f16": "fp16", "bf16": "bf16"}.get(precision, precision),
            threads=threads,
            departures=departures,
        )

    def close(self) -> None:
        del self._request, self._compiled


def load(request: LoadRequest) -> Backend:
    """Compile an ONNX file for the CPU; raise BackendError where OpenVINO is absent or refuses it."""
    return OpenvinoCpu(request)
