"""A handful of the mutants of tests/mutants on the session's run; all of them are among the slow tests."""

from __future__ import annotations

import json
import shutil
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.core.progress import SILENT
from harness.core.runs import RunDirectory
from tests.mutants.__main__ import main, summary_of
from tests.mutants.caller import Harm
from tests.mutants.judging import Judgement, MutantRow, RebuildRow
from tests.mutants.running import MUTANTS, REBUILDS, mutant_rows, rebuild_rows
from tests.mutants.subject import Subject, export

_HANDFUL = (
    ("two classes swapped", "fp32.onnx"),
    ("wrong mean", "fp32-uint8in-prob.onnx"),
    ("rows of a batch in reverse", "fp32.onnx"),
    ("NaN for one film", "fp32.onnx"),
    ("order of classes permuted in the file", "fp32.onnx"),
)
_ENGINE = ("the end missing, sidecar of that", "fp32.rtx.engine")
_REBUILDS = (("other names of nodes and tensors", "fp32.onnx"), ("Identity behind every ReLU", "fp32.onnx"))


@pytest.fixture(scope="module")
def subject(session_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A copy of the session's run, with normalisation and probabilities inside the graph too."""
    runs_folder = tmp_path_factory.mktemp("mutants") / "runs"
    shutil.copytree(session_run.runs_folder, runs_folder)
    run = RunDirectory(runs_folder / session_run.folder.name)
    export(run, ("fp32",), 16, SILENT)
    return Subject(run=run, colour=run, calibration=16)


def test_a_handful_of_mutants_is_caught_each_by_the_right_reason(subject: Subject, tmp_path: Path) -> None:
    wanted = (*_HANDFUL, _ENGINE) if util.find_spec("tensorrt_rtx") else _HANDFUL
    chosen = [each for each in MUTANTS if (each.name, each.file) in wanted]
    assert len(chosen) == len(wanted)
    rows, left_out = mutant_rows(subject, chosen, tmp_path, SILENT)
    assert left_out == []
    for row in rows:
        assert row.judgement.word == "FAIL", (row.mutant.name, row.judgement)
        assert row.caught, (row.mutant.name, row.judgement)
    (spoilt,) = (row for row in rows if row.mutant.name == "NaN for one film")
    assert spoilt.harm is not None
    assert spoilt.harm.no_numbers == 1


def test_a_model_that_is_only_written_otherwise_is_not_accused(subject: Subject, tmp_path: Path) -> None:
    chosen = [each for each in REBUILDS if (each.name, each.file) in _REBUILDS]
    rows, left_out = rebuild_rows(subject, chosen, tmp_path, SILENT)
    assert (len(rows), left_out) == (2, [])
    for row in rows:
        assert not row.accused, row.judgement
        assert row.harm == Harm(accuracy_change=0.0, changed=0.0, decisions=0.0, no_numbers=0)


def _row(word: str, step: str, reason: str, *, harm: Harm | None = None) -> MutantRow:
    mutant = next(each for each in MUTANTS if each.name == "NaN for one film")
    harm = harm or Harm(accuracy_change=0.0, changed=0.0, decisions=0.0, no_numbers=1)
    return MutantRow(mutant=mutant, harm=harm, judgement=Judgement(word=word, step=step, reason=reason))


def test_only_the_right_step_in_the_right_words_counts_as_caught() -> None:
    right = "NaN or infinity in the answers to 1 of 24 images"
    rows = [
        _row("FAIL", "numeric", right),
        _row("FAIL", "contract", right),
        _row("FAIL", "numeric", "a probability differs by 0.2"),
        _row("INCONCLUSIVE", "evidence", right),
        _row("PASS", "parity", "", harm=Harm(accuracy_change=0.005, changed=0.005, decisions=0.0, no_numbers=0)),
    ]
    rebuild = RebuildRow(name="", file="", backend="", harm=None, judgement=rows[1].judgement)
    assert [row.remark for row in rows] == ["", "WRONG REASON", "WRONG REASON", "MISSED", "harmless"]
    assert summary_of(rows, [rebuild]) == {
        "mutants": 5,
        "harmful": 4,
        "caught": 1,
        "rebuilds": 1,
        "false_alarms": 1,
    }


def test_there_are_as_many_as_were_promised() -> None:
    assert len(MUTANTS) >= 25
    assert len({(each.name, each.file) for each in MUTANTS}) == len(MUTANTS)
    assert len(REBUILDS) == 25


@pytest.mark.slow
def test_every_harmful_mutant_is_caught_and_no_rebuild_is_accused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--work", str(tmp_path)], catch_exceptions=False)
    summary = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 0, result.stdout
    assert summary["mutants"] >= 25
    assert summary["caught"] == summary["harmful"] >= 25
    assert summary["false_alarms"] == 0
