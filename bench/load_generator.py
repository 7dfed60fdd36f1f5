"""The process in which MLCommons LoadGen drives one loaded model, started as `python -P -m bench.load_generator`.

LoadGen is C++ that calls back into Python: an exception that leaves a callback ends the interpreter by a segmentation
fault, and a query that is never completed waits for ever. Hence a process of its own with a limit on its time, and
callbacks that let nothing out.

Shapes: b batch, c classes, n images, and [h, w, 3] or [3, h, w] written as `...`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bench.backends.interface import Backend, Images
from bench.load_messages import Drive, Driven, Prepare, Prepared, Rest, Rested
from bench.load_settings import loadgen_settings
from bench.worker import Worker, reply_to, serve
from harness.core.errors import BackendError

# 150 MB of float32 at 224 px: more than any cache, less than would hurt.
_MOST_IMAGES = 256
_TOLERANCE = 1e-3
# LoadGen reads audit.config from the current folder unless told another name, and obeys it without a word.
_NO_AUDIT = "no-audit.config"
# Of the settings that LoadGen was given, those that decide which images in which order at which times.
_SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")


@runtime_checkable
class QueuedBackend(Protocol):
    """A backend that works on several batches at once: `submit` takes one, `wait` returns when all are done."""

    def submit(self, images: Images) -> None: ...

    def wait(self) -> None: ...


class LoadedModel(Worker):
    """A worker's model that has proved to be the one that was judged."""

    def __init__(self, message: Prepare) -> None:
        super().__init__(message.load)
        self._class_count = message.load.request.class_count
        self.prepared = self._compared(np.array(message.stored_bc, dtype=np.float32))

    def _compared(self, stored_bc: np.ndarray[Any, np.dtype[np.float32]]) -> Prepared:
        """Answer the first rows again; raise BackendError where the answers are others than the stored ones."""
        rows = self._rows[: len(stored_bc)]
        outputs = [self._call(batch) for batch in self._batches_of(rows, self._batch_size)]
        outputs_bc = np.concatenate(outputs)[: len(rows)]
        difference = float(np.abs(outputs_bc - stored_bc).max()) if outputs_bc.shape == stored_bc.shape else np.inf
        # NaN is below no tolerance.
        if not difference <= _TOLERANCE * (1 + float(np.abs(stored_bc).max())):
            raise BackendError(
                f"The model answers otherwise than when it was judged: outputs differ by up to {difference:.3g}.",
                hint="Run `harness bench --force`: it judges again.",
            )
        return Prepared(
            load_s=self.load_s,
            description=self._backend.describe(),
            compared_rows=len(rows),
            largest_difference=difference,
        )

    def drive(self, message: Drive) -> Driven:
        """Let LoadGen drive the model; raise what the model raised, after LoadGen has come to its end."""
        rows = self._rows[:_MOST_IMAGES]
        images = np.concatenate(list(self._batches_of(rows, 1)))
        served = ServedModel(self._backend, images, self._batch_size, self._class_count, message.settings.scenario)
        cpu_started_s = time.process_time()
        given = _run_loadgen(served, message, len(images))
        cpu_s = time.process_time() - cpu_started_s
        if served.failure is not None:
            raise served.failure
        return Driven(cpu_s=cpu_s, seeds={name: getattr(given, name) for name in _SEEDS}, image_count=len(images))

    def rest(self, message: Rest) -> Rested:
        first_call_s = []
        for _ in range(message.repeats):
            time.sleep(message.pause_s)
            started_s = time.perf_counter()
            self._call(self._batches[0])
            first_call_s.append(time.perf_counter() - started_s)
            for index in range(message.settle_calls):
                self._call(self._batches[index % len(self._batches)])
        return Rested(first_call_s=first_call_s)


