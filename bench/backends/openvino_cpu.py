"""OpenVINO on the CPU, in its latency mode unless a queue is built on it, static shape, precision set and read back.

Left alone, OpenVINO computes a float32 file in bfloat16 on processors that have it, which is another model at
another speed; and it computes a bfloat16 file in bfloat16 even where float32 was hinted. So the types in which the
layers really run are read from the compiled model, and a layer in another type than the file's is a departure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from harness.core.errors import BackendError

# float16 files: a CPU without its own float16 arithmetic multiplies the rounded weights in float32.
_HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32", "int8-u8s8": "f32"}
_ALLOWED = {
    "fp32": {"f32"},
    "fp16": {"f32", "f16"},
    "bf16": {"bf16"},
    # The first and last layer may stay float, and so may those that the export kept in float.
    "int8": {"i8", "u8", "f32"},
    "int8-u8s8": {"i8", "u8", "f32"},
}
_WORDS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_COMPUTING = frozenset({"Convolution", "FullyConnected", "MatMul"})
_METADATA_ROOT = "cxr_harness"
_REMEDY = "Install the extra: `pip install -e '.[openvino]' -c constraints.txt`."


class OpenvinoCpu:
    """A compiled model with one request, whose tensors are read and written in place."""

    def __init__(self, request: LoadRequest, *, hint: str = "LATENCY") -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError(f"OpenVINO cannot be imported: {error}.", hint=_REMEDY) from error

        self._version = openvino.get_version()
        self._threads = request.threads
        self._precision = request.form.precision
        self._has_answers = request.form.probabilities
        self._hint = hint
        try:
            core = openvino.Core()
            model = core.read_model(str(request.artifact))
            self._metadata = _metadata(model) if request.artifact.suffix == ".xml" else None
            model.reshape(list(request.input_shape))
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": hint,
                    "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
                    "INFERENCE_NUM_THREADS": request.threads,
                },
            )
            self._request = self._compiled.create_infer_request()
            if len(self._compiled.outputs) != 1 + self._has_answers:
                count = len(self._compiled.outputs)
                raise BackendError(
                    f"{request.artifact.name} has {count} outputs, which is no {request.variant}.",
                    hint="Export it again: `harness export --force`.",
                )
            self._input = self._request.get_input_tensor(0).data
            self._output_bc = self._request.get_output_tensor(0).data
            if self._input.dtype != request.input_type:
                raise BackendError(
                    f"{request.artifact.name} takes {self._input.dtype}, which is no {request.variant}.",
                    hint="Export it again: `harness export --force`.",
                )
        except RuntimeError as error:
            raise refused(request, error) from error

    def bind(self, images: Images) -> None:
        self._input[:] = images

    def step(self) -> None:
        self._request.start_async()

    def sync(self) -> None:
        self._request.wait()

    def fetch(self) -> Float32s:
        return np.array(self._output_bc, copy=True)

    def fetch_answers(self) -> npt.NDArray[np.int64] | None:
        if not self._has_answers:
            return None
        return np.array(self._request.get_output_tensor(1).data, dtype=np.int64)

    def describe(self) -> Description:
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        computed = self._computed_types()
        threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        devices = list(self._compiled.get_property("EXECUTION_DEVICES"))
        departures = _type_departures(self._precision, computed)
        if hint != _HINTS[self._precision]:
            departures.append(f"the precision hint reads {hint}, asked for {_HINTS[self._precision]}")
        if threads != self._threads:
            departures.append(f"{threads} threads, asked for {self._threads}")
        mode = str(self._compiled.get_property("PERFORMANCE_HINT"))
        if mode != self._hint:
            departures.append(f"the performance hint reads {mode}, asked for {self._hint}")
        if devices != ["CPU"]:
            departures.append(f"runs on {', '.join(devices)}, asked for CPU")
        return Description(
            runtime="OpenVINO",
            version=self._version,
            device=", ".join(devices),
            precision=" + ".join(sorted({_WORDS.get(each, each) for each in computed})) or "unknown",
            threads=threads,
            departures=departures,
            metadata=self._metadata,
        )

    def _computed_types(self) -> set[str]:
        """Return the types in which the compiled model's convolutions and products run."""
        found = set()
        for operation in self._compiled.get_runtime_model().get_ops():
            information = operation.get_rt_info()
            if str(information["layerType"].astype(str)) in _COMPUTING:
                found.add(str(information["runtimePrecision"].astype(str)))
        return found

    def close(self) -> None:
        del self._request, self._compiled


def refused(request: LoadRequest, error: RuntimeError) -> BackendError:
    return BackendError(
        f"OpenVINO cannot load {request.artifact}: {error}", hint="Export it again: `harness export --force`."
    )


def _type_departures(precision: str, computed: set[str]) -> list[str]:
    strange = computed - _ALLOWED[precision]
    if strange or not computed:
        return [f"layers compute in {', '.join(sorted(strange)) or 'nothing known'}, asked for {precision}"]
    if precision.startswith("int8") and not computed & {"i8", "u8"}:
        return [f"no layer computes in int8, all in {', '.join(sorted(computed))}, asked for {precision}"]
    return []


def _metadata(model: Any) -> dict[str, str]:
    """Return what the export wrote into the model's runtime information, under the names it has in ONNX."""
    if not model.has_rt_info([_METADATA_ROOT]):
        return {}
    entries = model.get_rt_info([_METADATA_ROOT]).value
    return {f"{_METADATA_ROOT}.{key}": str(getattr(value, "value", value)) for key, value in entries.items()}


def load(request: LoadRequest) -> Backend:
    """Compile an ONNX file for the CPU; raise BackendError where OpenVINO is absent or refuses it."""
    return OpenvinoCpu(request)
