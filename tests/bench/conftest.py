"""What the tests of scenarios and pauses share: a trial of the session's run whose answers are the golden's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.backends.interface import LoadRequest
from bench.messages import Load
from bench.results import Trial
from bench.scenarios import Subject
from harness.core.contract import Preprocessing
from harness.core.passport import golden_pair
from harness.core.runs import RunDirectory
from harness.data.golden import pair_pixels

_ROWS = [59, 3, 40, 41, 42, 0, 7]


@pytest.fixture
def make_subject(session_run: Any, tmp_path: Path) -> Callable[..., Subject]:
    """Return a function that makes a subject of the session's float32 file, with the golden's answers."""

    def make(*, batch_size: int = 1, backend: str = "onnxruntime", shift: float = 0.0) -> Subject:
        (images,) = session_run.runs_folder.glob("evaluation-sets/*/images.npy")
        with np.load(session_run.folder / "golden.npz") as golden:
            logits_bc = golden["logits_bc"][_ROWS] + np.float32(shift)
        load = Load(
            backend=backend,
            request=LoadRequest(
                artifact=session_run.folder / "export" / "fp32.onnx",
                case="d2-resnet18-ce",
                batch_size=batch_size,
                image_px=64,
                class_count=3,
                threads=1,
            ),
            images=images,
            rows=_ROWS,
            preprocessing=Preprocessing(resize_px=73, crop_px=64),
            pair=golden_pair(pair_pixels(64), np.zeros(3, dtype=np.float32)),
        )
        trial = Trial(
            run="d2-resnet18-ce",
            variant="fp32",
            artifact="export/fp32.onnx",
            backend=backend,
            precision="fp32",
            batch_size=batch_size,
            threads=1,
        )
        return Subject(
            run=RunDirectory(tmp_path / "run"),
            trial=trial,
            load=load,
            artifact_sha256="0" * 64,
            verdict="PASS",
            answers={"rows": np.array(_ROWS), "outputs_bc": logits_bc},
        )

    return make
