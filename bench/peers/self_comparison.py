"""The whole protocol beside itself: a model against itself must not differ, and one slowed by 3 % must be found slower.

Each comparison is a session of its own as `harness bench` makes it: processes, rounds, intervals and the word are the
bench's. Every finished one is a line of a file, so that an interrupted series of an hour goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.messages import Loaded, Recheck, Rechecked
from bench.peers import slowed_worker
from bench.peers.subject import Subject
from bench.peers.telling import interval_words
from bench.time_statistics import Ratio, Word, word_for_ratio
from bench.timing import Participant, Plan, measured_set
from bench.timings import Instance, Mode, Timing, duration_ratio
from bench.worker_process import started_worker
from harness.core.errors import BackendError
from harness.core.files import sha256_from_file, write_text_atomically
from harness.core.progress import SILENT

Kind = Literal["same", "slowed"]
# Half of the comparisons each.
_BACKENDS = ("openvino", "onnxruntime")
_CHECKED_ROWS = 4
_FIRST, _SECOND = "first", "second"


class SelfComparison(BaseModel):
    """What was said of the second set of processes beside the first. `attempts` - 1 were contended and thrown away."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    number: int
    backend: str
    model_sha256: str
    threads: int
    mode: Mode
    instances: int
    rounds: int
    created: str
    attempts: int
    contended: bool
    ratio: Ratio
    word: Word


@dataclass(frozen=True, kw_only=True)
class Series:
    """Comparisons of one subject by one plan, kept in a file."""

    subject: Subject
    plan: Plan
    path: Path
    most_attempts: int = 3

    def compared(self, kind: Kind, count: int, say: Callable[[str], None]) -> list[SelfComparison]:
        """Return so many comparisons, those that the file has and the missing ones; contended ones are tried again."""
        found = []
        for number in range(count):
            kept = self._kept(kind, number)
            made = kept or self._measured(kind, number)
            if kept is None:
                lines = [each.model_dump_json() for each in (*self.finished(), made)]
                write_text_atomically(self.path, "\n".join(lines) + "\n")
            found.append(made)
            notes = ["kept"] * (kept is not None) + ["CONTENDED"] * made.contended
            repeated = [f"{made.attempts} attempts"] * (made.attempts > 1)
            remarks = "".join(f", {each}" for each in (*notes, *repeated))
            say(
                f"{kind} {number + 1}/{count} {made.backend}: second/first {interval_words(made.ratio)} "
                f"{made.word}{remarks}"
            )
        return found

    def archive(self) -> None:
        """Put a finished series aside, so that the next one is measured and not read."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        if self.path.is_file():
            self.path.rename(self.path.with_name(f"{self.path.stem}-{stamp}.jsonl"))

    def _kept(self, kind: Kind, number: int) -> SelfComparison | None:
        """Return the comparison in the file, None where it is of something else or was contended."""
        wanted = {
            "kind": kind,
            "number": number,
            "model_sha256": sha256_from_file(self.subject.model),
            "threads": self.subject.threads,
            "mode": self.plan.mode,
            "instances": self.plan.instances,
            "rounds": self.plan.rounds,
            "contended": False,
        }
        return next((each for each in self.finished() if each.model_dump(include=set(wanted)) == wanted), None)

    def finished(self) -> list[SelfComparison]:
        """Return what the file holds; raise BackendError where that is something else."""
        if not self.path.is_file():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            return [SelfComparison.model_validate_json(line) for line in lines]
        except (ValidationError, UnicodeDecodeError) as error:
            raise BackendError(f"{self.path} is no series of this version: {error}", hint="Move it away.") from error

    def _measured(self, kind: Kind, number: int) -> SelfComparison:
        backend = _BACKENDS[number % len(_BACKENDS)]
        participants = _participants(self.subject, backend, kind)
        for attempt in range(1, self.most_attempts + 1):
            ratio, contended = _session(participants, self.plan, f"{kind} {number} {attempt}")
            if not contended:
                break
        return SelfComparison(
            kind=kind,
            number=number,
            backend=backend,
            model_sha256=sha256_from_file(self.subject.model),
            threads=self.subject.threads,
            mode=self.plan.mode,
            instances=self.plan.instances,
            rounds=self.plan.rounds,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            attempts=attempt,
            contended=contended,
            ratio=ratio,
            word=word_for_ratio(ratio, None),
        )


def _participants(subject: Subject, backend: str, kind: Kind) -> list[Participant]:
    """Return the model twice, the second time slowed where that is asked for."""
    load, logs = subject.load_message(backend), subject.folder / "logs"
    with ExitStack() as stack:
        worker = started_worker(stack, logs / "proving.log")
        worker.ask(load, Loaded)
        outputs = worker.ask(Recheck(count=_CHECKED_ROWS), Rechecked).outputs
    outputs_bc = np.array(outputs, dtype=np.float32)
    modules = {_FIRST: "bench.worker", _SECOND: slowed_worker.__name__ if kind == "slowed" else "bench.worker"}
    return [
        Participant(name=name, load=load, log=logs / f"{name}.log", outputs_bc=outputs_bc, module=module)
        for name, module in modules.items()
    ]


def _session(participants: list[Participant], plan: Plan, name: str) -> tuple[Ratio, bool]:
    """Return the second's duration divided by the first's and whether the session was contended.

    Raises BackendError where a process failed.
    """
    instances: dict[str, list[Instance]] = {each.name: [] for each in participants}
    with SILENT.task(name, total=None) as task:
        for number in range(plan.instances):
            measured, failed = measured_set(participants, None, plan, number, task)
            for error in failed.values():
                raise error
            for each, instance in measured.items():
                instances[each].append(instance)
    first, second = (
        Timing(
            session=name,
            trials=2,
            mode=plan.mode,
            planned_instances=plan.instances,
            planned_rounds=plan.rounds,
            instances=instances[each],
        )
        for each in (_FIRST, _SECOND)
    )
    ratio = duration_ratio(second, first)
    assert ratio is not None, "both took turns in one session"
    return ratio, first.contended or second.contended
