"""The coordinator's logic with stand-ins that answer at once: order, rejection, failures, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from bench import timing
from bench.messages import Block, Timed, WarmedUp, WarmUp
from bench.results import Round, Timing, speed_up, timing_summary
from bench.timing import Plan, timed_together
from harness.core.errors import BackendError
from harness.core.progress import SILENT

_PLAN = Plan(rounds=3, calls=4, block_s=0.0, warm_up_calls=2, quick=True)


class StandIn:
    """Answers with samples that tell who gave them and when; fails at a block number where asked to."""

    def __init__(self, name: str, log: list[str], *, fails_at: int | None = None, call_s: float = 0.001) -> None:
        self.name, self.log, self.fails_at, self.call_s = name, log, fails_at, call_s
        self.blocks = 0

    def ask(self, message: Any, reply: Any) -> Any:
        if isinstance(message, WarmUp):
            if self.fails_at == -1:
                raise BackendError(f"{self.name} broke", hint="")
            return WarmedUp(calls=message.calls, duration_s=message.calls * self.call_s, first_call_s=0.5)
        assert isinstance(message, Block)
        self.log.append(self.name)
        if self.blocks == self.fails_at:
            raise BackendError(f"{self.name} broke", hint="")
        self.blocks += 1
        samples = [self.blocks + index / 100 for index in range(message.calls)]
        return Timed(compute_s=samples, end_to_end_s=[2 * each for each in samples], cpu_s=0.0)


def _foreign(monkeypatch: pytest.MonkeyPatch, cores: list[float | None]) -> None:
    """Tell these foreign loads in turn, the last one for ever."""

    class Load:
        def cores(self, *, worker_cpu_s: float) -> float | None:
            return cores.pop(0) if len(cores) > 1 else cores[0]

    monkeypatch.setattr(timing, "ForeignLoad", Load)


def _timed(workers: list[StandIn], plan: Plan = _PLAN) -> tuple[dict[str, Timing], dict[str, BackendError]]:
    return timed_together(
        {each.name: each for each in workers},  # type: ignore[misc]
        {each.name: 0.25 for each in workers},
        plan,
        SILENT,
        description="",
    )


def test_the_order_rotates_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    _foreign(monkeypatch, [0.0])
    log: list[str] = []
    _timed([StandIn(name, log) for name in "abc"])
    assert "".join(log) == "abc" + "bca" + "cab"


def test_samples_are_kept_whole_and_in_the_order_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _foreign(monkeypatch, [0.0])
    timings, failed = _timed([StandIn("a", []), StandIn("b", [])])
    assert not failed
    for each in timings.values():
        assert [one.number for one in each.rounds] == [0, 1, 2]
        assert [one.compute_s for one in each.rounds] == [[n + i / 100 for i in range(4)] for n in (1, 2, 3)]
        assert each.end_to_end_s().tolist() == [2 * (n + i / 100) for n in (1, 2, 3) for i in range(4)]
        assert (each.load_s, each.first_call_s, each.warm_up_calls, each.contended) == (0.25, 0.5, 2, False)


def test_a_round_in_which_others_used_the_machine_is_measured_again_for_all_and_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _foreign(monkeypatch, [0.0, 0.16, 0.0])
    timings, _ = _timed([StandIn("a", []), StandIn("b", [])])
    for each in timings.values():
        assert [one.accepted for one in each.rounds] == [False, True, True, True]
        assert not each.contended
        assert [one.number for one in each.used_rounds()] == [1, 2, 3]


@pytest.mark.parametrize(("cores", "accepted"), [(0.15, True), (0.151, False), (None, True)])
def test_the_limit_of_foreign_load_is_fixed(
    monkeypatch: pytest.MonkeyPatch, cores: float | None, accepted: bool
) -> None:
    _foreign(monkeypatch, [cores])
    timings, _ = _timed([StandIn("a", [])])
    assert all(each.accepted is accepted for each in timings["a"].rounds)


def test_a_machine_that_is_never_quiet_ends_contended_with_all_rounds_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _foreign(monkeypatch, [1.0])
    timings, _ = _timed([StandIn("a", [])])
    assert len(timings["a"].rounds) == 6
    assert timings["a"].contended
    assert len(timings["a"].end_to_end_s()) == 24
    assert timing_summary(timings["a"], 1).largest_foreign_cores == 1.0


@pytest.mark.parametrize("fails_at", [-1, 0, 1])
def test_a_worker_that_fails_is_reported_and_the_others_are_measured_to_the_end(
    monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    _foreign(monkeypatch, [0.0])
    timings, failed = _timed([StandIn("a", []), StandIn("b", [], fails_at=fails_at), StandIn("c", [])])
    assert set(timings) == {"a", "c"}
    assert failed["b"].message == "b broke"
    assert all(len(each.rounds) == 3 for each in timings.values())


@pytest.mark.parametrize("fails_at", [-1, 0])
def test_where_every_worker_fails_the_measurement_ends(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    _foreign(monkeypatch, [0.0])
    timings, failed = _timed([StandIn("a", [], fails_at=fails_at)])
    assert timings == {}
    assert set(failed) == {"a"}


def test_fast_models_get_more_calls_so_that_a_block_lasts_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _foreign(monkeypatch, [0.0])
    plan = Plan(rounds=1, calls=4, block_s=0.05, warm_up_calls=2, quick=True)
    timings, _ = _timed([StandIn("fast", [], call_s=0.001), StandIn("slow", [], call_s=0.1)], plan)
    assert len(timings["fast"].rounds[0].compute_s) == 50
    assert len(timings["slow"].rounds[0].compute_s) == 4


def _timing(rounds: dict[int, float]) -> Timing:
    made = [
        Round(number=number, compute_s=[value], end_to_end_s=[value], foreign_cores=0.0, accepted=True)
        for number, value in rounds.items()
    ]
    return Timing(load_s=0, first_call_s=0, warm_up_calls=1, rounds=made, contended=False)


def test_the_speed_up_is_over_common_rounds() -> None:
    ratio = speed_up(_timing({0: 4.0, 1: 6.0, 2: 50.0}), _timing({0: 2.0, 1: 2.0, 3: 1.0}))
    assert ratio is not None
    assert (ratio.median, ratio.lowest, ratio.highest) == (2.5, 2.0, 3.0)
    assert speed_up(_timing({0: 1.0}), _timing({1: 1.0})) is None
