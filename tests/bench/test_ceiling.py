"""A real measurement with tiny sizes, kept and reused only where it is of this machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import ceiling as ceiling_module
from bench.ceiling import Ceiling, MeasureCeiling, ceiling_path, ensured_ceiling, measure_ceiling, stored_ceiling
from bench.ceiling_kernels import operation_model, work_flop
from bench.ceiling_libraries import torch_library
from bench.ceiling_worker import copy_in_threads, durations_of, measured_ceiling
from harness.core.errors import BackendError
from harness.core.machine import machine_description
from harness.core.onnx_flops import flops_from_model

_TINY = MeasureCeiling(
    threads=1, channels=32, side_px=10, batch_size=2, matrix_size=64, copied_bytes=1 << 20, rounds=2, round_s=0.0
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def request(device: Any, threads: int) -> MeasureCeiling:
        return _TINY.model_copy(update={"device": device, "threads": threads})

    monkeypatch.setattr(ceiling_module, "request_for", request)
    monkeypatch.setattr("bench.timing.wait_until_quiet", lambda _: True)


def test_a_child_process_measures_every_operation_in_the_precision_that_it_really_runs_in(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: the extra `openvino`")
    measured = measure_ceiling(_TINY, tmp_path / "ceiling.log")
    assert (measured.library, measured.device, measured.threads) == ("OpenVINO", "cpu", 1)
    found = {(each.operation, each.precision) for each in measured.rates}
    assert {("convolution", "fp32"), ("convolution", "int8"), ("matrix product", "fp32")} <= found
    # What a processor lacks (bf16) is not passed off as measured, and said.
    assert len(found) + len(measured.notes) == 6
    for rate in measured.rates:
        assert len(rate.duration_s) == 4
        assert all(each > 0 for each in rate.duration_s)
        assert math.isfinite(rate.flop_per_s)
        assert 0 < rate.median_flop_per_s <= rate.flop_per_s
    assert measured.memory.counted_bytes == 2 << 20
    assert math.isfinite(measured.bandwidth_bytes_per_s)
    assert measured.bandwidth_bytes_per_s > 0
    assert measured.machine == machine_description()
    assert measured.flop_per_s("fp32") == max(each.flop_per_s for each in measured.rates if each.precision == "fp32")
    assert measured.flop_per_s("fp8") is None


def test_a_ceiling_of_this_machine_is_reused_and_one_of_another_is_not(tmp_path: Path, tiny: None) -> None:
    first = ensured_ceiling(tmp_path, threads=1)
    path = ceiling_path(tmp_path, "cpu", 1)
    assert path == tmp_path / "ceiling" / "cpu.t1.json"
    quiet = first.model_copy(update={"foreign_cores": 0.0})
    path.write_text(quiet.model_dump_json())
    assert ensured_ceiling(tmp_path, threads=1) == quiet == stored_ceiling(tmp_path, "cpu", 1)
    assert stored_ceiling(tmp_path, "cpu", 2) is None
    again = ensured_ceiling(tmp_path, threads=1, again=True)
    assert again.memory.duration_s != quiet.memory.duration_s

    content = json.loads(path.read_text())
    content["machine"]["processor"] = "another (family 26)"
    path.write_text(json.dumps(content))
    assert stored_ceiling(tmp_path, "cpu", 1) is None
    for damaged in (b"{", b"{}", b"\xff"):
        path.write_bytes(damaged)
        assert stored_ceiling(tmp_path, "cpu", 1) is None
    assert ensured_ceiling(tmp_path, threads=1).machine == machine_description()


def test_a_disturbed_ceiling_is_measured_again_and_the_better_of_both_counts(tmp_path: Path, tiny: None) -> None:
    first = ensured_ceiling(tmp_path, threads=1)
    fast, slow = first.rates[0], first.rates[1]
    rates = [
        fast.model_copy(update={"duration_s": [1e-12]}),
        slow.model_copy(update={"duration_s": [1e6]}),
        *first.rates[2:],
    ]
    disturbed = first.model_copy(update={"foreign_cores": 1.0, "rates": rates})
    assert disturbed.contended
    ceiling_path(tmp_path, "cpu", 1).write_text(disturbed.model_dump_json())
    second = ensured_ceiling(tmp_path, threads=1)
    assert second.rates[0].duration_s == [1e-12]
    assert second.rates[1].duration_s != [1e6]


def test_quiet_is_waited_for_before_a_measurement_and_not_for_a_stored_one(
    tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr("bench.timing.wait_until_quiet", waited_s.append)
    first = ensured_ceiling(tmp_path, threads=1)
    assert waited_s == [15.0]
    ceiling_path(tmp_path, "cpu", 1).write_text(first.model_copy(update={"foreign_cores": 0.0}).model_dump_json())
    ensured_ceiling(tmp_path, threads=1)
    assert waited_s == [15.0]


def test_the_process_that_measures_is_started_as_every_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    # Which holds Ctrl-C until the process is on the stack that ends it.
    monkeypatch.setattr(ceiling_module, "started_worker", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_ceiling(_TINY, tmp_path / "ceiling.log")


def test_the_work_is_what_the_projects_own_count_says_of_the_very_graphs() -> None:
    request = MeasureCeiling(threads=1, channels=8, side_px=9, batch_size=3, matrix_size=12)
    for quantised in (False, True):
        convolution = flops_from_model(operation_model(request, "convolution", quantised=quantised))
        assert convolution.nominal_flop == convolution.effective_flop  # No padding.
        assert 3 * convolution.effective_flop == work_flop(request, "convolution")
        product = flops_from_model(operation_model(request, "matrix product", quantised=quantised))
        assert 12 * product.effective_flop == work_flop(request, "matrix product") == 2 * 12**3


def test_without_openvino_torch_is_asked_and_says_what_it_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: MeasureCeiling) -> Any:
        raise ImportError("No module named 'openvino'")

    monkeypatch.setattr("bench.ceiling_worker.openvino_library", absent)
    measured = measured_ceiling(_TINY)
    assert measured.library == "torch"
    assert {each.precision for each in measured.rates} == {"fp32", "bf16"}
    assert "No module named 'openvino'" in measured.notes[0]
    assert "int8" in measured.notes[1]
    assert all(each > 0 for rate in measured.rates for each in rate.duration_s)


def test_a_gpu_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match="torch sees no GPU"):
        measure_ceiling(_TINY.model_copy(update={"device": "cuda"}), tmp_path / "ceiling.log")


@pytest.mark.gpu
def test_a_gpu_has_a_ceiling_in_three_precisions(tmp_path: Path) -> None:
    measured: Ceiling = ensured_ceiling(tmp_path, device="cuda", threads=1)
    assert {each.precision for each in measured.rates} == {"fp32", "fp16", "bf16"}
    assert all(math.isfinite(each.flop_per_s) for each in measured.rates)
    assert measured.machine["gpus"]


def test_every_thread_copies_its_part() -> None:
    copy_in_threads(1001, 3)()
    library = torch_library(_TINY)
    assert len(library.kernels) == 4
    calls = []
    durations_s = durations_of([lambda: calls.append("a"), lambda: calls.append("b")], _TINY)
    # Warmed up once, then in turn.
    assert calls == [*"ab", *"aabb" * 2]
    assert np.array(durations_s).shape == (2, 4)
