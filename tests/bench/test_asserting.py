"""`assert_parity` without pytest: what may be given, what is refused, and what each message says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.asserting import InconclusiveParityWarning, Options, assert_parity, parity_outcome
from bench.gate import Word
from harness.core.errors import BackendError

Array = npt.NDArray[Any]
_NAMES = ("covid", "normal", "pneumonia")
_COUNT = 300
_LABELS = np.arange(_COUNT) % 3
# An image [3, 2, 2] whose channels are the logits, up to noise that no answer depends on.
_IMAGES = (
    4 * np.eye(3)[_LABELS][:, :, None, None] + np.random.default_rng(0).normal(0, 0.1, (_COUNT, 3, 2, 2))
).astype(np.float32)


def _model(images: Array) -> Array:
    return np.asarray(images.mean(axis=(2, 3)))


def _changed(*rows: int) -> Array:
    """Logits with the answers of these images made wrong."""
    logits = _model(_IMAGES).copy()
    logits[list(rows)] = np.roll(logits[list(rows)], 1, axis=1)
    return logits


def _outcome(candidate: object, labels: Any = _LABELS, images: object = _IMAGES, **options: Any) -> Any:
    return parity_outcome(candidate, _model, images, labels, Options(**options))


def _onnx(path: Path, *, batch: int | str = "b", shift: float = 0.0, metadata: dict[str, str] | None = None) -> Path:
    """Write the model as a file; `shift` damages its first class."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Add", ["flat", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.array([shift, 0, 0], dtype=np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {f"cxr_harness.{key}": value for key, value in (metadata or {}).items()})
    onnx.save(model, path)
    return path


def test_the_same_function_passes_and_its_figures_are_returned() -> None:
    outcome = assert_parity(lambda images: images.mean(axis=(2, 3)), _model, _IMAGES, _LABELS)
    assert outcome.verdict.word is Word.PASS
    assert (outcome.parity.images, outcome.parity.changed_answers, outcome.parity.accuracy) == (_COUNT, 0, 1.0)
    assert set(outcome.parity.repeats_max_abs_dp) == {
        "a second call with the same images",
        "another row of the batch",
        "a batch of 1",
    }
    assert outcome.changed == ()


def test_a_numeric_failure_names_images_labels_answers_and_probabilities() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_parity(_changed(3, 100), _model, _IMAGES, _LABELS, class_names=_NAMES)
    message = str(caught.value)
    assert message.startswith("parity FAIL at the step `numeric` (fp32): a probability differs by 0.9")
    assert "99.33 %: 2 of 300 answers changed, at most 2.08 % change" in message
    assert "100.00 % -> 99.33 % of 300 labelled images" in message
    assert "loss of accuracy 0.67 points, 90 % interval" in message
    assert "margin 1 points" in message
    assert "    image 3, label covid: covid 0.9" in message
    assert "    image 100, label normal: normal 0.9" in message
    assert "-> pneumonia 0.9" in message
    assert "not checked" in message
    assert "What to do: " in message


def test_the_image_that_moved_most_is_named_where_no_answer_changed() -> None:
    logits = _changed()
    logits[[50, 200], 0] += [0.1, 0.5]
    # Between two classes, the third left as it is.
    shares = np.exp(logits[122]) / np.exp(logits[122]).sum()
    logits[122] = np.log(shares + np.array([0.03, 0.0, -0.03]))
    outcome = _outcome(logits, class_names=_NAMES)
    assert outcome.furthest.index == 122
    assert re.search(r"largest \|dp\|     0\.0\d+, image 122, class covid: 0\.01\d+ -> 0\.04\d+", outcome.message)
    assert "changed answers" not in outcome.message


def test_only_the_first_changed_images_are_shown() -> None:
    message = _outcome(_changed(*range(40))).message
    assert "(the first 5 of 40)" in message
    assert "image 4," in message
    assert "image 5," not in message


def test_lower_precision_has_its_own_rule_and_then_accuracy_decides() -> None:
    count = 3000
    labels = np.arange(count) % 3
    golden = (5 * np.eye(3)[labels]).astype(np.float32)
    candidate = golden.copy()
    candidate[:40] = np.roll(candidate[:40], 1, axis=1)
    words = {}
    for margin in (0.005, 0.015, 0.05):
        outcome = parity_outcome(candidate, golden, None, labels, Options(margin=margin, precision="int8"))
        words[margin] = (outcome.verdict.word, outcome.verdict.step)
    assert words == {
        0.005: (Word.FAIL, "accuracy"),
        0.015: (Word.INCONCLUSIVE, "evidence"),
        0.05: (Word.PASS, "parity"),
    }


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda logits: logits[::-1], "another row of the batch"),
        (lambda logits: logits + 0.05 * np.arange(len(logits))[:, None] * np.eye(3)[0], "another row of the batch"),
        (lambda logits: logits * (1.1 if len(logits) > 1 else 1.0), "a batch of 1"),
    ],
    ids=["mixed up", "by row", "by size"],
)
def test_answers_that_depend_on_the_batch_fail(damage: Callable[[Array], Array], where: str) -> None:
    def candidate(images: Array) -> Array:
        return damage(_model(images))

    # A reference with the same fault: every answer agrees.
    golden = np.concatenate([candidate(_IMAGES[start : start + 8]) for start in range(0, _COUNT, 8)])
    outcome = parity_outcome(candidate, golden, _IMAGES, _LABELS, Options())
    assert (outcome.verdict.word, outcome.verdict.step) == (Word.FAIL, "numeric")
    assert outcome.parity.changed_answers == 0
    assert outcome.verdict.reason.endswith(f"in {where}")


