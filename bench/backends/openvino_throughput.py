"""OpenVINO on the CPU in its throughput mode: several streams, and a queue that keeps all of them busy.

The number of streams is OpenVINO's choice for the threads that it gets; the queue has as many requests as it says are
optimal. Both are read back. The four verbs use one more request of the same compiled model, so what is proved to answer
alike is what the queue runs.
"""

from __future__ import annotations

from bench.backends.interface import Backend, Description, Images, LoadRequest
from bench.backends.openvino_cpu import OpenvinoCpu, refused
from harness.core.errors import BackendError


def load(request: LoadRequest) -> Backend:
    """Compile an ONNX file for the CPU; raise BackendError where OpenVINO is absent or refuses it."""
    return OpenvinoThroughput(request)


class OpenvinoThroughput(OpenvinoCpu):
    """A compiled model with one request for the four verbs, and a queue of requests for `submit` and `wait`."""

    def __init__(self, request: LoadRequest) -> None:
        super().__init__(request, hint="THROUGHPUT")
        import openvino

        try:
            self.request_count = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            self._queue = openvino.AsyncInferQueue(self._compiled, self.request_count)
        except RuntimeError as error:
            raise refused(request, error) from error
        self._inputs = [each.get_input_tensor(0).data for each in self._queue]

    def submit(self, images: Images) -> None:
        """Copy the images into the next idle request and start it; wait for one where none is idle.

        Raises BackendError where a request failed, this one or one before it.
        """
        try:
            # It stays the first in line until it is started: this thread is the only one that starts any.
            self._inputs[self._queue.get_idle_request_id()][:] = images
            self._queue.start_async()
        except RuntimeError as error:
            raise _failed(error) from error

    def wait(self) -> None:
        """Wait for every request; raise BackendError where one failed."""
        try:
            self._queue.wait_all()
        except RuntimeError as error:
            raise _failed(error) from error

    def describe(self) -> Description:
        described = super().describe()
        streams = int(self._compiled.get_property("NUM_STREAMS"))
        words = f"{described.runtime} (throughput; streams {streams}, requests {self.request_count})"
        departures = list(described.departures)
        if len(self._queue) != self.request_count:
            departures.append(f"a queue of {len(self._queue)} requests, asked for {self.request_count}")
        return described.model_copy(update={"runtime": words, "departures": departures})

    def close(self) -> None:
        self._queue.wait_all()  # A request that is still running writes into memory of the model.
        self._inputs.clear()
        del self._queue
        super().close()


def _failed(error: RuntimeError) -> BackendError:
    return BackendError(f"OpenVINO failed: {error}", hint="Export it again: `harness export --force`.")
