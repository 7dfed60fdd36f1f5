"""What a record says of the machine: enough that another machine is not taken for this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import machine
from harness.core.machine import machine_description


def test_processors_of_one_name_are_told_apart_by_family_model_and_stepping(monkeypatch: pytest.MonkeyPatch) -> None:
    content = (
        "processor\t: 0\ncpu family\t: {}\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n\nprocessor\t: 1\n"
    )
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    names = []
    for family in (25, 26):
        monkeypatch.setattr(Path, "read_text", lambda _, encoding, family=family: content.format(family))
        names.append(machine_description()["processor"])
    assert names == [f"AMD EPYC (family {family}, model 17, stepping 1)" for family in (25, 26)]
    # As on arm64, where the kernel tells no name.
    monkeypatch.setattr(Path, "read_text", lambda _, encoding: "processor\t: 0\nFeatures\t: fp asimd\n")
    assert machine_description()["processor"]


def test_a_machine_with_gpus_names_them_and_one_without_has_no_word_of_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    assert "gpus" not in machine_description()
    for slot, model in (("0000:81:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA H100 80GB HBM3")):
        (tmp_path / slot).mkdir()
        (tmp_path / slot / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 1\n")
    assert machine_description()["gpus"] == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]
