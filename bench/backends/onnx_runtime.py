"""ONNX Runtime on the CPU, with bound input and output, and proof of where every node ran.

ONNX Runtime falls back to another provider without an error; the assignment record is the only thing that tells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends.interface import Backend, Description, Float32s, Images, LoadRequest
from harness.core.errors import BackendError

CPU_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime:
    """A session with fixed input and output memory."""

    def __init__(self, request: LoadRequest) -> None:
        import onnxruntime

        self._version = onnxruntime.__version__
        self._threads = request.threads
        self._precision = request.form.precision  # The file's: without a cast in it, ONNX Runtime adds none.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(request.artifact), options, providers=[CPU_PROVIDER])
            self._memory = _arrays(request)
            names = [each.name for each in (*self._session.get_inputs(), *self._session.get_outputs())]
            if len(names) != len(self._memory):
                raise other_ends(request, names)
            self._binding = self._session.io_binding()
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array, "cpu", 0) for array in self._memory]
            self._input, *self._outputs = values
            self._binding.bind_ortvalue_input(names[0], self._input)
            for name, output in zip(names[1:], self._outputs, strict=True):
                self._binding.bind_ortvalue_output(name, output)
        except runtime_errors() as error:
            raise refused(request, error) from error

    def bind(self, images: Images) -> None:
        try:
            self._input.update_inplace(images)
        except runtime_errors() as error:
            raise BackendError(
                f"ONNX Runtime does not take images of the shape {images.shape}: {error}",
                hint="Load the model for this batch size.",
            ) from error

    def step(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except runtime_errors() as error:
            raise BackendError(
                f"ONNX Runtime failed: {error}", hint="Export it again: `harness export --force`."
            ) from error

    def sync(self) -> None:
        self._binding.synchronize_outputs()

    def fetch(self) -> Float32s:
        return np.array(self._outputs[0].numpy(), copy=True)

    def fetch_answers(self) -> npt.NDArray[np.int64] | None:
        return np.array(self._outputs[1].numpy(), copy=True) if len(self._outputs) > 1 else None

    def describe(self) -> Description:
        departures = assignment_departures(self._session, CPU_PROVIDER)
        threads = self._session.get_session_options().intra_op_num_threads
        if threads != self._threads:
            departures.append(f"{threads} threads, asked for {self._threads}")
        return Description(
            runtime="ONNX Runtime",
            version=self._version,
            device="CPU",
            precision=self._precision,
            threads=threads,
            departures=departures,
            metadata=dict(self._session.get_modelmeta().custom_metadata_map),
        )

    def close(self) -> None:
        del self._binding, self._session


def _arrays(request: LoadRequest) -> list[npt.NDArray[np.generic]]:
    """Return zeroed memory for the input and every output."""
    arrays: list[npt.NDArray[np.generic]] = [
        np.zeros(request.input_shape, dtype=request.input_type),
        np.zeros((request.batch_size, request.class_count), dtype=np.float32),
    ]
    if request.form.probabilities:
        arrays.append(np.zeros(request.batch_size, dtype=np.int64))
    return arrays


def assignment_departures(session: Any, provider: str) -> list[str]:
    """Say which nodes ran elsewhere than asked for, by the session's own record."""
    nodes: dict[str, int] = {}
    for group in session.get_provider_graph_assignment_info():
        nodes[group.ep_name] = nodes.get(group.ep_name, 0) + len(group.get_nodes())
    if not nodes:  # An empty record proves nothing.
        return [f"ONNX Runtime does not tell where its nodes ran, asked for {provider}"]
    return [f"{count} nodes ran on {name}, asked for {provider}" for name, count in nodes.items() if name != provider]


def refused(request: LoadRequest, error: Exception) -> BackendError:
    return BackendError(
        f"ONNX Runtime cannot load {request.artifact}: {error}", hint="Export it again: `harness export --force`."
    )


def other_ends(request: LoadRequest, names: list[str]) -> BackendError:
    return BackendError(
        f"{request.artifact.name} has the inputs and outputs {', '.join(names)}, which is no {request.variant}.",
        hint="Export it again: `harness export --force`.",
    )


def runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime raises one class per status code, with RuntimeError as the only common ancestor of some."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = tuple(value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError)


def load(request: LoadRequest) -> Backend:
    """Load an ONNX file; raise BackendError where ONNX Runtime refuses it."""
    return OnnxRuntime(request)
