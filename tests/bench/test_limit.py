"""Shares of a ceiling and the floor, held to figures worked out by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.ceiling import Ceiling, MemoryRate, Operation, Rate
from bench.limit import (
    CEILING_COLUMNS,
    ceiling_flop_per_s,
    ceiling_rows,
    compute_floor_s,
    effective_flop_of,
    share_of_ceiling,
)
from harness.core.onnx_flops import flops_from_onnx
from harness.core.runs import RunDirectory

_RESNET18_FLOP = 2 * 1_679_900_000  # 1.6799 G multiply-adds of effective work.


def _rate(operation: Operation, precision: str, gflop_per_s: float) -> Rate:
    return Rate(operation=operation, precision=precision, flop=int(gflop_per_s * 1e9), duration_s=[1.5, 1.0, 1.25])


@pytest.fixture
def ceiling() -> Ceiling:
    """The figures of one machine: 430 GFLOP/s in fp32, 810 in bf16, 1550 GOP/s in int8, 40 GB/s."""
    return Ceiling(
        device="cpu",
        device_name="a processor",
        threads=2,
        library="OpenVINO",
        version="2026.4.1-22982",
        rates=[
            _rate("convolution", "fp32", 430),
            _rate("matrix product", "fp32", 330),
            _rate("convolution", "bf16", 810),
            _rate("matrix product", "int8", 1550),
        ],
        memory=MemoryRate(counted_bytes=40_000_000_000, duration_s=[1.0, 2.0]),
        notes=[],
        foreign_cores=0.01,
        created="2026-01-01T00:00:00+00:00",
        machine={},
    )


def test_resnet18_at_8_3_ms_does_404_8_gflop_a_second_of_430(ceiling: Ceiling) -> None:
    images_per_s = 1 / 8.3e-3
    assert _RESNET18_FLOP * images_per_s == pytest.approx(404.8e9, rel=1e-4)
    assert share_of_ceiling(_RESNET18_FLOP, images_per_s, "fp32", ceiling) == pytest.approx(404.8 / 430, rel=1e-4)
    # 8.3 ms against a register peak of 510 GFLOP/s would be 79 %; of what libraries reach it is 94 %.
    assert share_of_ceiling(_RESNET18_FLOP, 8 / 69.4e-3, "fp32", ceiling) == pytest.approx(387.3 / 430, rel=1e-3)
    assert share_of_ceiling(_RESNET18_FLOP, 1 / 4.03e-3, "bf16", ceiling) == pytest.approx(833.7 / 810, rel=1e-3)
    assert share_of_ceiling(_RESNET18_FLOP, 1 / 2.43e-3, "int8 + fp32", ceiling) == pytest.approx(
        1382.6 / 1550, rel=1e-3
    )


@pytest.mark.parametrize(
    ("precision", "gflop_per_s"),
    [
        ("fp32", 430),
        ("bf16", 810),
        ("int8", 1550),
        ("int8-u8s8", 1550),
        ("int8 + fp32", 1550),
        ("fp16", 430),
        ("fp16 + fp32", 430),
        ("bf16 + fp32", 810),
        # As the backends write them: PyTorch and ONNX Runtime on a GPU, engines of every kind.
        ("fp32 (TF32 off)", 430),
        ("int8-u8s8 (TF32 off)", 1550),
        ("fp32 requested; layer types not told by the engine; FLOAT to FLOAT", 430),
        ("bf16 requested; layers bf16, fp32; FLOAT to FLOAT", 810),
        ("fp16 requested; layers fp16, fp32; HALF to HALF", 430),
        ("int8 requested; layers fp16, fp32, int8; UINT8 to FLOAT", 1550),
        ("torch.float16 (see departures)", None),
        ("unknown", None),
        ("torch.float64", None),
        ("", None),
    ],
)
def test_a_trial_is_held_to_the_ceiling_of_the_precision_that_was_read_back(
    ceiling: Ceiling, precision: str, gflop_per_s: float | None
) -> None:
    expected = None if gflop_per_s is None else pytest.approx(gflop_per_s * 1e9)
    assert ceiling_flop_per_s(precision, ceiling) == expected


def test_on_a_gpu_float16_has_its_own_ceiling_or_none(ceiling: Ceiling) -> None:
    gpu = ceiling.model_copy(update={"device": "cuda"})
    assert ceiling_flop_per_s("fp16", gpu) is None
    rated = gpu.model_copy(update={"rates": [*gpu.rates, _rate("convolution", "fp16", 700_000)]})
    assert ceiling_flop_per_s("fp16", rated) == pytest.approx(7e14)
    assert ceiling_flop_per_s("int8 + fp16", rated) == pytest.approx(7e14)
    assert ceiling_flop_per_s("fp16 requested; layers fp16, fp32; HALF to HALF", rated) == pytest.approx(7e14)


def test_what_is_not_known_has_no_share(ceiling: Ceiling) -> None:
    assert share_of_ceiling(None, 100.0, "fp32", ceiling) is None
    assert share_of_ceiling(_RESNET18_FLOP, 100.0, "unknown", ceiling) is None


def test_the_floor_of_a_call_is_its_work_over_the_ceiling(ceiling: Ceiling) -> None:
    assert compute_floor_s(_RESNET18_FLOP, 1, "fp32", ceiling) == pytest.approx(7.81e-3, rel=1e-3)
    assert compute_floor_s(_RESNET18_FLOP, 8, "fp32", ceiling) == pytest.approx(8 * 7.81e-3, rel=1e-3)
    assert compute_floor_s(_RESNET18_FLOP, 1, "unknown", ceiling) is None
    assert compute_floor_s(None, 1, "fp32", ceiling) is None


def test_every_form_of_a_run_has_the_work_of_its_float32_file(
    session_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(session_run.folder)
    base = run.export_folder / "fp32.onnx"
    expected = flops_from_onnx(base).effective_flop
    for artifact in (None, run.checkpoint, base, run.export_folder / "fp32.rtx.engine"):
        assert effective_flop_of(run, artifact) == expected

    def read_again(_: Path) -> None:
        raise AssertionError("the file was read already")

    monkeypatch.setattr("bench.limit.flops_from_onnx", read_again)
    assert effective_flop_of(run) == expected
    monkeypatch.undo()
    other = RunDirectory(tmp_path / "other")
    assert effective_flop_of(other, run.checkpoint) is None
    alone = Path(shutil.copy(base, tmp_path / "alone.onnx"))
    assert effective_flop_of(other, alone) == expected
    alone.write_bytes(b"no ONNX")
    assert effective_flop_of(other, alone) is None


def test_a_table_of_ceilings_has_a_row_for_every_rate_and_for_memory(ceiling: Ceiling) -> None:
    rows = ceiling_rows([ceiling.model_copy(update={"foreign_cores": 0.5})])
    assert {len(row) for row in rows} == {len(CEILING_COLUMNS)}
    assert rows[0] == [
        *("cpu: a processor", "2", "OpenVINO 2026.4.1", "convolution", "fp32"),
        *("430 GFLOP/s", "344 GFLOP/s", "3", "0.50 cores contended"),
    ]
    assert rows[3][5] == "1550 GOP/s"
    assert rows[-1][3:6] == ["copy of memory (read + written)", "", "40.0 GB/s"]
