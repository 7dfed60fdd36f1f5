"""Cost, knee, break-even and what is not dominated, held to figures worked out by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from bench.economics import (
    SWEEP_COLUMNS,
    SweepPoint,
    break_even,
    break_even_of,
    cost_per_million,
    knees,
    pareto_points,
    saved_s_per_image,
)
from bench.economics_rows import sweep_rows


def _point(batch_size: int, images_per_s: float | None, **changes: Any) -> SweepPoint:
    values: dict[str, Any] = {"run": "r", "artifact": "fp32", "backend": "openvino", "threads": 2, "verdict": "PASS"}
    values |= {"batch_size": batch_size, "images_per_s": images_per_s}
    values |= {"median_s": None if images_per_s is None else batch_size / images_per_s}
    return SweepPoint(**(values | changes))


def test_a_million_images_at_100_a_second_and_0_36_an_hour_cost_1() -> None:
    assert cost_per_million(0.36, 100) == pytest.approx(1.0)
    assert cost_per_million(2.5, 120.5) == pytest.approx(1e6 / 120.5 / 3600 * 2.5)
    assert cost_per_million(0.0, 100) == 0


def test_a_build_pays_for_itself_by_what_it_saves_an_image() -> None:
    # 30 s of build and 6 s of calibration at 5 ms saved an image are 7200 images: 3 days at 2400 a day.
    found = break_even(30, 6, 0.005, 2400)
    assert found is not None
    assert (found.images, found.days) == (pytest.approx(7200), pytest.approx(3))
    without_traffic = break_even(30, 6, 0.005)
    assert without_traffic is not None
    assert without_traffic.days is None
    assert break_even(30, 6, 0.0, 2400) is None
    assert break_even(30, 6, -0.001, 2400) is None


def test_the_knee_is_the_smallest_batch_size_within_5_per_cent_of_the_best() -> None:
    points = [_point(1, 80), _point(2, 94), _point(4, 95), _point(8, 100), _point(16, 99)]
    assert [each.batch_size for each in knees(points)] == [4]
    shuffled = list(points)
    random.Random(0).shuffle(shuffled)
    assert knees(shuffled) == knees(points)


def test_every_series_has_its_own_knee() -> None:
    points = [
        _point(1, 100),
        _point(8, 101),
        _point(1, 50, threads=1),
        _point(8, 60, threads=1),
        _point(1, 10, backend="onnxruntime"),  # One batch size shows no knee.
        _point(1, None, artifact="int8"),
        _point(2, None, artifact="int8"),
    ]
    assert [(each.backend, each.threads, each.batch_size) for each in knees(points)] == [
        ("openvino", 2, 1),
        ("openvino", 1, 8),
    ]
    assert knees([]) == []


def test_only_what_nothing_beats_in_both_is_marked() -> None:
    fast = _point(1, 100, median_s=0.010)
    slower_and_no_better = _point(2, 100, median_s=0.020)
    many = _point(8, 150, median_s=0.053)
    worse = _point(16, 140, median_s=0.100)
    other_run = _point(1, 1, run="s", median_s=1.0)
    points = [fast, slower_and_no_better, many, worse, other_run, _point(32, None)]
    assert pareto_points(points) == [fast, many, other_run]
    equal = [_point(1, 100), _point(1, 100, artifact="fp16")]
    assert pareto_points(equal) == equal


def test_the_marked_are_those_that_comparing_all_with_all_finds() -> None:
    def beats(one: SweepPoint, other: SweepPoint) -> bool:
        assert one.images_per_s is not None
        assert other.images_per_s is not None
        if other.median_s is None or one.median_s is None:
            return other.median_s is None and one.images_per_s > other.images_per_s
        pair = (one.median_s <= other.median_s, one.images_per_s >= other.images_per_s)
        return all(pair) and (one.median_s, one.images_per_s) != (other.median_s, other.images_per_s)

    chance = np.random.default_rng(0)
    for _ in range(50):
        latencies = [None if number == 0 else float(number) for number in chance.integers(0, 6, size=30)]
        points = [
            _point(1, float(chance.integers(1, 8)), run=str(chance.integers(2)), median_s=each) for each in latencies
        ]
        unbeaten = [
            point for point in points if not any(beats(each, point) for each in points if each.run == point.run)
        ]
        assert pareto_points(points) == unbeaten


def test_in_a_queue_only_throughput_ranks() -> None:
    fast, many = _point(1, 100), _point(8, 150)
    best, second = (_point(8, rate, backend="openvino-throughput", median_s=None) for rate in (160, 155))
    other_run = _point(1, 1, run="s", median_s=None)
    # A queue's throughput beats nothing that has a latency, which the queue's own is not known to be below.
    assert pareto_points([fast, many, second, best, other_run]) == [fast, many, best, other_run]
    behind = _point(8, 140, backend="openvino-throughput", median_s=None)
    assert pareto_points([fast, many, behind]) == [fast, many]


def test_what_is_saved_is_by_the_speed_up_within_one_session() -> None:
    # Twice as fast as eager, which then takes 20 ms an image, whatever eager's own record says.
    fast = _point(8, 100, speed_up=2.0, build_s=8.0, calibration_s=2.0)
    assert saved_s_per_image(fast) == pytest.approx(0.01)
    assert saved_s_per_image(_point(8, 100, speed_up=0.5)) == pytest.approx(-0.005)
    assert saved_s_per_image(_point(8, 100)) is None
    assert saved_s_per_image(_point(8, None, speed_up=2.0)) is None
    found = break_even_of(fast, 500)
    assert found is not None
    assert (found.images, found.days) == (pytest.approx(1000), pytest.approx(2))
    assert break_even_of(_point(8, 100, speed_up=2.0), 500) is None
    assert break_even_of(_point(8, 40, speed_up=0.8, build_s=1.0), 500) is None


def test_a_row_has_a_cell_for_every_column_and_leaves_out_what_nobody_measured() -> None:
    eager = _point(1, 50, artifact="eager", backend="pytorch")
    fast = _point(
        1,
        100,
        speed_up=2.0,
        share_of_ceiling=0.941,
        compute_floor_s=0.00941,
        memory_bytes=512_300_000,
        device_memory_bytes=90_000_000,
        load_s=0.25,
        first_call_s=0.0213,
        build_s=34.0,
        calibration_s=6.0,
    )
    failed = _point(8, None, verdict="FAIL")
    rows = sweep_rows([eager, fast, failed], price_per_hour=0.36, images_per_day=1000)
    assert {len(row) for row in rows} == {len(SWEEP_COLUMNS)}
    assert rows[1] == [
        *("r", "fp32", "openvino", "2", "1", "PASS", "10.00", "100.0", "94 %", "9.41", "1", "knee, Pareto"),
        *("512 + 90 on the GPU", "0.25", "21.3", "34.0 + 6.0 calibration", "4,000 images, 4 days"),
    ]
    assert rows[0][-1] == ""
    assert rows[2] == ["r", "fp32", "openvino", "2", "8", "FAIL", *[""] * 11]
    without = sweep_rows([eager, fast])
    assert without[1][SWEEP_COLUMNS.index("cost per million")] == ""
    assert without[1][-1] == "4,000 images"
    assert sweep_rows([eager, fast], images_per_day=0.1)[1][-1] == "4,000 images, never in practice"
    assert sweep_rows([eager, fast], images_per_day=10_000)[1][-1] == "4,000 images, under a day"
