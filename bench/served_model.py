"""What LoadGen calls: a loaded model that completes every query it is given, whatever happens to it.

Queries are answered in LoadGen's own thread where it waits for the answer anyway, and in one of ours where it does not:
a busy model must not hold up the next arrival.

Shapes: b batch, c classes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from bench.backends.interface import Backend, Float32s, Images, QueuedBackend
from bench.load_settings import Scenario

# The number that LoadGen gave a sample, and the image it is about.
Sample = tuple[int, int]


class ServedModel:
    """LoadGen's system under test: `issue` is called with the queries, every one of which is completed."""

    def __init__(self, backend: Backend, images: Images, batch_size: int, class_count: int, scenario: Scenario) -> None:
        self._backend, self._images = backend, images
        self._batch_size = batch_size
        self._batch = np.empty((batch_size, *images.shape[1:]), dtype=images.dtype)
        # LoadGen is given addresses: asking an array for its own costs 5 to 20 us a query, so it is done once.
        self._outputs_bc = np.zeros((batch_size, class_count), dtype=np.float32)
        first = int(self._outputs_bc.__array_interface__["data"][0])
        self._row_bytes = self._outputs_bc.strides[0]
        self._addresses = [first + row * self._row_bytes for row in range(batch_size)]
        self.failure: Exception | None = None
        self._queue: SimpleQueue[list[Sample] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        queued = scenario == "offline" and isinstance(backend, QueuedBackend)
        self._serve_query = self._submit_all if queued else self._answer_all
        # One stream waits for its answer anyway; arrivals must not wait for the model.
        if scenario in ("server", "offline"):
            self._thread = threading.Thread(target=self._serve_queue, daemon=True)
            self._thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take a query from LoadGen. The samples are LoadGen's memory, so their numbers are copied."""
        query = [(each.id, each.index) for each in samples]
        if self._thread is None:
            self._guarded(query)
        else:
            self._queue.put(query)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _serve_queue(self) -> None:
        while (query := self._queue.get()) is not None:
            self._guarded(query)

    def _guarded(self, query: list[Sample]) -> None:
        """Serve a query; after a failure complete it and all that follow without an answer, so that LoadGen ends."""
        done = 0
        if self.failure is None:
            try:
                for done in self._serve_query(query):  # noqa: B007  # how far it got is needed after a failure
                    pass
            except Exception as error:  # noqa: BLE001  # whatever leaves a callback ends the interpreter
                self.failure = error
        _complete([(number, 0) for number, _ in query[done:]], 0)

    def _answer_all(self, query: list[Sample]) -> Iterator[int]:
        """Answer in batches, and yield how many samples are completed."""
        size = self._batch_size
        for start in range(0, len(query), size):
            chunk = query[start : start + size]
            indices = [index for _, index in chunk]
            self._outputs_bc[:] = self._outputs_of(indices)
            _complete([(number, self._addresses[row]) for row, (number, _) in enumerate(chunk)], self._row_bytes)
            yield start + len(chunk)

    def _outputs_of(self, indices: list[int]) -> Float32s:
        backend = self._backend
        if self._batch_size == 1:
            backend.bind(self._images[indices[0] : indices[0] + 1])
        else:
            padded = indices + indices[-1:] * (self._batch_size - len(indices))
            np.take(self._images, padded, axis=0, out=self._batch, mode="clip")
            backend.bind(self._batch)
        backend.step()
        backend.sync()
        return backend.fetch()

    def _submit_all(self, query: list[Sample]) -> Iterator[int]:
        """Hand all batches over at once; the answers are not looked at, and all count as completed at the end."""
        backend, size = self._backend, self._batch_size
        assert isinstance(backend, QueuedBackend)
        for start in range(0, len(query), size):
            indices = [index for _, index in query[start : start + size]]
            # A new array each, for the backend may still read the one before.
            backend.submit(self._images[indices + indices[-1:] * (size - len(indices))])
        backend.wait()
        _complete([(number, self._addresses[0]) for number, _ in query], self._row_bytes)
        yield len(query)


def _complete(samples: list[tuple[int, int]], size_bytes: int) -> None:
    """Complete samples, each given by its number and the address of its answer."""
    import mlperf_loadgen

    response = mlperf_loadgen.QuerySampleResponse
    mlperf_loadgen.QuerySamplesComplete([response(number, address, size_bytes) for number, address in samples])
