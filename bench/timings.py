"""The record of a trial's times: every call in the order taken, by round and by process.

Timing     one trial in one session: several processes, each started anew
Instance   one process: loaded, answering as the proved one did, warmed up, then measured in rounds
Round      its block of calls in one round, in which every trial of the session had its turn
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from bench.power import Power
from bench.time_statistics import Interval, Ratio, latency_over_processes, percentile, ratio_from_logs

Float64s = npt.NDArray[np.float64]
Mode = Literal["untimed", "quick", "full", "strict"]
Boundary = Literal["compute_s", "end_to_end_s"]

# Beyond this share of rejected rounds nobody was alone on the machine often enough.
_MOST_REJECTED = 0.30


class Record(BaseModel):
    """Frozen data whose cached properties do not survive a change: pydantic's own copy would carry them over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Round(Record):
    """One trial's block of one round, seconds per call in the order taken.

    `queue_s` is the time per call of a block that was submitted to the runtime's own queue, where it has one: then no
    single call has a latency, and the lists are empty. `device_s` is what the device's own timers say of each call.
    `baseline_s` is the median call of eager PyTorch's block in the same round. `power` is what the machine told of
    power and clocks meanwhile, None where it tells nothing.
    """

    number: int
    compute_s: list[float]
    end_to_end_s: list[float]
    device_s: list[float] = []
    queue_s: float | None = None
    foreign_cores: float | None
    accepted: bool
    baseline_s: float | None = None
    power: Power | None = None

    @cached_property
    def call_s(self) -> float:
        """The block's time per call: by the queue where there is one, else the median end to end."""
        return self.queue_s if self.queue_s is not None else statistics.median(self.end_to_end_s)


class Instance(Record):
    """One process of a trial. `position` is its place in the order of launching, `peak_memory_bytes` of the process.

    `quiet_before` tells whether the machine was quiet when the set of processes began; None where nobody waited.
    """

    number: int
    position: int
    load_s: float
    first_call_s: float
    warm_up_calls: int
    warm_up_s: float
    quiet_before: bool | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    power_notes: list[str] = []
    rounds: list[Round]

    def used_rounds(self) -> list[Round]:
        """Return the accepted rounds; all of them where none was, which makes the timing contended."""
        return [each for each in self.rounds if each.accepted] or self.rounds

    def end_to_end_s(self) -> Float64s:
        return _joined([each.end_to_end_s for each in self.used_rounds()])

    def compute_s(self) -> Float64s:
        return _joined([each.compute_s for each in self.used_rounds()])

    # Both are asked for by several tables of a report, and a record has some 10,000 calls.

    @cached_property
    def blocks_s(self) -> dict[int, float]:
        """The time per call of every used round, by its number."""
        used = self.used_rounds()
        blocks = [each.end_to_end_s for each in used]
        if any(each.queue_s is not None for each in used) or len({len(each) for each in blocks}) > 1:
            return {each.number: each.call_s for each in used}
        medians_s = _medians_of_rows(np.array(blocks)).tolist()
        return {each.number: median_s for each, median_s in zip(used, medians_s, strict=True)}

    @cached_property
    def medians_s(self) -> dict[Boundary, float]:
        """The median call at both boundaries; of the blocks where they went through a queue."""
        if any(each.queue_s is not None for each in self.used_rounds()):
            block_s = statistics.median(self.blocks_s.values())
            return {"end_to_end_s": block_s, "compute_s": block_s}
        both: dict[Boundary, Float64s] = {"end_to_end_s": self.end_to_end_s(), "compute_s": self.compute_s()}
        return {boundary: float(_medians_of_rows(each_s[np.newaxis])[0]) for boundary, each_s in both.items()}

    def without_calls(self) -> Instance:
        """Return the same with empty rounds, which still knows its medians; a copy of it does not."""
        emptied: dict[str, list[float]] = {"compute_s": [], "end_to_end_s": [], "device_s": []}
        light = self.model_copy(update={"rounds": [each.model_copy(update=emptied) for each in self.rounds]})
        light.__dict__.update(blocks_s=self.blocks_s, medians_s=self.medians_s)
        return light


class Timing(Record):
    """All processes of a trial in one session, in which `trials` took turns.

    `planned` processes and rounds are what makes it complete.
    """

    session: str
    trials: int
    mode: Mode
    planned_instances: int
    planned_rounds: int
    instances: list[Instance] = Field(min_length=1)

    @property
    def complete(self) -> bool:
        return len(self.instances) >= self.planned_instances

    @property
    def rejected_rounds(self) -> int:
        return sum(not each.accepted for one in self.instances for each in one.rounds)

    @cached_property
    def contended(self) -> bool:
        """Whether others used the machine too much for anything to be said of small differences."""
        measured = sum(len(one.rounds) for one in self.instances)
        short = any(sum(each.accepted for each in one.rounds) < self.planned_rounds for one in self.instances)
        noisy_start = any(one.quiet_before is False for one in self.instances)
        return short or noisy_start or self.rejected_rounds > _MOST_REJECTED * measured

    @cached_property
    def queued(self) -> bool:
        return any(each.queue_s is not None for each in self.used_rounds())

    def without_calls(self) -> Timing:
        """Return the same without calls, which still knows latencies and ratios."""
        return self.model_copy(update={"instances": [one.without_calls() for one in self.instances]})

    def used_rounds(self) -> list[Round]:
        return [each for one in self.instances for each in one.used_rounds()]

    def end_to_end_s(self) -> Float64s:
        return np.concatenate([one.end_to_end_s() for one in self.instances])

    def compute_s(self) -> Float64s:
        return np.concatenate([one.compute_s() for one in self.instances])

    def device_s(self) -> Float64s:
        return _joined([each.device_s for each in self.used_rounds()])


