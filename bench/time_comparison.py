"""Is NEW slower than OLD? The two were measured at different times, so what moved the machine must be taken out.

Where eager PyTorch took turns with the trial on both sides, and is the same PyTorch on images of the same size, its
time is the yardstick: NEW / OLD = (speed-up of OLD) / (speed-up of NEW). Otherwise the times themselves are compared,
and an hour's drift, which reached 14 %, is in them. Both ways the processes are the sample, and Welch's interval holds
for two sets of processes that did not run in turn.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.backends import REFERENCE_BACKEND
from bench.results import TrialResult
from bench.time_statistics import Ratio, ratio_of_independent, word_for_ratio
from bench.timings import process_medians_s, speed_up, typical_call_s

# What must be the same for a time to mean the same; package versions may be the very thing that is compared.
_MACHINE = ("processor", "cores", "memory_bytes", "gpus")


class TimeComparison(BaseModel):
    """The duration of NEW divided by that of OLD, or in `refused` why there is none.

    `basis` is what both were measured against; `word` is of NEW beside OLD: faster, slower, same, undecided, contended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    basis: Literal["beside eager PyTorch", "by their times alone"] = "by their times alone"
    old_s: float
    new_s: float
    ratio: Ratio | None = None
    word: str = ""
    refused: str = ""

    def exceeds(self, limit: float, *, strict: bool) -> bool:
        """Tell whether NEW is shown to be slower than OLD by more than `limit`, a fraction.

        Shown is what the whole interval says, on a machine that nobody else used. `strict` takes an estimate beyond
        the limit for enough.
        """
        if self.ratio is None:
            return False
        if strict and self.ratio.estimate > 1 + limit:
            return True
        return self.word != "contended" and self.ratio.low is not None and self.ratio.low > 1 + limit


def compared_times(
    old: TrialResult, new: TrialResult, *, noise: list[Ratio], same_images: bool
) -> TimeComparison | None:
    """Compare two timed results; None where one was not timed.

    `noise` is what models of the two sessions differ from themselves by, `same_images` tells that both sides take
    images of one size through one network.
    """
    if old.timing is None or new.timing is None:
        return None
    times = {"old_s": typical_call_s(old.timing), "new_s": typical_call_s(new.timing)}
    refused = _refusal(old, new)
    if refused:
        return TimeComparison(refused=refused, **times)
    ups = [speed_up(each.timing) for each in (old, new) if each.timing is not None]
    is_eager = REFERENCE_BACKEND in {old.trial.backend, new.trial.backend}
    same_torch = _package(old, "torch") == _package(new, "torch") is not None
    basis: Literal["beside eager PyTorch", "by their times alone"] = "by their times alone"
    if same_images and same_torch and not is_eager and ups[0] is not None and ups[1] is not None:
        basis = "beside eager PyTorch"
        ratio = ratio_of_independent(*([math.log(each) for each in up.pairs] for up in ups if up is not None))
    else:
        logs = [[math.log(each) for each in process_medians_s(one.timing)] for one in (new, old) if one.timing]
        ratio = ratio_of_independent(*logs)
    largest = max(noise, key=lambda each: abs(math.log(each.estimate)), default=None)
    contended = old.timing.contended or new.timing.contended
    word = "contended" if contended else word_for_ratio(ratio, largest)
    return TimeComparison(basis=basis, ratio=ratio, word=word, **times)


def _refusal(old: TrialResult, new: TrialResult) -> str:
    """Return why two times cannot be compared, "" where they can."""
    assert old.timing is not None
    assert new.timing is not None
    for name in _MACHINE:
        was, now = old.machine.get(name), new.machine.get(name)
        if was != now:
            return f"another machine: {name} {was} -> {now}"
    if old.timing.mode != new.timing.mode:
        return f"another protocol: {old.timing.mode} -> {new.timing.mode}"
    if old.timing.queued != new.timing.queued:
        return "one through a queue, the other call by call"
    for name in ("batch_size", "threads"):
        was, now = getattr(old.trial, name), getattr(new.trial, name)
        if was != now:
            return f"another {name.replace('_', ' ')}: {was} -> {now}"
    return ""


def _package(result: TrialResult, name: str) -> object:
    packages = result.machine.get("packages")
    return packages.get(name) if isinstance(packages, dict) else None