def test_a_model_in_training_mode_is_told_by_a_second_call() -> None:
    rng = np.random.default_rng(0)
    outcome = _outcome(lambda images: _model(images) + rng.normal(0, 0.3, (len(images), 3)), precision="int8")
    assert "a second call with the same images" in outcome.verdict.reason


def test_nan_fails_with_the_images_that_it_was_given_for() -> None:
    logits = _changed()
    logits[[7, 9], 1] = [np.nan, np.inf]
    outcome = _outcome(logits)
    assert (outcome.verdict.word, outcome.verdict.step) == (Word.FAIL, "numeric")
    assert "NaN or infinity  images 7, 9" in outcome.message
    assert outcome.parity is None


def test_few_images_are_inconclusive_and_accepted_with_a_warning_only_when_asked() -> None:
    with pytest.raises(AssertionError, match="about 299 test images would decide"):
        assert_parity(_model, _model, _IMAGES[:30], _LABELS[:30])
    with pytest.warns(InconclusiveParityWarning, match="INCONCLUSIVE: 0 of 30 answers changed"):
        outcome = assert_parity(_model, _model, _IMAGES[:30], _LABELS[:30], accept_inconclusive=True)
    assert outcome.verdict.word is Word.INCONCLUSIVE


def test_without_labels_somebody_must_answer_for_the_reference() -> None:
    outcome = _outcome(_model, labels=None)
    assert (outcome.verdict.word, outcome.verdict.step) == (Word.NO_VERDICT, "reference")
    assert "trust_reference=True" in outcome.message
    outcome = _outcome(_model, labels=None, trust_reference=True)
    assert outcome.verdict.word is Word.PASS
    assert outcome.parity.accuracy is None
    assert _outcome(_model, labels=np.full(_COUNT, -1), trust_reference=True).verdict.word is Word.PASS


def test_no_word_helps_a_reference_that_always_answers_the_same() -> None:
    def constant(images: Array) -> Array:
        return np.tile(np.array([0.0, 3.0, 1.0]), (len(images), 1))

    outcome = parity_outcome(constant, constant, _IMAGES, None, Options(trust_reference=True))
    assert outcome.verdict.word is Word.NO_VERDICT
    assert "same answer" in outcome.verdict.reason
    outcome = parity_outcome(constant, constant, _IMAGES, _LABELS, Options())
    assert outcome.verdict.word is Word.NO_VERDICT


def test_labels_judge_the_reference_whatever_is_said_of_it() -> None:
    labels = np.full(_COUNT, -1)
    labels[:90] = _LABELS[:90]
    with pytest.raises(ValueError, match="trust_reference is for images without labels"):
        _outcome(_model, labels=labels, trust_reference=True)
    outcome = _outcome(_model, labels=labels)
    assert outcome.verdict.word is Word.PASS
    assert (outcome.parity.images, outcome.parity.labelled) == (_COUNT, 90)


def _generator() -> Iterator[Array]:
    for start, stop in ((0, 5), (5, 6), (6, 100), (100, _COUNT)):
        yield _IMAGES[start:stop]


@pytest.mark.parametrize(
    "images",
    [_generator(), list(_generator()), torch.from_numpy(_IMAGES), [torch.from_numpy(each) for each in _generator()]],
    ids=["generator", "list", "tensor", "tensors"],
)
def test_images_come_as_array_tensor_or_batches_of_any_size(images: object) -> None:
    sizes = []

    def recorded(batch: Array) -> Array:
        sizes.append(len(batch))
        return _model(batch)

    outcome = _outcome(recorded, images=images, batch_size=16, fixed_batch_size=True)
    assert outcome.verdict.word is Word.PASS
    assert outcome.parity.images == _COUNT
    assert set(sizes) == {16}


