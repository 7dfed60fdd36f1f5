"""The process in which MLCommons LoadGen drives one loaded model, started as `python -P -m bench.load_generator`.

LoadGen is C++ that calls back into Python: an exception that leaves a callback ends the interpreter by a segmentation
fault, and a query that is never completed waits for ever. Hence a process of its own with a limit on its time, and
callbacks that let nothing out.

Shapes: b batch, c classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.backends.interface import Images
from bench.load_messages import Drive, Driven, Prepare, Prepared, Rest, Rested
from bench.load_settings import loadgen_settings
from bench.same_model import check_as_asked, check_same_answers
from bench.served_model import ServedModel
from bench.serving import serve
from bench.worker import Worker, reply_to

# 150 MB of float32 at 224 px: more than any cache, less than would hurt.
_MOST_IMAGES = 256
# LoadGen reads audit.config from the current folder unless told another name, and obeys it without a word.
_NO_AUDIT = "no-audit.config"
# Of the settings that LoadGen was given, those that decide which images in which order at which times.
_SEEDS = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")


class LoadedModel(Worker):
    """A worker's model that has proved to be the one that was judged."""

    def __init__(self, message: Prepare) -> None:
        super().__init__(message.load)
        self._class_count = message.load.request.class_count
        self.prepared = self._compared(np.array(message.stored_bc, dtype=np.float32))

    def _compared(self, stored_bc: np.ndarray[Any, np.dtype[np.float32]]) -> Prepared:
        """Answer the first rows again; raise BackendError where the model is not the one that was judged."""
        description = self._backend.describe()
        check_as_asked(description)
        rows = self._rows[: len(stored_bc)]
        outputs = [self._call(batch) for batch in self._batches_of(rows, self._batch_size)]
        outputs_bc = np.concatenate(outputs)[: len(rows)]
        difference = check_same_answers(outputs_bc, stored_bc)
        return Prepared(
            load_s=self.load_s,
            description=description,
            compared_rows=len(rows),
            largest_difference=difference,
        )

    @cached_property
    def _all_images(self) -> Images:
        """The images that LoadGen chooses from, as the model takes them."""
        return np.concatenate(list(self._batches_of(self._rows[:_MOST_IMAGES], 1)))

    def drive(self, message: Drive) -> Driven:
        """Let LoadGen drive the model; raise what the model raised, after LoadGen has come to its end."""
        cpu_started_s = time.process_time()
        images = self._all_images
        served = ServedModel(self._backend, images, self._batch_size, self._class_count, message.settings.scenario)
        given = _run_loadgen(served, message, len(images))
        if served.failure is not None:
            raise served.failure
        return Driven(
            cpu_s=time.process_time() - cpu_started_s,
            seeds={name: getattr(given, name) for name in _SEEDS},
            image_count=len(images),
        )

    def rest(self, message: Rest) -> Rested:
        cpu_started_s, first_call_s = time.process_time(), []
        for _ in range(message.repeats):
            time.sleep(message.pause_s)
            started_s = time.perf_counter()
            self._call(self._batches[0])
            first_call_s.append(time.perf_counter() - started_s)
            for index in range(message.settle_calls):
                self._call(self._batches[index % len(self._batches)])
        return Rested(first_call_s=first_call_s, cpu_s=time.process_time() - cpu_started_s)


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
