"""The coordinator's logic with stand-ins that answer at once: order, rejection, failures, what is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import timing, worker_process
from bench.messages import Block, Recheck, Rechecked, Timed, Usage, Used, WarmedUp, WarmUp
from bench.timing import FULL, Participant, Plan, calls_of_block, measured_set, turned, wait_until_quiet
from bench.timings import Instance
from harness.core.errors import BackendError

_PLAN = Plan(mode="quick", instances=2, rounds=3, calls=4, block_s=0.0, warm_up_calls=2, rest_s=0.0)
_ANSWERS = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)


class StandIn:
    """A worker whose samples tell who gave them and when; breaks at a block number where asked to."""

    log: list[str]
    fails_at: dict[str, int]
    answers: dict[str, Any]
    call_s: dict[str, float]
    at_once: dict[str, int]
    departures: dict[str, list[str]]
    alive: Counter[str]

    def __init__(self, log: Path, *, module: str, limit_s: float) -> None:
        self.name, self.module, self.blocks = log.name, module, 0
        StandIn.alive[self.name] += 1

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        StandIn.alive[self.name] -= 1

    def kill(self) -> None:
        pass

    def ask(self, message: Any, reply: Any) -> Any:
        call_s = StandIn.call_s.get(self.name, 0.001)
        if isinstance(message, WarmUp):
            if StandIn.fails_at.get(self.name) == -1:
                raise BackendError(f"{self.name} broke", hint="")
            at_once = StandIn.at_once.get(self.name, 1)
            return WarmedUp(calls=message.calls, duration_s=1.0, later_call_s=call_s, at_once=at_once)
        if isinstance(message, Recheck):
            return Rechecked(outputs=StandIn.answers.get(self.name, _ANSWERS.tolist()), first_call_s=0.5)
        if isinstance(message, Usage):
            # What the device's memory fell by since this process began, those that came later included.
            return Used(peak_memory_bytes=1000, device_memory_bytes=100 * sum(StandIn.alive.values()))
        if isinstance(message, Block):
            StandIn.log.append(self.name)
            if self.blocks == StandIn.fails_at.get(self.name):
                raise BackendError(f"{self.name} broke", hint="")
            self.blocks += 1
            samples = [self.blocks + index / 100 for index in range(message.calls)]
            return Timed(compute_s=samples, end_to_end_s=[2 * each for each in samples], cpu_s=0.0)
        StandIn.log.append(f"{self.name} loaded")
        departures = StandIn.departures.get(self.name, [])
        return reply.model_construct(load_s=0.25, description=SimpleNamespace(departures=departures))


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.log, StandIn.fails_at, StandIn.answers, StandIn.call_s = [], {}, {}, {}
    StandIn.at_once, StandIn.departures = {}, {}
    StandIn.alive = Counter()
    monkeypatch.setattr(worker_process, "WorkerProcess", StandIn)
    _foreign(monkeypatch, [0.0])


class Counted:
    """A task that counts what it was told."""

    def __init__(self) -> None:
        self.amount = 0

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self.amount += amount


def _foreign(monkeypatch: pytest.MonkeyPatch, cores: list[float | None]) -> None:
    """Tell these foreign loads in turn, the last one for ever."""

    class Load:
        def cores(self, *, worker_cpu_s: float) -> float | None:
            return cores.pop(0) if len(cores) > 1 else cores[0]

    monkeypatch.setattr(timing, "ForeignLoad", Load)


def _measured(
    *names: str, plan: Plan = _PLAN, number: int = 0, baseline: str | None = None
) -> tuple[dict[str, Instance], dict[str, BackendError]]:
    participants = [
        Participant(name=name, load=None, log=Path("logs") / name, outputs_bc=_ANSWERS)  # type: ignore[arg-type]
        for name in names
    ]
    return measured_set(participants, baseline, plan, number, Counted())


@pytest.mark.parametrize("count", range(2, 9))
def test_every_two_change_places_equally_often_and_all_come_to_every_place(count: int) -> None:
    names = [chr(ord("a") + index) for index in range(count)]
    orders = [turned(names, number) for number in range(2 * count)]
    for one, other in combinations(names, 2):
        assert sum(order.index(one) < order.index(other) for order in orders) == count
    for place in range(count):
        assert Counter(order[place] for order in orders) == dict.fromkeys(names, 2)


def test_of_two_the_order_is_abba() -> None:
    assert ["".join(turned("ab", number)) for number in range(6)] == ["ab", "ba", "ba", "ab", "ab", "ba"]
    assert turned(["only"], 5) == ["only"]


def test_processes_are_started_and_rounds_measured_in_turned_orders() -> None:
    _measured("a", "b")
    assert StandIn.log == ["a loaded", "b loaded", *"abbaba"[:2], *"ba", *"ba"]
    StandIn.log.clear()
    _measured("a", "b", number=1)
    assert StandIn.log[:2] == ["b loaded", "a loaded"]
    assert not +StandIn.alive


def test_before_every_block_the_neighbours_threads_get_time_to_fall_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.time, "sleep", lambda duration_s: StandIn.log.append(f"rest {duration_s}"))
    _measured("a", "b", plan=replace(_PLAN, rest_s=0.1))
    blocks = StandIn.log[2:]
    assert blocks[::2] == ["rest 0.1"] * 6
    assert "".join(blocks[1::2]) == "ab" + "ba" + "ba"


def test_samples_are_kept_whole_and_in_the_order_taken() -> None:
    measured, failed = _measured("a", "b", baseline="a", number=1)
    assert not failed
    for name, each in measured.items():
        assert [one.number for one in each.rounds] == [0, 1, 2]
        assert [one.compute_s for one in each.rounds] == [[n + i / 100 for i in range(4)] for n in (1, 2, 3)]
        assert [one.end_to_end_s for one in each.rounds] == [[2 * (n + i / 100) for i in range(4)] for n in (1, 2, 3)]
        assert [one.baseline_s for one in each.rounds] == pytest.approx([2.03, 4.03, 6.03])
        assert (each.load_s, each.first_call_s, each.warm_up_calls, each.number) == (0.25, 0.5, 2, 1)
        assert each.position == {"a": 1, "b": 0}[name]
        assert each.peak_memory_bytes == 1000
        assert each.quiet_before is None


def test_a_round_in_which_others_used_the_machine_is_measured_again_for_all_and_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _foreign(monkeypatch, [0.0, 0.16, 0.0])
    measured, _ = _measured("a", "b")
    for each in measured.values():
        assert [one.accepted for one in each.rounds] == [False, True, True, True]
        assert [one.number for one in each.used_rounds()] == [1, 2, 3]


@pytest.mark.parametrize(("cores", "accepted"), [(0.15, True), (0.151, False), (None, True)])
def test_the_limit_of_foreign_load_is_fixed(
    monkeypatch: pytest.MonkeyPatch, cores: float | None, accepted: bool
) -> None:
    _foreign(monkeypatch, [cores])
    measured, _ = _measured("a")
    assert all(each.accepted is accepted for each in measured["a"].rounds)


def test_a_machine_that_is_never_quiet_ends_after_twice_the_rounds_with_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _foreign(monkeypatch, [1.0])
    measured, _ = _measured("a")
    assert len(measured["a"].rounds) == len(measured["a"].used_rounds()) == 6


def test_who_waits_for_a_quiet_machine_is_told_whether_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    _foreign(monkeypatch, [0.5, 0.0, 0.0, 0.3, 0.0])
    assert wait_until_quiet(60.0)
    assert len(slept) == 7  # Three quiet windows in a row, after two interruptions.
    _foreign(monkeypatch, [0.5])
    monkeypatch.setattr(timing.time, "monotonic", iter(range(100)).__next__)
    assert not wait_until_quiet(10.0)


@pytest.mark.parametrize("fails_at", [-1, 0, 1])
def test_a_worker_that_fails_is_reported_and_the_others_are_measured_to_the_end(fails_at: int) -> None:
    StandIn.fails_at["b"] = fails_at
    measured, failed = _measured("a", "b", "c")
    assert set(measured) == {"a", "c"}
    assert failed["b"].message == "b broke"
    assert all(len(each.rounds) == 3 for each in measured.values())
    assert not +StandIn.alive


@pytest.mark.parametrize("fails_at", [-1, 0])
def test_where_every_worker_fails_the_measurement_ends(fails_at: int) -> None:
    StandIn.fails_at["a"] = fails_at
    measured, failed = _measured("a")
    assert measured == {}
    assert set(failed) == {"a"}


@pytest.mark.parametrize(
    "answers",
    [[[1.0, -2.0, 0.6]], [[1.0, -2.0, float("nan")]], [[1.0, -2.0]], []],
    ids=["another", "no number", "other classes", "none"],
)
def test_a_process_that_answers_otherwise_than_the_one_that_was_judged_is_not_timed(answers: Any) -> None:
    StandIn.answers["b"] = answers
    measured, failed = _measured("a", "b")
    assert set(measured) == {"a"}
    assert "answers otherwise" in failed["b"].message
    assert "b" not in StandIn.log


def test_rounding_between_two_processes_is_no_other_answer() -> None:
    StandIn.answers["a"] = (_ANSWERS * 1.0002).tolist()
    measured, failed = _measured("a")
    assert set(measured) == {"a"}
    assert not failed


def test_fast_models_get_more_calls_and_slow_ones_fewer_so_that_blocks_last_alike() -> None:
    StandIn.call_s.update(fast=0.001, slow=0.1, slowest=5.0)
    plan = replace(_PLAN, rounds=1, calls=12, block_s=0.05, most_block_s=1.0)
    measured, _ = _measured("fast", "slow", "slowest", plan=plan)
    calls = {name: len(each.rounds[0].compute_s) for name, each in measured.items()}
    assert calls == {"fast": 50, "slow": 10, "slowest": 3}


@pytest.mark.parametrize(
    ("call_s", "at_once", "calls"),
    [
        (0.008, 1, 32),  # 0.25 s of them.
        (0.100, 1, 12),
        (1.2, 1, 3),
        (1.2, 2, 16),  # Of three on two streams one slot in four would be empty.
        (0.030, 8, 96),
        (0.008, 2, 64),
    ],
)
def test_a_queue_is_given_whole_fillings_enough_of_them(call_s: float, at_once: int, calls: int) -> None:
    assert calls_of_block(FULL, call_s, at_once) == calls


def test_a_queue_is_filled_before_it_is_timed() -> None:
    StandIn.at_once["a"] = 4
    measured, _ = _measured("a")
    assert len(measured["a"].rounds[0].compute_s) == 32


def test_a_process_that_runs_otherwise_than_asked_is_not_timed() -> None:
    StandIn.departures["b"] = ["1 threads, asked for 2"]
    measured, failed = _measured("a", "b")
    assert set(measured) == {"a"}
    assert "1 threads, asked for 2" in failed["b"].message


def test_memory_on_a_device_is_asked_before_the_next_process_takes_some() -> None:
    measured, _ = _measured("a", "b", "c")
    assert [measured[name].device_memory_bytes for name in "abc"] == [100, 200, 300]
    assert all(each.first_call_s == 0.5 for each in measured.values())