def test_torch_outputs_need_no_conversion() -> None:
    def candidate(images: Array) -> torch.Tensor:
        logits: torch.Tensor = torch.from_numpy(images).mean(dim=(2, 3)).requires_grad_()
        return 1.0 * logits

    assert _outcome(candidate).verdict.word is Word.PASS
    assert _outcome(lambda images: candidate(images).bfloat16(), precision="bf16").verdict.word is Word.PASS
    with pytest.raises(ValueError, match=r"lambda images: model\(torch\.from_numpy\(images\)\)"):
        _outcome(torch.nn.Flatten())


def test_a_model_that_changes_its_images_or_reuses_its_memory_does_no_harm() -> None:
    memory = np.zeros((8, 3), dtype=np.float32)

    def careless(images: Array) -> Array:
        memory[: len(images)] = _model(images)
        images[:] = 0
        return memory[: len(images)]

    assert _outcome(careless).verdict.word is Word.PASS
    assert parity_outcome(_model, careless, _IMAGES, _LABELS, Options()).verdict.word is Word.PASS
    assert np.abs(_IMAGES).max() > 1


@pytest.mark.parametrize("batch", ["b", 1, 4])
def test_onnx_files_answer_batch_by_batch_whatever_size_they_are_made_for(tmp_path: Path, batch: int | str) -> None:
    outcome = _outcome(_onnx(tmp_path / "model.onnx", batch=batch), images=_IMAGES.astype(np.float64))
    assert outcome.verdict.word is Word.PASS
    assert outcome.rows_checked
    damaged = _outcome(str(_onnx(tmp_path / "damaged.onnx", batch=batch, shift=0.5)))
    assert (damaged.verdict.word, damaged.verdict.step) == (Word.FAIL, "numeric")
    assert re.search(r"largest \|dp\|     0\.0\d+, image \d+, class 0: 0\.\d+ -> 0\.\d+", damaged.message)


def test_an_onnx_file_brings_its_names_precision_and_label_mode(tmp_path: Path) -> None:
    metadata = {"class_names": json.dumps(_NAMES), "label_mode": "multilabel", "variant": "int8-u8s8"}
    path = _onnx(tmp_path / "model.onnx", metadata=metadata)
    outcome = _outcome(path)
    assert (outcome.precision, outcome.verdict.word) == ("int8-u8s8", Word.PASS)
    assert [each.name for each in outcome.parity.classes] == list(_NAMES)
    for options, reason in (
        ({"precision": "fp32"}, "the candidate's file is int8-u8s8, to be judged as fp32"),
        ({"class_names": ("a", "b", "c")}, "the candidate's own class_names"),
        ({"label_mode": "multiclass"}, "the candidate's own label_mode is multilabel"),
        ({"outputs": "probabilities"}, "its outputs are to be judged as probabilities"),
    ):
        logits = _model(_IMAGES) if "outputs" not in options else np.full((_COUNT, 3), 0.5)
        outcome = parity_outcome(path, logits, _IMAGES, _LABELS, Options(**options))
        assert (outcome.verdict.word, outcome.verdict.step) == (Word.FAIL, "contract")
        assert reason in outcome.verdict.reason
    other = _onnx(tmp_path / "other.onnx", metadata={"class_names": json.dumps(_NAMES[::-1])})
    assert "class_names" in parity_outcome(path, other, _IMAGES, _LABELS, Options()).verdict.reason


def test_an_onnx_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"The candidate's ONNX file .*absent\.onnx does not exist"):
        _outcome(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"cannot load the candidate's .*broken\.onnx"):
        _outcome(tmp_path / "broken.onnx")
    path = _onnx(tmp_path / "model.onnx")
    with pytest.raises(BackendError, match="the images are float32 of the shape"):
        _outcome(path, images=_IMAGES[:, :, :1])
    with pytest.raises(ValueError, match="takes float32, the images are uint8"):
        _outcome(path, images=_IMAGES.astype(np.uint8))


def test_another_number_of_classes_fails_by_contract() -> None:
    outcome = _outcome(lambda images: np.hstack([_model(images), _model(images)[:, :1]]))
    assert (outcome.verdict.word, outcome.verdict.step) == (Word.FAIL, "contract")
    assert outcome.verdict.reason == "the candidate has 4 classes, the reference 3"


