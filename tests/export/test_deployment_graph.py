"""What deployment puts inside the graph gives what the project computes outside of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.deployment_graph import give_probabilities, take_pixels
from export.onnx_export import save_and_check
from harness.core.contract import Preprocessing
from harness.core.metrics import answers_from_probabilities, probabilities_from_logits
from harness.core.operating_point import scaled_probabilities
from harness.core.runs import RunDirectory
from harness.data.evaluation_set import evaluation_set_folder, evaluation_set_from_folder
from harness.data.preprocessing import images_from_pixels

_PRECISIONS = ["fp32", "fp16", "int8", "int8-u8s8"]


def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def preprocessing(every_precision: Path) -> Preprocessing:
    return RunDirectory(every_precision).read_record().contract.preprocessing


@pytest.fixture(scope="module")
def pixels_bhwc(every_precision: Path, preprocessing: Preprocessing) -> Any:
    run = RunDirectory(every_precision)
    data = run.read_record().identity.data
    return np.array(
        evaluation_set_from_folder(evaluation_set_folder(run.evaluation_sets, data, preprocessing)).pixels_bhwc
    )


def _with_pixels(plain: Path, out: Path, preprocessing: Preprocessing) -> Path:
    model = onnx_ir.load(plain)
    take_pixels(model, preprocessing)
    save_and_check(model, out)
    return out


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_pixels_in_give_the_logits_of_the_float_path(
    every_precision: Path, preprocessing: Preprocessing, pixels_bhwc: Any, tmp_path: Path, precision: str
) -> None:
    plain = every_precision / "export" / f"{precision}.onnx"
    (expected_bc,) = _session(plain).run(None, {"image": images_from_pixels(pixels_bhwc, preprocessing)})
    session = _session(_with_pixels(plain, tmp_path / "pixels.onnx", preprocessing))
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ("pixels", "tensor(uint8)", [64, 64, 3])
    (logits_bc,) = session.run(None, {"pixels": pixels_bhwc})
    np.testing.assert_allclose(logits_bc, expected_bc, rtol=0, atol=1e-6)
    assert (logits_bc.argmax(axis=1) == expected_bc.argmax(axis=1)).all()


@pytest.mark.parametrize("other", [{"mean": (0.5, 0.456, 0.406)}, {"std": (0.229, 0.224, 0.25)}], ids=["mean", "std"])
def test_another_normalisation_gives_other_logits(
    every_precision: Path, preprocessing: Preprocessing, pixels_bhwc: Any, tmp_path: Path, other: dict[str, Any]
) -> None:
    plain = every_precision / "export" / "fp32.onnx"
    (expected_bc,) = _session(plain).run(None, {"image": images_from_pixels(pixels_bhwc[:2], preprocessing)})
    changed = preprocessing.model_copy(update=other)
    (logits_bc,) = _session(_with_pixels(plain, tmp_path / "pixels.onnx", changed)).run(
        None, {"pixels": pixels_bhwc[:2]}
    )
    assert np.abs(logits_bc - expected_bc).max() > 1e-4


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_the_exported_file_gives_probabilities_and_answers_of_its_plain_sibling(
    every_precision: Path, preprocessing: Preprocessing, pixels_bhwc: Any, precision: str
) -> None:
    folder = every_precision / "export"
    images_bchw = images_from_pixels(pixels_bhwc, preprocessing)
    (logits_bc,) = _session(folder / f"{precision}.onnx").run(None, {"image": images_bchw})
    probabilities_bc, answers_b = _session(folder / f"{precision}-uint8in-prob.onnx").run(
        ["probabilities", "answer"], {"pixels": pixels_bhwc}
    )
    np.testing.assert_allclose(probabilities_bc, probabilities_from_logits(logits_bc, "multiclass"), atol=1e-5)
    assert answers_b.dtype == np.int64
    np.testing.assert_array_equal(answers_b, logits_bc.argmax(axis=1))


def _ends(tmp_path: Path, label_mode: Any, temperature: float | None, classes: int) -> Any:
    shape = ["batch", classes]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["logits"])],
        "logits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    model = onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    give_probabilities(model, label_mode, temperature)
    save_and_check(model, tmp_path / "ends.onnx")
    return _session(tmp_path / "ends.onnx")


@pytest.mark.parametrize("temperature", [None, 0.4, 2.5])
def test_probabilities_have_the_temperature_and_the_answer_does_not_care(
    tmp_path: Path, temperature: float | None
) -> None:
    logits_bc = (5 * np.random.default_rng(0).normal(size=(200, 3))).astype(np.float32)
    probabilities_bc, answers_b = _ends(tmp_path, "multiclass", temperature, 3).run(None, {"x": logits_bc})
    expected_bc = scaled_probabilities(logits_bc, "multiclass", temperature)
    np.testing.assert_allclose(probabilities_bc, expected_bc, atol=1e-6)
    np.testing.assert_array_equal(answers_b, answers_from_probabilities(expected_bc, "multiclass"))


_ADVERSARIAL = {
    "none above one half": [-3, -1, -2, -4],
    "several above": [-1, 2, 5, 3],
    "the last above": [-1, -2, -3, 1e-3],
    "tie of the largest": [-2, -1, -1, -3],
    "tie above": [-1, 4, 4, -1],
    "exactly one half": [-1, 0, -2, 0],
    "all exactly one half": [0, 0, 0, 0],
    "one half and above": [0, -1, 1, 0],
    "a float32 sigmoid rounds to one half": [-1e-9, 1e-9, 3, -5],
    "a float32 sigmoid is zero for all": [-400, -300, -200, -250],
    "a float32 sigmoid is one for some": [-1, 90, 100, 80],
    "just below one half, hardly apart": [-2e-8, -1e-8, -3e-8, -1],
}


@pytest.mark.parametrize("case", _ADVERSARIAL)
def test_independent_labels_are_decoded_by_the_rule_of_the_metrics(tmp_path: Path, case: str) -> None:
    logits_bc = np.array([_ADVERSARIAL[case]], dtype=np.float32)
    probabilities_bc, answers_b = _ends(tmp_path, "multilabel", None, 4).run(None, {"x": logits_bc})
    expected_bc = probabilities_from_logits(logits_bc, "multilabel")
    np.testing.assert_allclose(probabilities_bc, expected_bc, atol=1e-6)
    np.testing.assert_array_equal(answers_b, answers_from_probabilities(expected_bc, "multilabel"))


@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
def test_random_logits_are_decoded_by_the_rule_of_the_metrics(tmp_path: Path, label_mode: Any) -> None:
    random = np.random.default_rng(0)
    # Whole numbers tie often, and hit one half.
    logits_bc = np.concatenate([random.integers(-3, 3, (2000, 4)), 2 * random.normal(size=(2000, 4))]).astype(
        np.float32
    )
    _, answers_b = _ends(tmp_path, label_mode, None, 4).run(None, {"x": logits_bc})
    expected_bc = probabilities_from_logits(logits_bc, label_mode)
    np.testing.assert_array_equal(answers_b, answers_from_probabilities(expected_bc, label_mode))
