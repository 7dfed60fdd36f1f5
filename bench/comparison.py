"""What a comparison of two sides holds: for each trial what became of its verdict, and the answers paired.

A PASS that OLD was given stands, whatever became of its files. NEW has to show its own: a trial of NEW whose answers
were changed has lost its PASS, and one whose artifact was made again is not measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.gate import Word
from bench.paired import Paired
from bench.sides import JudgedTrial
from bench.time_comparison import TimeComparison

Change = Literal["lost", "gained", "changed", "unchanged", "missing", "added", "unmeasured"]

_NOT_MEASURED = {"", "UNAVAILABLE", "STALE"}
_NEW_STANDING = {"stale": "STALE", "changed": "UNTRUSTED"}


@dataclass(frozen=True, kw_only=True)
class TrialComparison:
    """One trial on both sides; None where a side has no record of it.

    `paired` compares the candidates' answers, `time` their durations, where both were timed.
    """

    trial: str
    old: JudgedTrial | None
    new: JudgedTrial | None
    paired: Paired | None
    time: TimeComparison | None

    @property
    def old_word(self) -> str:
        return self.old.word if self.old else ""

    @property
    def new_word(self) -> str:
        return _NEW_STANDING.get(self.new.standing, self.new.word) if self.new else ""

    @property
    def change(self) -> Change:
        """What became of the verdict; `missing` and `added`: not measured in NEW, not measured in OLD."""
        if {self.old_word, self.new_word} <= _NOT_MEASURED:
            return "unmeasured"
        if self.new is None or self.new_word in _NOT_MEASURED:
            return "missing"
        if self.old is None or self.old_word in _NOT_MEASURED:
            return "added"
        passed, passes = self.old_word == Word.PASS, self.new_word == Word.PASS
        if passed != passes:
            return "lost" if passed else "gained"
        same = (self.old_word, self.old.step) == (self.new_word, self.new.step)
        return "unchanged" if same else "changed"

    @property
    def pass_unproved(self) -> bool:
        """Whether a PASS of OLD was not measured in NEW."""
        return self.change == "missing" and self.old_word == Word.PASS


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """One run on both sides. `checkpoints` compares the golden answers of two checkpoints to their common test films.

    `differences` are what the two sides did not have in common, `notes` what the figures rest on. `synthetic` says that
    one side is made from phantoms.
    """

    name: str
    synthetic: bool
    trials: list[TrialComparison]
    checkpoints: Paired | None
    differences: list[str]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that `harness compare` found; a missing run is one whose trials were not measured."""

    old: Path
    new: Path
    runs: list[RunComparison]

    def counts(self) -> Counter[Change]:
        return Counter(trial.change for run in self.runs for trial in run.trials)

    def headline(self) -> str:
        counts = self.counts()
        lost = "1 verdict" if counts["lost"] == 1 else f"{counts['lost']} verdicts"
        told = [f"{lost} lost", f"{counts['gained']} gained", f"{counts['unchanged']} unchanged"]
        further: tuple[tuple[Change, str], ...] = (
            ("changed", "changed otherwise"),
            ("missing", "not measured in NEW"),
            ("added", "not measured in OLD"),
            ("unmeasured", "measured on neither side"),
        )
        return ", ".join(told + [f"{counts[change]} {words}" for change, words in further if counts[change]])

    def pass_lost(self, *, strict: bool) -> bool:
        """Tell whether a PASS of OLD is none in NEW; `strict` counts one that was not measured there."""
        trials = [trial for run in self.runs for trial in run.trials]
        return any(trial.change == "lost" or (strict and trial.pass_unproved) for trial in trials)

    def too_slow(self, limit: float | None, *, strict: bool) -> list[TrialComparison]:
        """Return the trials of which NEW is slower than OLD by more than `limit`, a fraction; none without a limit.

        `strict` counts those of which it is likely and not shown, and those of OLD that have no comparison.
        """
        if limit is None:
            return []
        trials = [trial for run in self.runs for trial in run.trials]
        slow = [trial for trial in trials if trial.time is not None and trial.time.exceeds(limit, strict=strict)]
        return slow + self.untimed() if strict else slow

    def untimed(self) -> list[TrialComparison]:
        """Return the trials that were timed in OLD and have no ratio, for NEW was not timed or is not comparable."""
        trials = [trial for run in self.runs for trial in run.trials]
        return [
            trial
            for trial in trials
            if trial.old is not None
            and trial.old.result.timing is not None
            and (trial.time is None or trial.time.ratio is None)
        ]

    def summary(self) -> dict[str, Any]:
        """Return everything but the samples, for machines."""
        return {
            "old": str(self.old),
            "new": str(self.new),
            "headline": self.headline(),
            "pass_lost": self.pass_lost(strict=False),
            "pass_unproved": any(trial.pass_unproved for run in self.runs for trial in run.trials),
            "runs": [
                {
                    "run": run.name,
                    "synthetic": run.synthetic,
                    "trials": [_trial_summary(trial) for trial in run.trials],
                    "checkpoints": run.checkpoints.model_dump(mode="json") if run.checkpoints else None,
                    "differences": run.differences,
                    "notes": run.notes,
                }
                for run in self.runs
            ],
        }


def _trial_summary(trial: TrialComparison) -> dict[str, Any]:
    return {
        "trial": trial.trial,
        "change": trial.change,
        "old": _side_summary(trial.old_word, trial.old),
        "new": _side_summary(trial.new_word, trial.new),
        "paired": trial.paired.model_dump(mode="json") if trial.paired else None,
        "time": trial.time.model_dump(mode="json") if trial.time else None,
    }


def _side_summary(word: str, judged: JudgedTrial | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    parity = judged.result.parity
    figures = ("images", "agreement", "reference_accuracy", "accuracy", "max_abs_dp")
    return {
        "word": word,
        "step": judged.step,
        "reason": judged.reason,
        "margin": judged.result.margin,
        "notes": list(judged.notes),
        **{name: getattr(parity, name) if parity else None for name in figures},
    }