@pytest.mark.parametrize("label_mode", ["multiclass", "multilabel"])
def test_probabilities_are_judged_as_such_and_not_by_accident(label_mode: Any) -> None:
    from harness.core.metrics import probabilities_from_logits

    def probabilities(images: Array) -> Array:
        return probabilities_from_logits(_model(images) - (label_mode == "multilabel") * 2.0, label_mode)

    with pytest.raises(ValueError, match="outputs='probabilities'"):
        parity_outcome(probabilities, probabilities, _IMAGES, _LABELS, Options(label_mode=label_mode))
    options = Options(label_mode=label_mode, outputs="probabilities")
    outcome = parity_outcome(probabilities, probabilities, _IMAGES, _LABELS, options)
    assert outcome.verdict.word is Word.PASS
    assert outcome.parity.reference_accuracy == 1.0
    shifted = parity_outcome(lambda images: probabilities(images) * 0.99, probabilities, _IMAGES, _LABELS, options)
    assert (shifted.verdict.word, shifted.verdict.step) == (Word.FAIL, "numeric")
    with pytest.raises(ValueError, match="The reference gives no probabilities"):
        parity_outcome(probabilities, _model, _IMAGES, _LABELS, options)
    moved = probabilities(_IMAGES)
    moved[5] += [0.002, -0.002, 0.0]
    outcome = parity_outcome(moved, probabilities, _IMAGES, _LABELS, options)
    assert outcome.verdict.word is Word.FAIL
    assert outcome.parity.max_abs_dp == pytest.approx(0.002, abs=1e-5)
    certain = np.eye(3)[_LABELS]
    assert parity_outcome(certain, certain, None, _LABELS, options).verdict.word is Word.PASS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate": lambda images: images}, r"The candidate gives float32 of the shape \[8, 3, 2, 2\], wanted \[8"),
        ({"candidate": lambda images: _model(images)[:-1]}, r"shape \[7, 3\], wanted \[8, classes\]"),
        ({"candidate": lambda images: (_model(images), None)}, "The candidate gives a tuple"),
        ({"candidate": lambda images: None}, "The candidate gives a NoneType and no numbers"),
        ({"candidate": lambda images: _model(images)[:, :1]}, "one column"),
        ({"candidate": _model(_IMAGES)[:-1]}, "The candidate answers 299 images, the reference 300"),
        ({"images": _IMAGES[:0]}, "no images"),
        ({"images": []}, "no images"),
        ({"images": None}, "images is a NoneType"),
        ({"images": "films/"}, "images is a str"),
        ({"images": [(_IMAGES, _LABELS)]}, "A batch of images is a tuple"),
        ({"images": [_IMAGES, _IMAGES[:, :, :1]]}, "is followed by"),
        ({"images": np.array(["a"])}, "give numbers"),
        ({"labels": _LABELS[:-1]}, r"labels are int64 of the shape \[299\]: give a class index for each of the 300"),
        ({"labels": np.eye(3)[_LABELS]}, "labels are float64"),
        ({"labels": _LABELS + 1}, "labels reach from 1 to 3, the classes from 0 to 2"),
        ({"class_names": ("a", "b")}, "class_names has 2 names, the reference gives 3"),
        ({"margin": 1}, "0.01 is one percentage point"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int4"}, "precision is 'int4': give one of None, fp32"),
        ({"label_mode": "both"}, "label_mode is 'both'"),
        ({"outputs": "answers"}, "outputs is 'answers'"),
    ],
)
def test_a_wrong_question_is_an_error_that_says_what_to_give(changes: dict[str, Any], message: str) -> None:
    values = {"candidate": _model, "reference": _model, "images": _IMAGES, "labels": _LABELS} | changes
    with pytest.raises(ValueError, match=message):
        assert_parity(**values)


def test_a_callable_that_takes_one_batch_size_is_told_how_to_be_asked() -> None:
    def fixed(images: Array) -> Array:
        if len(images) != 4:
            raise RuntimeError(f"batch {len(images)}")
        return _model(images)

    with pytest.raises(RuntimeError, match="batch 1") as caught:
        _outcome(fixed, batch_size=4)
    assert "fixed_batch_size=True" in caught.value.__notes__[0]
    assert _outcome(fixed, batch_size=4, fixed_batch_size=True).verdict.word is Word.PASS


def test_labels_may_be_a_list_or_a_tensor() -> None:
    for labels in (_LABELS.tolist(), torch.from_numpy(_LABELS)):
        assert _outcome(_model, labels=labels).parity.labelled == _COUNT