def _medians_of_rows(samples_rs: Float64s) -> Float64s:
    """Return what np.median does, in a quarter of its time: a report of 1,000 trials has 64,000 blocks."""
    ordered_rs = np.sort(samples_rs, axis=1)
    count = ordered_rs.shape[1]
    return np.asarray((ordered_rs[:, (count - 1) // 2] + ordered_rs[:, count // 2]) / 2)


def _joined(blocks: list[list[float]]) -> Float64s:
    return np.array(list(chain.from_iterable(blocks)), dtype=np.float64)


class TimingSummary(Record):
    """Figures for people, seconds and images per second.

    `latency` is the geometric mean of the processes' medians end to end, `compute` of the boundary without copies.
    A percentile is None where the sample cannot support it. `drift` is the median call of the last third of the rounds
    divided by that of the first: beyond some per cent the absolute level is of this hour only.
    """

    calls: int
    processes: int
    rejected_rounds: int
    contended: bool
    latency: Interval | None
    compute: Interval | None
    device_median_s: float | None
    p90: Interval | None
    p99: Interval | None
    largest_s: float | None
    images_per_s: float
    queued: bool
    drift: float | None
    largest_foreign_cores: float | None
    load_s: float
    first_call_s: float
    peak_memory_bytes: int | None
    device_memory_bytes: int | None
    energy_j_per_image: float | None


def timing_summary(timing: Timing, batch_size: int) -> TimingSummary:
    """Return the figures of a closed loop, service time only; of the queue where the runtime has one."""
    end_to_end_s, device_s, used = timing.end_to_end_s(), timing.device_s(), timing.used_rounds()
    foreign = [each.foreign_cores for each in used if each.foreign_cores is not None]
    calls = len(end_to_end_s)
    mean_s = float(np.mean([each.queue_s for each in used if each.queue_s is not None])) if timing.queued else 0.0
    return TimingSummary(
        calls=calls,
        processes=len(timing.instances),
        rejected_rounds=timing.rejected_rounds,
        contended=timing.contended,
        latency=None if timing.queued else _over_processes(timing, "end_to_end_s"),
        compute=None if timing.queued else _over_processes(timing, "compute_s"),
        device_median_s=float(np.median(device_s)) if len(device_s) else None,
        p90=percentile(end_to_end_s, 0.90) if calls else None,
        p99=percentile(end_to_end_s, 0.99) if calls else None,
        largest_s=float(end_to_end_s.max()) if calls else None,
        images_per_s=batch_size / mean_s if timing.queued else float(batch_size * calls / end_to_end_s.sum()),
        queued=timing.queued,
        drift=_drift(timing),
        largest_foreign_cores=max(foreign, default=None),
        load_s=statistics.median(one.load_s for one in timing.instances),
        first_call_s=statistics.median(one.first_call_s for one in timing.instances),
        peak_memory_bytes=_largest([one.peak_memory_bytes for one in timing.instances]),
        device_memory_bytes=_largest([one.device_memory_bytes for one in timing.instances]),
        energy_j_per_image=_energy_j_per_call(used, batch_size),
    )


def _energy_j_per_call(rounds: list[Round], batch_size: int) -> float | None:
    """Return joules per image over the blocks of which the machine told them, by their average power."""
    told = [
        (each.power.energy_j / each.power.duration_s) * each.call_s
        for each in rounds
        if each.power is not None and each.power.energy_j is not None and each.power.duration_s
    ]
    return statistics.fmean(told) / batch_size if told else None


def process_medians_s(timing: Timing, boundary: Boundary = "end_to_end_s") -> list[float]:
    """Return the median of every process over its used calls; of its blocks where they went through a queue."""
    return [one.medians_s[boundary] for one in timing.instances]


def typical_call_s(timing: Timing) -> float:
    """Return the geometric mean of the processes' medians, of the queue's where there is one."""
    return latency_over_processes(process_medians_s(timing)).value


def _over_processes(timing: Timing, boundary: Boundary) -> Interval:
    return latency_over_processes(process_medians_s(timing, boundary))


def _drift(timing: Timing) -> float | None:
    blocks_s = [block_s for one in timing.instances for block_s in one.blocks_s.values()]
    third = len(blocks_s) // 3
    return statistics.median(blocks_s[-third:]) / statistics.median(blocks_s[:third]) if third else None


def _largest(values: list[int | None]) -> int | None:
    return max((each for each in values if each is not None), default=None)


def speed_up(timing: Timing) -> Ratio | None:
    """Return how many times faster than eager PyTorch a trial is; None where eager was not in its session."""
    logs = []
    for one in timing.instances:
        each = [
            math.log(block.baseline_s / one.blocks_s[block.number])
            for block in one.used_rounds()
            if block.baseline_s is not None
        ]
        if each:
            logs.append(statistics.median(each))
    return ratio_from_logs(logs) if logs else None


def duration_ratio(first: Timing, second: Timing) -> Ratio | None:
    """Return the duration of one trial divided by another's; None unless they took turns in one session.

    d_p = median over the rounds of process pair p of ln(first / second); the pairs then are the sample.
    """
    if first.session != second.session:
        return None
    others = {one.number: one.blocks_s for one in second.instances}
    logs = []
    for one in first.instances:
        theirs = others.get(one.number, {})
        each = [math.log(block_s / theirs[number]) for number, block_s in one.blocks_s.items() if number in theirs]
        if each:
            logs.append(statistics.median(each))
    return ratio_from_logs(logs) if logs else None
