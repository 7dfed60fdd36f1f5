"""What somebody who trusts a file would get: its answers to the test films, asked and counted without bench.

The caller reads class names, preprocessing, temperature and threshold from the file's own metadata, and from the
sidecar where the file has the run's and the sidecar has not. Answers are compared by the names of the classes, so
that a permuted order does its harm. Shapes: b images, c classes.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from scipy.special import softmax

from harness.core.artifacts import sidecar_path
from harness.core.files import sha256_from_file
from harness.core.runs import RunDirectory
from tests.mutants.bed import Bed

_BATCH_SIZE = 8
_Run = Callable[[NDArray[Any]], list[NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Class names answered and whether "some finding" was decided, for every test film; `right_b` by the true names."""

    answers_b: NDArray[Any]
    findings_b: NDArray[np.bool_]
    numbers_b: NDArray[np.bool_]
    right_b: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Fractions of the test films: gain of right answers, changed answers, changed decisions, answers not numbers."""

    accuracy_change: float
    changed: float
    decisions: float
    no_numbers: int

    def beyond(self, margin: float) -> bool:
        return self.no_numbers > 0 or max(abs(self.accuracy_change), self.changed, self.decisions) > margin


def harm_of(honest: Asked, asked: Asked) -> Harm:
    return Harm(
        accuracy_change=float(asked.right_b.mean() - honest.right_b.mean()),
        changed=float((asked.answers_b != honest.answers_b).mean()),
        decisions=float((asked.findings_b != honest.findings_b).mean()),
        no_numbers=int((~asked.numbers_b).sum()),
    )


class Films:
    """The test films of a run and their true classes, read from the evaluation set's own two files."""

    def __init__(self, run: RunDirectory) -> None:
        (folder,) = (path.parent for path in run.evaluation_sets.glob("*/rows.csv") if _belongs(path, run))
        with (folder / "rows.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        names = json.loads((folder / "rows.csv.json").read_text(encoding="utf-8"))["details"]["class_names"]
        test = [number for number, row in enumerate(rows) if row["split"] == "test"]
        self.pixels_bhwc: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")[test]
        self.classes_b = np.array([names[int(rows[number]["label"])] for number in test])
        self.honest = _passport(run.export_folder / "fp32.onnx")
        self.known: dict[str, list[NDArray[Any]]] = {}


def _belongs(table: Path, run: RunDirectory) -> bool:
    golden = json.loads(sidecar_path(run.golden).read_text(encoding="utf-8"))
    images = json.loads((table.parent / "images.npy.json").read_text(encoding="utf-8"))
    return bool(golden["parents"]["images"] == images["sha256"])


def _passport(path: Path) -> dict[str, Any]:
    """Return what a sidecar says of its file."""
    content = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    contract, point = content["contract"], content["details"]["passport"]["operating_point"]
    return {
        "class_names": contract["class_names"],
        "preprocessing": contract["preprocessing"],
        "operating_point": point,
    }


def _believed(films: Films, path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    found = {}
    for key, honest in films.honest.items():
        written = metadata.get(f"cxr_harness.{key}")
        in_file = honest if written is None else json.loads(written)
        found[key] = in_file if in_file != honest or not sidecar_path(path).is_file() else _passport(path)[key]
    return found


def ask(films: Films, bed: Bed, *, backend: str, batch_size: int = _BATCH_SIZE) -> Asked:
    """Ask the bed's file about every test film, in batches as a service would."""
    path = bed.path
    if backend == "openvino":
        metadata, takes_pixels, run = _openvino(path)
    else:
        metadata, takes_pixels, run = _onnx_runtime(path)
    believed = _believed(films, path, metadata)
    preprocessing = None if takes_pixels else believed["preprocessing"]
    known = f"{_network_of(path)} {preprocessing} {batch_size}"
    if known not in films.known:
        films.known[known] = _answers(films.pixels_bhwc, preprocessing, batch_size, run)
    outputs_bc, *given = films.known[known]
    outputs_bc = outputs_bc.astype(np.float64)
    numbers_b = np.isfinite(outputs_bc).all(axis=1)
    with_answers = len(given) > 0
    temperature = believed["operating_point"]["temperature"] or 1.0
    probabilities_bc = outputs_bc if with_answers else softmax(outputs_bc / temperature, axis=1)
    indices_b = given[0] if with_answers else outputs_bc.argmax(axis=1)
    names = believed["class_names"]
    answers_b = np.array([names[index] if index < len(names) else "no such class" for index in indices_b])
    threshold = believed["operating_point"]["threshold"]
    score_b = 1 - probabilities_bc[:, names.index("normal")]
    return Asked(
        answers_b=answers_b,
        findings_b=np.asarray(score_b > (0.5 if threshold is None else threshold)),
        numbers_b=numbers_b,
        right_b=np.asarray((answers_b == films.classes_b) & numbers_b),
    )


def _network_of(path: Path) -> str:
    """Return a hash of the network without what is written on it: many mutants are only about the latter."""
    if path.suffix == ".xml":
        return f"{sha256_from_file(path)} {sha256_from_file(path.with_suffix('.bin'))}"
    model = onnx.load(path)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _answers(
    pixels_bhwc: NDArray[np.uint8], preprocessing: dict[str, Any] | None, batch_size: int, run: _Run
) -> list[NDArray[Any]]:
    parts = []
    for start in range(0, len(pixels_bhwc), batch_size):
        batch_bhwc = pixels_bhwc[start : start + batch_size]
        parts.append(run(batch_bhwc if preprocessing is None else _normalised(batch_bhwc, preprocessing)))
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _normalised(pixels_bhwc: NDArray[np.uint8], preprocessing: dict[str, Any]) -> NDArray[np.float32]:
    mean, std = (np.array(preprocessing[name], dtype=np.float32) for name in ("mean", "std"))
    images_bhwc = (pixels_bhwc.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(images_bhwc.transpose(0, 3, 1, 2))


def _onnx_runtime(path: Path) -> tuple[dict[str, str], bool, _Run]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    return metadata, entry.name == "pixels", lambda images: session.run(None, {entry.name: images})


def _openvino(path: Path) -> tuple[dict[str, str], bool, _Run]:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    # What was exported is to be measured, not what a runtime makes of it on a processor with bfloat16.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    pixels = model.inputs[0].any_name == "pixels"
    entries = model.get_rt_info(["cxr_harness"]).value if model.has_rt_info(["cxr_harness"]) else {}
    metadata = {f"cxr_harness.{key}": str(getattr(value, "value", value)) for key, value in entries.items()}
    return metadata, pixels, lambda images: [np.array(each) for each in compiled(images).values()]
