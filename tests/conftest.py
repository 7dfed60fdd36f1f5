"""What several test files share: one small data set of phantoms, and one run that was really trained and exported.

The run is made once per session by the project's own code; a test that damages it works on a copy.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import pytest

# Before torch is imported, and inherited by every process a test starts: two spinning OpenMP threads on shared
# cores are many times slower than one, and equal numbers of threads are what makes two trainings bit-identical.
os.environ["OMP_NUM_THREADS"] = "1"

# A suite started in the background of a shell inherits an ignored Ctrl-C, and so would every process it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CASE = "d2-resnet18-ce"
BATCH_SIZE = 12


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A folder of runs and the one run in it."""

    runs_folder: Path
    data_folder: Path

    @property
    def folder(self) -> Path:
        return self.runs_folder / CASE


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both data sets of 20 phantoms per class: 30 films train, 9 validate, 21 test."""
    from harness.core.progress import SILENT
    from harness.data.demo import demo_datasets

    folder = tmp_path_factory.mktemp("demo") / "data"
    demo_datasets(folder, images_per_class=20, seed=0, progress=SILENT)
    return folder


@pytest.fixture(scope="session")
def session_run(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> MadeRun:
    """One epoch of d2-resnet18-ce at 64 pixels, as ONNX and, where TensorRT-RTX is installed, as an engine."""
    from export.engine_options import BatchProfile
    from export.many import export_many
    from export.request import ExportRequest
    from harness.core.cases import case_named
    from harness.core.progress import SILENT
    from harness.core.runs import RunDirectory
    from train.recipes import recipe_for_case
    from train.request import TrainRequest
    from train.run import train_run

    runs_folder = tmp_path_factory.mktemp("session") / "runs"
    case = case_named(CASE)
    result = train_run(
        TrainRequest(
            case=case,
            data_folder=demo_data,
            runs_folder=runs_folder,
            name=None,
            recipe=recipe_for_case("quick", case, epochs=1, batch_size=BATCH_SIZE),
            loss=None,
            label_mode="multiclass",
            weights="random",
            seed=0,
            force=False,
        ),
        SILENT,
    )
    assert result.trained
    engine = util.find_spec("tensorrt_rtx") is not None
    profile = BatchProfile(minimum=1, optimum=8, maximum=8)
    request = ExportRequest(engine=engine, flavour="rtx", profile=profile)
    (outcome,) = export_many([RunDirectory(runs_folder / CASE)], request, SILENT)
    assert outcome.error is None, outcome.error
    return MadeRun(runs_folder=runs_folder, data_folder=demo_data)


@pytest.fixture
def copied_run(session_run: MadeRun, tmp_path: Path) -> Callable[[], MadeRun]:
    """Return a function that copies the run, its evaluation set included, to where it may be damaged."""

    def copy() -> MadeRun:
        runs_folder = tmp_path / "runs"
        shutil.copytree(session_run.runs_folder, runs_folder)
        return MadeRun(runs_folder=runs_folder, data_folder=session_run.data_folder)

    return copy
