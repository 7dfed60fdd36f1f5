"""The process that holds one loaded model: parity and time are taken from this very instance.

Started as `python -P -m bench.worker`, so that a `bench/` or `train.py` in the user's folder cannot shadow ours.
Requests come on stdin, replies leave on the original stdout; whatever a runtime prints goes to the log.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.backends import BACKENDS, loader_at
from bench.backends.interface import (
    Backend,
    Float32s,
    Images,
    MeasuredMemory,
    QueuedBackend,
    TimedOnDevice,
)
from bench.messages import (
    BATCH_REPEATS,
    FIRST_REPEATS,
    ROW_REPEATS,
    Answer,
    Answered,
    Block,
    Load,
    Loaded,
    Recheck,
    Rechecked,
    Timed,
    Used,
    WarmedUp,
    WarmUp,
)
from bench.serving import serve
from harness.core.contract import Preprocessing
from harness.core.errors import BackendError
from harness.core.files import write_atomically
from harness.data.preprocessing import images_from_pixels

# Enough different images that a timed call does not always find its input in the cache.
_TIMED_BATCHES = 4
# Enough to fill a batch of each other size, and one batch's worth of images that are compared between small sizes.
_REPEATED_IMAGES = 8
# Up to this batch size every image is seen in every row; larger batches are moved on by powers of two.
_EVERY_SHIFT = 8
# A model of seconds per call is still called so often before it counts as warm.
_FEWEST_CALLS = 3


class Worker:
    """One loaded model and the images that it answers."""

    def __init__(self, message: Load) -> None:
        started_s = time.perf_counter()
        self._load = loader_at(BACKENDS[message.backend])
        self._request = message.request
        self._backend: Backend = self._load(message.request)
        self.load_s = time.perf_counter() - started_s
        self._pixels_bhwc: npt.NDArray[np.uint8] = np.load(message.images, mmap_mode="r")
        self._rows = np.array(message.rows, dtype=np.int64)
        self._preprocessing: Preprocessing = message.preprocessing
        self._batch_size = message.request.batch_size
        self._takes_pixels = message.request.form.uint8_input
        self._pair_hwc = message.pair.pixels_hwc()
        self._batches: list[Images] = []

    def loaded(self) -> Loaded:
        return Loaded(load_s=self.load_s, description=self._backend.describe())

    def _images(self, pixels_bhwc: npt.NDArray[np.uint8]) -> Images:
        """Return what the model takes: pixels as they are, or preprocessed."""
        if self._takes_pixels:
            return np.ascontiguousarray(pixels_bhwc)
        return images_from_pixels(pixels_bhwc, self._preprocessing)

    def _batches_of(self, rows: npt.NDArray[np.int64], batch_size: int) -> Iterator[Images]:
        """Yield full batches; the last is filled up with its own last image."""
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], batch_size - len(chunk))])
            yield self._images(self._pixels_bhwc[padded])

    def _call(self, images: Images) -> Float32s:
        return _outputs(self._backend, images)

    def answer(self, message: Answer) -> Answered:
        started_s = time.perf_counter()
        count = len(self._rows)
        outputs, answers = [], []
        for batch in self._batches_of(self._rows, self._batch_size):
            outputs.append(self._call(batch))
            answers_b = self._backend.fetch_answers()
            if answers_b is not None:
                answers.append(answers_b)
        pair_bhwc = np.repeat(self._pair_hwc[None], self._batch_size, axis=0)
        arrays: dict[str, Any] = {
            "rows": self._rows,
            "outputs_bc": np.concatenate(outputs)[:count],
            "pair_bc": self._call(self._images(pair_bhwc)),
        }
        if answers:
            arrays["answers_b"] = np.concatenate(answers)[:count]
        if self._batch_size > 1:
            arrays[ROW_REPEATS] = self._in_other_rows()
            arrays[FIRST_REPEATS] = self._first_in_every_row()
        refused = {}
        for batch_size in message.other_batches:
            try:
                arrays[f"{BATCH_REPEATS}{batch_size}"] = self._in_batches_of(batch_size)
            except BackendError as error:
                refused[batch_size] = error.message

        def write(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez(stream, **arrays)

        write_atomically(message.out, write)
        return Answered(duration_s=time.perf_counter() - started_s, refused_batches=refused)

    def _in_other_rows(self) -> Float32s:
        """Return outputs_kbc for the first batch again, its images moved on by so many rows and the outputs back."""
        batch, size = next(self._batches_of(self._rows, self._batch_size)), self._batch_size
        shifts = range(1, size) if size <= _EVERY_SHIFT else [1 << power for power in range(size.bit_length() - 1)]
        moved = [np.roll(self._call(np.roll(batch, shift, axis=0)), -shift, axis=0) for shift in shifts]
        return np.stack(moved)[:, : len(self._rows)]

    def _first_in_every_row(self) -> Float32s:
        """Return outputs_k1c for the first image, as they came out of every row of one batch of it."""
        batch = next(self._batches_of(np.repeat(self._rows[:1], self._batch_size), self._batch_size))
        return self._call(batch)[:, None]

    def _in_batches_of(self, batch_size: int) -> Float32s:
        """Return outputs_bc for the first images from a second instance; raises BackendError where it is refused."""
        rows = self._rows[: max(batch_size, _REPEATED_IMAGES)]
        other: Backend = self._load(self._request.model_copy(update={"batch_size": batch_size}))
        try:
            outputs = [_outputs(other, batch) for batch in self._batches_of(rows, batch_size)]
        finally:
            other.close()
        return np.concatenate(outputs)[: len(rows)]

    def recheck(self, message: Recheck) -> Rechecked:
        rows = self._rows[: message.count]
        batches = list(self._batches_of(rows, self._batch_size))
        started_s = time.perf_counter()
        outputs = [self._call(batches[0])]
        first_call_s = time.perf_counter() - started_s
        outputs += [self._call(batch) for batch in batches[1:]]
        return Rechecked(outputs=np.concatenate(outputs)[: len(rows)].tolist(), first_call_s=first_call_s)

    def warm_up(self, message: WarmUp) -> WarmedUp:
        rows = self._rows[: _TIMED_BATCHES * self._batch_size]
        self._batches = list(self._batches_of(rows, self._batch_size))
        started_s = time.perf_counter()
        calls_s: list[float] = []
        elapsed_s = 0.0
        while len(calls_s) < message.calls or elapsed_s < message.duration_s:
            if len(calls_s) >= _FEWEST_CALLS and elapsed_s > message.most_s:
                break
            self._call(self._batches[len(calls_s) % len(self._batches)])
            elapsed_s, before_s = time.perf_counter() - started_s, elapsed_s
            calls_s.append(elapsed_s - before_s)
        at_once = 1
        if isinstance(self._backend, QueuedBackend):
            at_once = self._backend.request_count
            for index in range(2 * at_once):  # The queue's requests are others than that of the verbs.
                self._backend.submit(self._batches[index % len(self._batches)])
            self._backend.wait()
        return WarmedUp(
            at_once=at_once,
            calls=len(calls_s),
            duration_s=elapsed_s,
            later_call_s=statistics.median(calls_s[len(calls_s) // 2 :]),
        )

    def block(self, message: Block) -> Timed:
        """Time calls on the host's monotonic clock; the same four verbs and the same clock for every runtime."""
        cpu_started_s = time.process_time()
        if isinstance(self._backend, QueuedBackend) and not message.call_by_call:
            timed = self._queued_block(self._backend, message)
        else:
            timed = self._closed_loop(message)
        return timed.model_copy(update={"cpu_s": time.process_time() - cpu_started_s})

    def _closed_loop(self, message: Block) -> Timed:
        backend, batches, clock = self._backend, self._batches, time.perf_counter
        on_device = backend if isinstance(backend, TimedOnDevice) else None
        compute_s, end_to_end_s = [0.0] * message.calls, [0.0] * message.calls
        device_s: list[float] = []
        with _no_collection():
            for index in range(message.settle_calls):
                self._call(batches[index % len(batches)])
            for index in range(message.calls):
                images = batches[index % len(batches)]
                started_s = clock()
                backend.bind(images)
                bound_s = clock()
                backend.step()
                backend.sync()
                computed_s = clock()
                backend.fetch()
                end_to_end_s[index] = clock() - started_s
                compute_s[index] = computed_s - bound_s
                if on_device is not None:
                    device_s.append(on_device.device_time_s())
        # Nanoseconds are what the clock has; more digits would only fill the record.
        return Timed(compute_s=_rounded(compute_s), end_to_end_s=_rounded(end_to_end_s), device_s=device_s, cpu_s=0.0)

    def _queued_block(self, backend: QueuedBackend, message: Block) -> Timed:
        """Time the whole block from the first submission until all is done; images are copied in, too."""
        batches, clock = self._batches, time.perf_counter
        with _no_collection():
            for index in range(message.settle_calls):
                backend.submit(batches[index % len(batches)])
            backend.wait()
            started_s = clock()
            for index in range(message.calls):
                backend.submit(batches[index % len(batches)])
            backend.wait()
            elapsed_s = clock() - started_s
        return Timed(queue_s=elapsed_s / message.calls, cpu_s=0.0)

    def usage(self) -> Used:
        on_device = self._backend.device_bytes() if isinstance(self._backend, MeasuredMemory) else None
        return Used(peak_memory_bytes=peak_resident_bytes(), device_memory_bytes=on_device)

    def close(self) -> None:
        self._backend.close()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect garbage now and none until the end.

    To be entered before the settling calls: a collection walks all of the heap, and the next calls find cold caches
    and sleeping threads.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def peak_resident_bytes() -> int:
    """Return the largest resident memory of this process.

    Not from getrusage, which on Linux carries over what the parent had at the moment of the fork.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _rounded(samples_s: list[float]) -> list[float]:
    return [round(each, 9) for each in samples_s]


def _outputs(backend: Backend, images: Images) -> Float32s:
    backend.bind(images)
    backend.step()
    backend.sync()
    return backend.fetch()


def reply_to(request: dict[str, Any], worker: Worker | None) -> tuple[Worker | None, str]:
    """Return the worker, made by the first request, and its reply."""
    kind = request["do"]
    if kind == "load":
        worker = Worker(Load.model_validate(request))
        return worker, worker.loaded().model_dump_json()
    assert worker is not None, "the first request is always `load`"
    if kind == "answer":
        return worker, worker.answer(Answer.model_validate(request)).model_dump_json()
    if kind == "recheck":
        return worker, worker.recheck(Recheck.model_validate(request)).model_dump_json()
    if kind == "usage":
        return worker, worker.usage().model_dump_json()
    if kind == "warm up":
        return worker, worker.warm_up(WarmUp.model_validate(request)).model_dump_json()
    return worker, worker.block(Block.model_validate(request)).model_dump_json()


def main() -> None:
    """Serve the bench."""
    serve(reply_to)


if __name__ == "__main__":
    main()
