"""What an engine's sidecar says of the ONNX file that it was built from; no runtime is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.engine_messages import BuiltPlan
from export.engines import ensured_engine
from export.making import Maker
from export.request import ExportRequest
from harness.core.artifacts import Kind, write_artifact
from harness.core.contract import Contract, Preprocessing
from harness.core.files import write_text_atomically
from harness.core.operating_point import OperatingPoint
from harness.core.passport import GoldenPair, Passport
from harness.core.progress import SILENT
from harness.core.variants import Variant

_PASSPORT = Passport(
    contract=Contract(
        case="d2-resnet18-ce",
        class_names=("covid", "normal", "pneumonia"),
        label_mode="multiclass",
        preprocessing=Preprocessing(resize_px=18, crop_px=16),
        synthetic=True,
    ),
    checkpoint_sha256="ab" * 32,
    operating_point=OperatingPoint(),
    pair=GoldenPair(png_base64="", logits=(0.0, 1.0, 2.0)),
)


def test_an_engine_says_which_images_its_int8_has_seen_and_what_was_chosen_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = BuiltPlan(version="1.7", targets=["SM89"], tf32=False, build_s=0.0, log=[], address_randomisation="off")

    def plan_from_onnx(path: Path, *, scratch: Path, **options: Any) -> tuple[Path, BuiltPlan]:
        (scratch / "plan").write_bytes(b"plan")
        return scratch / "plan", built

    monkeypatch.setattr("export.engines.imported_flavour", lambda flavour: SimpleNamespace(__version__="1.7"))
    monkeypatch.setattr("export.engines.plan_from_onnx", plan_from_onnx)
    seen = {"calibration": {"rows": [0, 1], "sha256": "ab"}, "float_layers": ["conv1"], "int8": "auto"}
    path = tmp_path / "run" / "export" / "int8.onnx"
    onnx_model = write_artifact(
        path,
        lambda place: write_text_atomically(place, "a model"),
        kind=Kind.ONNX_MODEL,
        parents={},
        details={**seen, "input": "image", "build_s": 3.0, "calibration_s": 2.5},
    )
    sidecar = ensured_engine(
        path, onnx_model, Variant(precision="int8"), _PASSPORT, "rtx", ExportRequest(), Maker(force=False), SILENT
    )
    assert {key: sidecar.details.get(key) for key in seen} == seen
    assert (sidecar.details["calibration_s"], sidecar.details["builder_s"]) == (2.5, 0.0)
    # Its own time, with the start of the builder's process, and not that of the file that it was made from.
    build_s = sidecar.details["build_s"]
    assert isinstance(build_s, float)
    assert build_s > 0
    assert build_s != 3.0