class ServedModel:
    """LoadGen's system under test: `issue` is called with the queries, every one of which is completed."""

    def __init__(self, backend: Backend, images: Images, batch_size: int, class_count: int, scenario: str) -> None:
        self._backend, self._images = backend, images
        self._batch_size = batch_size
        self._batch = np.empty((batch_size, *images.shape[1:]), dtype=images.dtype)
        # LoadGen is given addresses: asking an array for its own costs 5 to 20 us a query, so it is done once.
        self._outputs_bc = np.zeros((batch_size, class_count), dtype=np.float32)
        first = int(self._outputs_bc.__array_interface__["data"][0])
        self._row_bytes = self._outputs_bc.strides[0]
        self._addresses = [first + row * self._row_bytes for row in range(batch_size)]
        self.failure: Exception | None = None
        self._queue: SimpleQueue[list[tuple[int, int]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        serve_query = self._answer_all
        if scenario == "offline" and isinstance(backend, QueuedBackend):
            serve_query = self._submit_all
        self._serve_query = serve_query
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

    def _guarded(self, query: list[tuple[int, int]]) -> None:
        """Serve a query; after a failure complete it and all that follow without an answer, so that LoadGen ends."""
        done = 0
        if self.failure is None:
            try:
                for done in self._serve_query(query):  # noqa: B007  # how far it got is needed after a failure
                    pass
            except Exception as error:  # noqa: BLE001  # whatever leaves a callback ends the interpreter
                self.failure = error
        _complete([(number, 0) for number, _ in query[done:]], 0)

    def _answer_all(self, query: list[tuple[int, int]]) -> Any:
        """Answer in batches, and yield how many samples are completed."""
        size = self._batch_size
        for start in range(0, len(query), size):
            chunk = query[start : start + size]
            indices = [index for _, index in chunk]
            outputs_bc = self._outputs_of(indices)
            self._outputs_bc[:] = outputs_bc
            _complete([(number, self._addresses[row]) for row, (number, _) in enumerate(chunk)], self._row_bytes)
            yield start + len(chunk)

    def _outputs_of(self, indices: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
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

    def _submit_all(self, query: list[tuple[int, int]]) -> Any:
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


def _run_loadgen(served: ServedModel, message: Drive, image_count: int) -> Any:
    """Run one test, logs and trace in the message's folder; return the settings it was given."""
    import mlperf_loadgen

    folder: Path = message.folder
    folder.mkdir(parents=True, exist_ok=True)  # Without it LoadGen prints a line and aborts the process.
    given = loadgen_settings(message.settings, image_count)
    logs, output = mlperf_loadgen.LogSettings(), mlperf_loadgen.LogOutputSettings()
    output.outdir = str(folder)
    logs.log_output = output
    logs.enable_trace = True  # The only place that has the latency of every query.
    system = mlperf_loadgen.ConstructSUT(served.issue, served.flush)
    # All images are in memory already, so there is nothing to load or to unload.
    library = mlperf_loadgen.ConstructQSL(image_count, image_count, _ignored, _ignored)
    try:
        mlperf_loadgen.StartTestWithLogSettings(system, library, given, logs, str(folder / _NO_AUDIT))
    finally:
        mlperf_loadgen.DestroyQSL(library)
        mlperf_loadgen.DestroySUT(system)
        served.close()
    return given


def _ignored(indices: Sequence[int]) -> None:
    """Take LoadGen's word on which images it is going to use."""


def _reply_to(request: dict[str, Any], model: Worker | None) -> tuple[Worker | None, str]:
    """Serve what a worker does not know; warming up and timing in a closed loop are a worker's."""
    kind = request["do"]
    if kind == "prepare":
        made = LoadedModel(Prepare.model_validate(request))
        return made, made.prepared.model_dump_json()
    if kind in ("drive", "rest"):
        assert isinstance(model, LoadedModel), "the first request is always `prepare`"
        if kind == "drive":
            return model, model.drive(Drive.model_validate(request)).model_dump_json()
        return model, model.rest(Rest.model_validate(request)).model_dump_json()
    return reply_to(request, model)


def main() -> None:
    """Serve scenarios and pauses."""
    serve(_reply_to)


if __name__ == "__main__":
    main()
