"""OpenVINO's benchmark_app beside our clock: its own loops on our compiled model and our request, block by block.

benchmark_app reads the C++ clock of a request (`latency`) and never copies an image after the first. Ours is a host
clock around step and sync; every call is given its image before, and the answer is taken out after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.backends.interface import Images
from bench.backends.openvino_cpu import OpenvinoCpu
from bench.backends.openvino_throughput import OpenvinoThroughput
from bench.peers.alternating import Extent, alternated
from bench.peers.passing import Passing
from bench.peers.subject import SETTLE_CALLS, OpenWorker, Subject, loaded
from bench.peers.telling import Line

_PERCENTILE = 50


class SharedRequest(OpenvinoCpu):
    """Our backend, whose request benchmark_app runs too; the C++ clock counts as a timer of the device."""

    @property
    def request(self) -> Any:
        return self._request

    def device_time_s(self) -> float:
        return float(self._request.latency) / 1e3


class SharedQueue(OpenvinoThroughput):
    """Our backend, whose queue benchmark_app runs too."""

    @property
    def queue(self) -> Any:
        return self._queue


class FilledOnce(Passing):
    """The same request, which computes the image that it holds again and again, as benchmark_app does."""

    def bind(self, images: Images) -> None:
        """Leave the image where it is."""


class WithoutCopies(Passing):
    """The same queue, every request of which computes the image that it holds again and again."""

    def __init__(self, backend: SharedQueue) -> None:
        super().__init__(backend)
        self._shared = backend

    @property
    def request_count(self) -> int:
        return self._shared.request_count

    def submit(self, images: Images) -> None:  # noqa: ARG002  # they are not copied
        self._shared.queue.get_idle_request_id()
        self._shared.queue.start_async()

    def wait(self) -> None:
        self._shared.wait()

    def close(self) -> None:
        """The queue is somebody else's."""


class _OneImage:
    """What benchmark_app asks for its inputs; nothing but the size of a batch is wanted from it."""

    def get_next_batch_size(self) -> int:
        return 1


def _application(kind: str, calls: int, requests: int) -> Any:
    """Return benchmark_app's own loops, set to a number of calls instead of a time."""
    from openvino.tools.benchmark.benchmark import Benchmark

    return Benchmark("CPU", requests, calls, 0, kind, inference_only=True)


def latency_lines(subject: Subject, extent: Extent) -> list[Line]:
    """Return our boundaries, and the C++ clock of our calls, each beside benchmark_app's median."""
    from openvino.tools.benchmark.benchmark import percentile

    with loaded(SharedRequest, subject) as backend:
        message = subject.load_message("openvino")
        worker, repeating = OpenWorker(message, backend), OpenWorker(message, FilledOnce(backend))
        application, request, images = _application("sync", extent.calls, 1), backend.request, _OneImage()

        def ours() -> Mapping[str, float]:
            timed = worker.timed(extent.calls)
            boundaries = {
                "compute": timed.compute_s,
                "end to end": timed.end_to_end_s,
                "C++ clock": timed.device_s,
            }
            return {name: median(samples_s) for name, samples_s in boundaries.items()}

        def filled_once() -> Mapping[str, float]:
            return {"compute, filled once": median(repeating.timed(extent.calls).compute_s)}

        def theirs() -> Mapping[str, float]:
            for _ in range(SETTLE_CALLS):
                request.infer()
            latencies_ms, _, _ = application.sync_inference(request, images)
            return {"theirs": percentile(latencies_ms, _PERCENTILE) / 1e3}

        found = alternated(
            {"ours": ours, "theirs": theirs, "filled once": filled_once}, extent.rounds, wait=extent.wait
        )
    words = {
        "compute": "COMPUTE: step + sync, perf_counter, each image copied in before",
        "compute, filled once": "COMPUTE: step + sync, perf_counter, image filled once",
        "end to end": "END TO END: bind + step + sync + fetch, perf_counter",
        "C++ clock": "the request's C++ clock of the same calls",
    }
    return [
        Line.of_durations(
            f"benchmark_app latency, {name}",
            found,
            name,
            boundaries=f"ours {words[name]}; theirs: percentile {_PERCENTILE} of the C++ clock, image filled once",
        )
        for name in words
    ]


def throughput_lines(subject: Subject, extent: Extent) -> list[Line]:
    """Return images per second of our queue without and with copies in, each beside benchmark_app's."""
    with loaded(SharedQueue, subject) as backend:
        message = subject.load_message("openvino")
        copying, repeating = OpenWorker(message, backend), OpenWorker(message, WithoutCopies(backend))
        application, images = _application("async", extent.queued_calls, len(backend.queue)), _OneImage()

        def per_second(worker: OpenWorker) -> float:
            queue_s = worker.timed(extent.queued_calls).queue_s
            assert queue_s is not None, "a backend with a queue is timed through it"
            return 1 / queue_s

        def theirs() -> Mapping[str, float]:
            for _ in range(SETTLE_CALLS):
                backend.queue.start_async()
            backend.queue.wait_all()
            _, duration_s, count = application.async_inference_only(backend.queue, images)
            return {"theirs": count / duration_s}

        blocks = {
            "without copies": lambda: {"without copies": per_second(repeating)},
            "theirs": theirs,
            "with copies": lambda: {"with copies": per_second(copying)},
        }
        found = alternated(blocks, extent.rounds, wait=extent.wait)
        boundary = f"from the first start until all are done, {len(backend.queue)} requests"
    words = {"without copies": "no image is copied, as theirs", "with copies": "each image copied in, as our trials do"}
    return [
        Line.of_rates(
            f"benchmark_app throughput, {name}", found, name, boundaries=f"both {boundary}; ours: {words[name]}"
        )
        for name in words
    ]
