"""What is asked of an engine is refused in words where the flavour does not have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.engine_options import BatchProfile, EngineOptions
from harness.core.errors import UsageError
from harness.core.rtx_header import TARGETS


@pytest.mark.parametrize("sizes", [(0, 1, 2), (4, 2, 8), (1, 9, 8), (-1, -1, -1)])
def test_batch_sizes_that_do_not_rise_from_one_are_refused(sizes: tuple[int, int, int]) -> None:
    minimum, optimum, maximum = sizes
    with pytest.raises(UsageError, match="must rise from 1") as caught:
        BatchProfile(minimum=minimum, optimum=optimum, maximum=maximum)
    assert "minimum <= optimum <= maximum" in caught.value.hint


@pytest.mark.parametrize("target", ["SM90", "SM90A", "SM100", "SM100A", "SM103", "SM103F", "SM110"])
@pytest.mark.parametrize("flavour", ["rtx", "tensorrt"])
def test_gpus_of_the_data_centre_are_refused_with_the_flavour_that_has_them(target: str, flavour: Any) -> None:
    with pytest.raises(UsageError, match=f"TensorRT-RTX does not build for {target}: .*H100") as caught:
        EngineOptions(targets=(target,)).check(flavour)
    assert "--flavour tensorrt` and without `--target`" in caught.value.hint


@pytest.mark.parametrize("target", ["SM60", "SM87", "SM999", "SM122", "RTX4090", "CURRENT", "NONE", "sm86", ""])
def test_a_target_that_there_is_not_is_refused_with_those_there_are(target: str) -> None:
    with pytest.raises(UsageError, match="not a GPU that TensorRT-RTX builds for") as caught:
        EngineOptions(targets=("SM86", target)).check("rtx")
    assert all(name.lower() in caught.value.hint for name in TARGETS)


def test_every_target_of_rtx_passes_and_tensorrt_takes_none() -> None:
    EngineOptions(targets=TARGETS).check("rtx")
    EngineOptions().check("rtx")
    with pytest.raises(UsageError, match="GPU of this machine") as caught:
        EngineOptions(targets=("SM86",)).check("tensorrt")
    assert "--hardware-compatibility" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"timing_cache": Path("timings")}, "--timing-cache"),
        ({"hardware_compatibility": "ampere-plus"}, "--hardware-compatibility"),
        ({"version_compatible": True}, "--version-compatible"),
    ],
)
def test_what_only_tensorrt_has_is_refused_of_rtx(option: dict[str, Any], name: str) -> None:
    EngineOptions(**option).check("tensorrt")
    with pytest.raises(UsageError, match=f"^{name}: TensorRT-RTX has no such thing") as caught:
        EngineOptions(**option).check("rtx")
    assert "--flavour tensorrt" in caught.value.hint


def test_what_is_recorded_knows_neither_the_order_of_targets_nor_the_timing_cache() -> None:
    one = EngineOptions(targets=("SM89", "SM86", "SM89"), timing_cache=Path("timings"))

    assert one.recorded() == EngineOptions(targets=("SM86", "SM89")).recorded()
    assert one.recorded()["asked_targets"] == ["SM86", "SM89"]
    for other in ({"tf32": True}, {"workspace_bytes": 1}, {"version_compatible": True}):
        assert EngineOptions(**other).recorded() != EngineOptions().recorded()
