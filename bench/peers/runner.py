"""Polygraphy's ONNX Runtime runner beside our trial of it, on one session.

Its `last_inference_time` is `session.run` on the caller's array, which is not copied, and on outputs that ONNX Runtime
allocates. Ours, end to end, copies the image into bound memory and the answer out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util
from statistics import median
from typing import Any

from bench.backends.onnx_runtime import OnnxRuntime
from bench.peers.alternating import Extent, alternated
from bench.peers.subject import SETTLE_CALLS, OpenWorker, Subject, loaded
from bench.peers.telling import Line


class SharedSession(OnnxRuntime):
    """Our backend, whose session Polygraphy runs too."""

    @property
    def session(self) -> Any:
        return self._session


def runner_lines(subject: Subject, extent: Extent) -> list[Line]:
    """Return our median end to end beside Polygraphy's; empty where Polygraphy is not installed."""
    if util.find_spec("polygraphy") is None:
        return []
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.logger import G_LOGGER

    with (
        loaded(SharedSession, subject) as backend,
        G_LOGGER.verbosity(G_LOGGER.ERROR),
        OnnxrtRunner(backend.session) as runner,
    ):
        worker = OpenWorker(subject.load_message("onnxruntime"), backend)
        name = backend.session.get_inputs()[0].name
        feeds = [{name: each} for each in worker.batches]

        def theirs() -> Mapping[str, float]:
            for index in range(SETTLE_CALLS):
                runner.infer(feeds[index % len(feeds)])
            samples_s = []
            for index in range(extent.calls):
                runner.infer(feeds[index % len(feeds)])
                samples_s.append(runner.last_inference_time())
            return {"theirs": median(samples_s)}

        blocks = {"ours": lambda: {"ours": worker.end_to_end_s(extent.calls)}, "theirs": theirs}
        found = alternated(blocks, extent.rounds, wait=extent.wait)
    boundaries = (
        "ours END TO END: bind + step + sync + fetch on bound memory, perf_counter; "
        "theirs: session.run, input not copied, output allocated, time.time"
    )
    return [Line.of_durations("Polygraphy OnnxrtRunner", found, "ours", boundaries=boundaries)]
