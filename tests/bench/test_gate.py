"""The gate, step by step and in its order; docs/measuring.md section 4 is the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.evidence import Evidence
from bench.gate import Verdict, Word, judged

Array = npt.NDArray[Any]
_NAMES = ("covid", "normal", "pneumonia")


def _logits(answers_b: Array, sure: float = 5.0) -> npt.NDArray[np.float32]:
    return (sure * np.eye(3)[np.asarray(answers_b)]).astype(np.float32)


def _labels(count: int) -> Array:
    return np.arange(count) % 3


def _evidence(labels_b: Array, candidate_b: Array | None = None, **changes: Any) -> Evidence:
    """The reference is right on every image; the candidate answers as given, or the same."""
    golden_bc = _logits(labels_b)
    values: dict[str, Any] = {
        "class_names": _NAMES,
        "label_mode": "multiclass",
        "precision": "fp32",
        "margin": 0.01,
        "contract_problems": (),
        "departures": (),
        "labels_b": np.asarray(labels_b, dtype=np.int64),
        "golden_bc": golden_bc,
        "candidate_bc": golden_bc if candidate_b is None else _logits(candidate_b),
        "reference_labels_b": np.asarray(labels_b, dtype=np.int64),
        "reference_logits_bc": golden_bc,
    }
    return Evidence(**(values | changes))


def _verdict(evidence: Evidence) -> Verdict:
    return judged(evidence)[0]


def _step(evidence: Evidence) -> tuple[Word, str]:
    verdict = _verdict(evidence)
    return verdict.word, verdict.step


def _with_changes(labels_b: Array, lost: Array) -> Array:
    """Answers with those of the rows in `lost` made wrong."""
    answers_b = np.array(labels_b)
    answers_b[lost] = (answers_b[lost] + 1) % 3
    return answers_b


def test_the_steps_decide_in_their_order() -> None:
    labels_b = _labels(3000)
    ruined_bc = _logits((labels_b + 1) % 3)
    ruined_bc[0, 0] = np.nan
    evidence = _evidence(
        labels_b,
        precision="int8",
        contract_problems=("other class names",),
        departures=("computes in bf16",),
        candidate_bc=ruined_bc,
        repeats={"another row of the batch": _logits(labels_b[:32])},
        reference_logits_bc=_logits(np.zeros(3000, dtype=int)),
    )
    assert _step(evidence) == (Word.FAIL, "contract")
    evidence = replace(evidence, contract_problems=())
    assert _step(evidence) == (Word.FAIL, "numeric")
    assert "NaN" in _verdict(evidence).reason
    evidence = replace(evidence, candidate_bc=_logits((labels_b + 1) % 3))
    assert "computes in bf16" in _verdict(evidence).reason
    evidence = replace(evidence, departures=())
    assert "another row of the batch" in _verdict(evidence).reason
    evidence = replace(evidence, repeats={})
    assert "agree" in _verdict(evidence).reason
    # Forty of 3,000 answers lost: enough for int8's own rule, not for a margin of 0.5 points.
    evidence = replace(evidence, candidate_bc=_logits(_with_changes(labels_b, np.arange(40))), margin=0.005)
    assert _step(evidence) == (Word.NO_VERDICT, "reference")
    evidence = replace(evidence, reference_logits_bc=_logits(labels_b))
    assert _step(evidence) == (Word.FAIL, "accuracy")
    assert _step(replace(evidence, margin=0.015)) == (Word.INCONCLUSIVE, "evidence")
    assert _step(replace(evidence, margin=0.05)) == (Word.PASS, "parity")


def test_every_contract_problem_is_named_and_nothing_is_computed() -> None:
    verdict, parity = judged(_evidence(_labels(9), contract_problems=("class names differ", "another checkpoint")))
    assert verdict.reason == "class names differ; another checkpoint"
    assert parity is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_answer_that_is_no_number_fails(value: float, precision: str) -> None:
    labels_b = _labels(1000)
    candidate_bc = _logits(labels_b)
    candidate_bc[17, 2] = value
    verdict, parity = judged(_evidence(labels_b, candidate_bc=candidate_bc, precision=precision))
    assert (verdict.word, verdict.step) == (Word.FAIL, "numeric")
    assert "1 of 1000" in verdict.reason
    assert parity is None


def test_a_golden_that_is_no_number_never_passes() -> None:
    labels_b = _labels(1000)
    golden_bc = _logits(labels_b)
    golden_bc[0] = np.nan  # Its label is 0, which is what argmax answers for NaN.
    candidate_bc = _logits(labels_b)
    evidence = _evidence(labels_b, golden_bc=golden_bc, candidate_bc=candidate_bc)
    assert _verdict(evidence).word is not Word.PASS


def test_fp32_may_differ_by_a_thousandth_and_no_more() -> None:
    labels_b = _labels(400)
    for shift, word in ((5e-4, Word.PASS), (5e-3, Word.FAIL)):
        golden_bc = np.tile(np.array([0.2, 0.5, 0.3]), (400, 1))
        golden_bc[np.arange(400), labels_b] += 2
        golden_bc /= golden_bc.sum(axis=1, keepdims=True)
        candidate_bc = golden_bc.copy()
        candidate_bc[7] += [shift, -shift, 0.0]
        evidence = _evidence(
            labels_b,
            golden_bc=np.log(golden_bc).astype(np.float32),
            candidate_bc=np.log(candidate_bc).astype(np.float32),
        )
        assert _verdict(evidence).word is word


@pytest.mark.parametrize(("gap", "word"), [(5e-4, Word.PASS), (1.5e-3, Word.FAIL)])
def test_fp32_answers_may_turn_within_a_tie_only(gap: float, word: Word) -> None:
    labels_b = _labels(600)
    golden = np.tile(np.array([1e-3, 1e-3, 1e-3]), (600, 1))
    golden[np.arange(600), labels_b] = 0.998
    candidate = golden.copy()
    golden[0] = [0.5, 0.5 - gap, gap]
    candidate[0] = [0.5 - 0.8 * gap, 0.5 - 0.2 * gap, gap]
    evidence = _evidence(
        labels_b,
        margin=0.05,
        golden_bc=np.log(golden).astype(np.float32),
        candidate_bc=np.log(candidate).astype(np.float32),
    )
    verdict, parity = judged(evidence)
    assert parity is not None
    assert parity.changed_answers == 1
    assert parity.max_abs_dp < 1.3e-3
    if gap > 1e-3:
        assert "outside ties" in verdict.reason or "differs by" in verdict.reason
    assert verdict.word is word


def test_a_multilabel_answer_may_turn_where_a_probability_crosses_one_half() -> None:
    labels_b = np.zeros(400, dtype=np.int64)
    labels_b[200:] = 1
    golden_bc = np.where(np.eye(3)[labels_b] > 0, 4.0, -4.0).astype(np.float32)
    golden_bc[0] = [4e-4, 3.0, -4.0]  # covid, by a hair; normal is far more probable
    candidate_bc = golden_bc.copy()
    candidate_bc[0, 0] = -4e-4
    evidence = _evidence(
        labels_b,
        label_mode="multilabel",
        margin=0.05,
        golden_bc=golden_bc,
        candidate_bc=candidate_bc,
        reference_logits_bc=golden_bc,
    )
    verdict, parity = judged(evidence)
    assert parity is not None
    assert parity.changed_answers == 1
    assert verdict.word is Word.PASS
    golden_bc[0, 0], candidate_bc[0, 0] = 6e-3, -3e-4
    assert _step(replace(evidence)) == (Word.FAIL, "numeric")


@pytest.mark.parametrize(("precision", "allowed"), [("fp16", 50), ("bf16", 50), ("int8", 150)])
def test_lower_precisions_fail_by_their_own_share_of_changed_answers(precision: str, allowed: int) -> None:
    labels_b = _labels(10_000)
    for changed, numeric in ((allowed, False), (allowed + 1, True)):
        answers_b = _with_changes(labels_b, np.arange(changed))
        word, step = _step(_evidence(labels_b, answers_b, precision=precision, margin=0.05))
        assert (word, step) == ((Word.FAIL, "numeric") if numeric else (Word.PASS, "parity"))


def test_rows_mixed_up_within_a_batch_fail() -> None:
    labels_b = _labels(600)
    reversed_bc = _logits(labels_b).reshape(-1, 4, 3)[:, ::-1].reshape(-1, 3)
    assert _step(_evidence(labels_b, candidate_bc=reversed_bc)) == (Word.FAIL, "numeric")


@pytest.mark.parametrize(
    ("precision", "shift", "word"),
    [("fp32", 5e-4, Word.PASS), ("fp32", 0.01, Word.FAIL), ("int8", 0.01, Word.PASS), ("int8", 0.2, Word.FAIL)],
)
def test_an_image_whose_answer_depends_on_its_row_fails(precision: str, shift: float, word: Word) -> None:
    labels_b = _labels(600)
    golden_bc = np.zeros((600, 3), dtype=np.float32)
    golden_bc[np.arange(600), labels_b] = 0.5
    rolled_bc = golden_bc[:32].copy()
    rolled_bc[5, 0] += 4 * shift
    evidence = _evidence(
        labels_b,
        precision=precision,
        golden_bc=golden_bc,
        candidate_bc=golden_bc,
        repeats={"a batch of 32": rolled_bc},
        reference_logits_bc=golden_bc,
    )
    assert _verdict(evidence).word is word


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rotated_answers_that_are_no_numbers_fail(value: float) -> None:
    labels_b = _labels(600)
    rolled_bc = _logits(labels_b[:32])
    rolled_bc[3] = value
    assert _step(_evidence(labels_b, repeats={"another row": rolled_bc[None]})) == (Word.FAIL, "numeric")


def test_a_runtime_that_did_something_else_fails_whatever_it_answers() -> None:
    evidence = _evidence(_labels(600), departures=("computes in bf16, asked for f32", "1 threads, asked for 2"))
    assert _step(evidence) == (Word.FAIL, "numeric")
    assert "bf16" in _verdict(evidence).reason
    assert "1 threads" in _verdict(evidence).reason


def test_agreement_with_a_constant_is_no_verdict() -> None:
    labels_b = _labels(900)
    constant_bc = _logits(np.ones(900, dtype=int))
    evidence = _evidence(labels_b, golden_bc=constant_bc, candidate_bc=constant_bc, reference_logits_bc=constant_bc)
    assert _step(evidence) == (Word.NO_VERDICT, "reference")
    assert "300 of 900" in _verdict(evidence).reason


def test_a_reference_that_is_better_than_the_commonest_class_by_chance_only_is_no_verdict() -> None:
    labels_b = np.repeat([0, 1, 2], [20, 60, 20])
    answers_b = np.ones(100, dtype=int)
    answers_b[:5] = 0  # 65 right; 60 for always answering the commonest: p = 0.18
    lucky_bc = _logits(answers_b)
    evidence = _evidence(labels_b, golden_bc=lucky_bc, candidate_bc=lucky_bc, reference_logits_bc=lucky_bc, margin=0.05)
    assert _step(evidence) == (Word.NO_VERDICT, "reference")
    answers_b[:15] = 0  # 75 right: p < 0.001
    better_bc = _logits(answers_b)
    evidence = replace(evidence, golden_bc=better_bc, candidate_bc=better_bc, reference_logits_bc=better_bc)
    assert _step(evidence) == (Word.PASS, "parity")


def test_a_split_of_one_class_cannot_judge_a_reference() -> None:
    assert _step(_evidence(np.ones(400, dtype=int))) == (Word.NO_VERDICT, "reference")


def test_without_any_label_there_is_no_verdict() -> None:
    labels_b = _labels(400)
    unlabelled_b = np.full(400, -1)
    evidence = replace(_evidence(labels_b), labels_b=unlabelled_b, reference_labels_b=unlabelled_b)
    assert _step(evidence) == (Word.NO_VERDICT, "reference")


def test_a_word_for_the_reference_counts_without_labels_only_and_never_for_a_constant() -> None:
    labels_b, unlabelled_b = _labels(400), np.full(400, -1)
    evidence = replace(
        _evidence(labels_b), labels_b=unlabelled_b, reference_labels_b=unlabelled_b, reference_trusted=True
    )
    assert _step(evidence) == (Word.PASS, "parity")
    constant_bc = _logits(np.ones(400, dtype=int))
    assert _step(replace(evidence, golden_bc=constant_bc, candidate_bc=constant_bc)) == (Word.NO_VERDICT, "reference")
    labelled = replace(evidence, reference_labels_b=labels_b, reference_logits_bc=constant_bc)
    assert _step(labelled) == (Word.NO_VERDICT, "reference")


def test_classes_without_a_normal_one_have_no_operating_point() -> None:
    verdict, parity = judged(_evidence(_labels(400), class_names=("cat", "dog", "horse")))
    assert verdict.word is Word.PASS
    assert parity is not None
    assert parity.operating is None


def test_an_unlabelled_test_split_passes_by_unchanged_answers_alone() -> None:
    validation_b = _labels(90)
    for count, word in ((299, Word.PASS), (298, Word.INCONCLUSIVE)):
        evidence = replace(
            _evidence(_labels(count)),
            labels_b=np.full(count, -1),
            reference_labels_b=validation_b,
            reference_logits_bc=_logits(validation_b),
        )
        verdict, parity = judged(evidence)
        assert verdict.word is word
        assert parity is not None
        assert (parity.images, parity.labelled) == (count, 0)
        assert parity.accuracy is parity.table is parity.loss_interval_90 is None


def test_an_unlabelled_test_split_is_judged_by_the_references_validation() -> None:
    constant_bc = _logits(np.ones(90, dtype=int))
    evidence = replace(
        _evidence(_labels(600)),
        labels_b=np.full(600, -1),
        reference_labels_b=_labels(90),
        reference_logits_bc=constant_bc,
    )
    assert _step(evidence) == (Word.NO_VERDICT, "reference")


def _partly_labelled(lost_without_label: int) -> Evidence:
    """400 images without a label, of which so many answers changed, and 300 with one that did not change."""
    labels_b = _labels(700)
    evidence = _evidence(labels_b, _with_changes(labels_b, np.arange(lost_without_label)), precision="int8")
    return replace(evidence, labels_b=np.where(np.arange(700) < 400, -1, labels_b))


def test_labelled_images_alone_do_not_answer_for_changed_ones_without_a_label() -> None:
    verdict, parity = judged(_partly_labelled(10))
    assert parity is not None
    assert parity.non_inferiority_p is not None
    assert parity.non_inferiority_p < 0.05  # Of the 300 that have a label, and did not change.
    assert (verdict.word, verdict.step) == (Word.INCONCLUSIVE, "evidence")
    assert _step(_partly_labelled(0)) == (Word.PASS, "parity")


@pytest.mark.parametrize("count", [1, 12, 30])
def test_a_batch_larger_than_the_splits_that_decide_is_compared_with_all_its_images(count: int) -> None:
    everything_bc = _logits(_labels(60))
    evidence = replace(
        _evidence(_labels(count)),
        repeats={"a batch of 32": everything_bc[:32]},
        other_golden_bc=everything_bc[count:],
        other_candidate_bc=everything_bc[count:],
    )
    verdict, parity = judged(evidence)
    assert parity is not None
    assert parity.repeats_max_abs_dp == {"a batch of 32": 0}
    assert verdict.step != "numeric"
    moved_bc = everything_bc[:32].copy()
    moved_bc[31] = everything_bc[30]
    assert _step(replace(evidence, repeats={"a batch of 32": moved_bc})) == (Word.FAIL, "numeric")


def test_a_loss_shown_to_exceed_the_margin_fails() -> None:
    labels_b = _labels(12_000)
    evidence = _evidence(labels_b, _with_changes(labels_b, np.arange(170)), precision="int8")
    assert _step(evidence) == (Word.FAIL, "accuracy")
    assert "accuracy is at least" in _verdict(evidence).reason


def test_a_rare_class_that_is_lost_fails_by_macro_f1() -> None:
    labels_b = np.repeat([0, 1, 2], [25, 1000, 975])
    evidence = _evidence(labels_b, _with_changes(labels_b, np.arange(18)), precision="int8")
    assert _step(evidence) == (Word.FAIL, "accuracy")
    assert "macro-F1" in _verdict(evidence).reason


@pytest.mark.parametrize(("count", "fails"), [(29, False), (200, True)])
def test_a_class_that_lost_recall_fails_where_it_has_thirty_images(count: int, fails: bool) -> None:
    labels_b = np.repeat([0, 1, 2], [count, 10_000, 10_000])
    evidence = _evidence(labels_b, _with_changes(labels_b, np.arange(count // 8)), precision="int8", margin=0.05)
    verdict = _verdict(evidence)
    assert (verdict.word is Word.FAIL) is fails
    if fails:
        assert "recall of covid" in verdict.reason


def test_discordance_that_cancels_passes_by_tango() -> None:
    labels_b = _labels(5000)
    golden_b = _with_changes(labels_b, np.arange(30))
    candidate_b = _with_changes(labels_b, np.arange(30, 60))
    evidence = _evidence(
        labels_b, candidate_b, precision="int8", golden_bc=_logits(golden_b), reference_logits_bc=_logits(golden_b)
    )
    verdict, parity = judged(evidence)
    assert parity is not None
    assert parity.changed_share_bound > 0.01
    assert parity.table == (4940, 30, 30, 0)
    assert verdict.word is Word.PASS
    assert "Tango" in verdict.reason


@pytest.mark.parametrize(("count", "word"), [(267, Word.INCONCLUSIVE), (268, Word.PASS), (299, Word.PASS)])
def test_one_point_is_shown_from_268_unchanged_and_labelled_answers_on(count: int, word: Word) -> None:
    assert _verdict(_evidence(_labels(count))).word is word


def test_inconclusive_says_what_the_split_could_show_and_how_many_images_would_decide() -> None:
    verdict = _verdict(_evidence(_labels(21)))
    assert (verdict.word, verdict.step) == (Word.INCONCLUSIVE, "evidence")
    assert "0 of 21 answers changed" in verdict.reason
    assert "no loss below 11.41 points" in verdict.reason  # 2.7055 / (21 + 2.7055)
    assert "about 299 test images" in verdict.reason
    assert "margin of 1" in verdict.reason


def test_a_class_without_an_image_does_not_make_a_loss_look_smaller() -> None:
    labels_b = np.repeat([0, 1], [100, 2000])
    candidate_b = np.where(np.arange(2100) < 5, 1, labels_b)
    without, beside = (
        judged(
            replace(
                _evidence(labels_b, candidate_b, precision="int8"),
                class_names=_NAMES[:count],
                golden_bc=_logits(labels_b)[:, :count],
                candidate_bc=_logits(candidate_b)[:, :count],
                reference_logits_bc=_logits(labels_b)[:, :count],
            )
        )
        for count in (2, 3)
    )
    assert without[0].word is Word.INCONCLUSIVE
    assert "macro-F1 may be" in without[0].reason
    assert beside[0] == without[0]
    assert beside[1] is not None
    assert without[1] is not None
    assert beside[1].macro_f1 == without[1].macro_f1


def test_inconclusive_does_not_ask_for_fewer_images_than_there_are() -> None:
    labels_b = _labels(3000)
    verdict = _verdict(_evidence(labels_b, _with_changes(labels_b, np.arange(27)), precision="int8"))
    assert verdict.word is Word.INCONCLUSIVE
    assert "3000 images did not decide: the true loss may be near the margin of 1 points" in verdict.reason
    assert "about" not in verdict.reason


def test_inconclusive_names_macro_f1_where_it_alone_stands_in_the_way() -> None:
    labels_b = np.repeat([0, 1, 2], [10, 1000, 990])
    verdict = _verdict(_evidence(labels_b, _with_changes(labels_b, np.arange(1)), precision="int8"))
    assert verdict.word is Word.INCONCLUSIVE
    assert "macro-F1 may be" in verdict.reason


def test_the_figures_are_those_of_the_answers() -> None:
    labels_b = _labels(300)
    golden_b, candidate_b = _with_changes(labels_b, np.arange(4)), _with_changes(labels_b, np.arange(2, 5))
    _, parity = judged(
        _evidence(labels_b, candidate_b, golden_bc=_logits(golden_b), reference_logits_bc=_logits(golden_b))
    )
    assert parity is not None
    assert parity.table == (295, 1, 2, 2)
    assert parity.changed_answers == 3
    assert parity.agreement == pytest.approx(297 / 300)
    assert parity.reference_accuracy == pytest.approx(296 / 300)
    assert parity.accuracy == pytest.approx(297 / 300)
    assert parity.repeats_max_abs_dp == {}


def _softmax(logits_bc: Array) -> npt.NDArray[np.float32]:
    shares_bc = np.exp(logits_bc - logits_bc.max(axis=1, keepdims=True))
    return (shares_bc / shares_bc.sum(axis=1, keepdims=True)).astype(np.float32)


def _probabilities(labels_b: Array, temperature: float | None = 2.0, **changes: Any) -> Evidence:
    values: dict[str, Any] = {
        "candidate_bc": _softmax(_logits(labels_b) / (temperature or 1.0)),
        "candidate_answers_b": np.asarray(labels_b, dtype=np.int64),
        "outputs": "probabilities",
        "temperature": temperature,
    }
    return _evidence(labels_b, **(values | changes))


@pytest.mark.parametrize("temperature", [None, 0.5, 2.0])
def test_probabilities_are_compared_at_the_temperature_they_were_made_with(temperature: float | None) -> None:
    evidence = _probabilities(_labels(3000), temperature)
    verdict, parity = judged(evidence)
    assert verdict.word is Word.PASS
    assert parity is not None
    assert parity.max_abs_dp < 1e-6


def test_a_missing_temperature_is_a_numeric_failure() -> None:
    labels_b = _labels(3000)
    evidence = _probabilities(labels_b, candidate_bc=_softmax(_logits(labels_b)))
    assert _step(evidence) == (Word.FAIL, "numeric")


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: p * 1.01, "add up"),
        (lambda p: p - 0.1, "reach from"),
        (lambda p: p * np.nan, "NaN"),
    ],
)
def test_outputs_that_are_no_probabilities_fail(damage: Any, word: str) -> None:
    labels_b = _labels(3000)
    verdict = _verdict(_probabilities(labels_b, candidate_bc=damage(_softmax(_logits(labels_b) / 2))))
    assert (verdict.word, verdict.step) == (Word.FAIL, "numeric")
    assert word in verdict.reason


@pytest.mark.parametrize("answers_b", [None, (_labels(3000) + 1) % 3])
def test_answers_that_are_missing_or_contradict_the_probabilities_fail(answers_b: Array | None) -> None:
    verdict = _verdict(_probabilities(_labels(3000), candidate_answers_b=answers_b))
    assert (verdict.word, verdict.step) == (Word.FAIL, "numeric")
    assert "answers" in verdict.reason


def test_a_wrong_answer_to_the_passports_own_image_fails_and_still_shows_its_figures() -> None:
    verdict, parity = judged(_evidence(_labels(3000), pair_problems=("off by 0.5",)))
    assert (verdict.word, verdict.step, verdict.reason) == (Word.FAIL, "numeric", "off by 0.5")
    assert parity is not None


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int8-u8s8"])
@pytest.mark.parametrize(
    ("scale", "step"), [(0.36, "numeric"), (0.9, "numeric"), (0.97, "parity"), (1.0, "parity"), (1.1, "numeric")]
)
def test_lower_precisions_must_keep_how_sure_the_checkpoint_is(precision: str, scale: float, step: str) -> None:
    labels_b = _labels(3000)
    noise_bc = np.random.default_rng(0).normal(0, 0.2, (3000, 3)).astype(np.float32)
    evidence = _evidence(labels_b, precision=precision, candidate_bc=scale * _logits(labels_b) + noise_bc)
    verdict = _verdict(evidence)
    assert verdict.step == step
    assert ("another temperature" in verdict.reason) == (step == "numeric")


@pytest.mark.parametrize(("missing", "word"), [(False, Word.PASS), (True, Word.FAIL)])
def test_probabilities_without_the_runs_temperature_fail_though_no_answer_changed(missing: bool, word: Word) -> None:
    labels_b = _labels(3000)
    candidate_bc = _softmax(_logits(labels_b) / (1.0 if missing else 0.5))
    evidence = _probabilities(
        labels_b, precision="int8", temperature=0.5, candidate_bc=candidate_bc, candidate_answers_b=labels_b
    )
    assert _verdict(evidence).word is word
