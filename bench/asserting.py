"""`assert_parity`: the gate of `harness bench` for the tests of other repositories, with or without pytest.

The same order, rules and figures (docs/measuring.md). What a run directory supplies there, the caller gives here:
images, labels, and, where there are no labels, their word that the reference is a good model.
Shapes: n images, c classes.
"""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy import special

from bench.answering import Array, Model, answers_of, model_from, with_fixed_batch
from bench.evidence import Evidence, Float32s, Floats, Integers
from bench.gate import Word, judged
from bench.outcome import Outcome, image_pairs
from harness.core.cases import LabelMode
from harness.core.metrics import UNLABELLED
from harness.core.passport import PREFIX
from harness.core.variants import PRECISIONS, Precision, Variant, variant_from_name

# Under pytest, what is the caller's to mend is shown where the caller wrote it.
__tracebackhide__ = operator.methodcaller("errisinstance", (AssertionError, ValueError))

# Two forms of one model agree on these where their files name them.
_SHARED = ("class_names", "label_mode", "preprocessing_sha256")
_EDGE = 1e-12
_LARGEST_SUM_ERROR = 1e-3


class InconclusiveParityWarning(UserWarning):
    """An INCONCLUSIVE that the caller accepts."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to judge. What is None is read from the ONNX files' own metadata, where the harness wrote it.

    `margin` is the largest loss of accuracy that is acceptable, as a fraction. `precision` (default fp32) names the
    rule for the numbers. `outputs` says what both sides give. `fixed_batch_size` never asks a callable for another
    batch size than `batch_size`. `trust_reference` is for images of which none has a label.
    """

    margin: float = 0.01
    precision: Precision | None = None
    label_mode: LabelMode | None = None
    class_names: Sequence[str] | None = None
    outputs: Literal["logits", "probabilities"] = "logits"
    batch_size: int = 8
    fixed_batch_size: bool = False
    trust_reference: bool = False
    accept_inconclusive: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be meant."""
        if not 0 < self.margin < 1:
            raise ValueError(f"margin is {self.margin}: give a fraction, 0.01 is one percentage point.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give 1 or more.")
        choices: dict[str, tuple[str | None, ...]] = {
            "precision": (None, *PRECISIONS),
            "label_mode": (None, *get_args(LabelMode)),
            "outputs": ("logits", "probabilities"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(map(str, allowed))}.")


def assert_parity(candidate: object, reference: object, images: object, labels: Any = None, **options: Any) -> Outcome:
    """Raise AssertionError unless the candidate may stand in for the reference; return what was found.

    Candidate and reference: a callable of images [b, ...] (NumPy) giving logits [b, c], the path of an ONNX file, or
    the logits [n, c]. Images: an array [n, ...] or an iterable of batches. Labels: class indices [n], -1 for none.
    The options are those of `Options`. Raises ValueError where the question itself is wrong.
    """
    found = Options(**options)
    outcome = parity_outcome(candidate, reference, images, labels, found)
    require(outcome, found)
    return outcome


def require(outcome: Outcome, options: Options) -> None:
    """Raise AssertionError for what is no PASS; warn of an INCONCLUSIVE that is accepted."""
    if outcome.verdict.word is Word.INCONCLUSIVE and options.accept_inconclusive:
        warnings.warn(outcome.summary, InconclusiveParityWarning, stacklevel=3)
    elif outcome.verdict.word is not Word.PASS:
        raise AssertionError(outcome.message)


def parity_outcome(candidate: object, reference: object, images: object, labels: Any, options: Options) -> Outcome:
    """Judge, raising nothing for a bad candidate; raises ValueError where the question itself is wrong."""
    models = model_from(candidate, "candidate"), model_from(reference, "reference")
    if options.fixed_batch_size:
        models = with_fixed_batch(models[0], options.batch_size), with_fixed_batch(models[1], options.batch_size)
    metadata = dict(models[1].metadata) | dict(models[0].metadata)
    outputs_nc, golden_nc, repeats = answers_of(*models, images, options.batch_size)
    variant = _own_variant(models[0])
    precision = options.precision or (variant.precision if variant is not None else "fp32")
    names = _class_names(options, metadata, golden_nc.shape[1])
    label_mode = options.label_mode or _own_label_mode(metadata)
    problems = _contract_problems(models, options)
    if outputs_nc.shape[1] != len(names):
        problems.append(f"the candidate has {outputs_nc.shape[1]} classes, the reference {len(names)}")
        outputs_nc, repeats = golden_nc, {}
    departures = []
    if options.outputs == "probabilities":
        departures = _probability_problems(outputs_nc, label_mode)
        _refuse(golden_nc, label_mode)
        outputs_nc, golden_nc = _logits(outputs_nc, label_mode), _logits(golden_nc, label_mode)
        repeats = {name: _logits(again, label_mode) for name, again in repeats.items()}
    elif np.isfinite(golden_nc).all() and not _probability_problems(golden_nc, label_mode):
        raise ValueError("The reference seems to give probabilities: outputs='probabilities' says so, of both sides.")
    labels_n = _labels(labels, *golden_nc.shape)
    if options.trust_reference and (labels_n != UNLABELLED).any():
        raise ValueError("trust_reference is for images without labels: these have some, and they judge the reference.")
    evidence = Evidence(
        class_names=names,
        label_mode=label_mode,
        precision=precision,
        margin=options.margin,
        contract_problems=tuple(problems),
        departures=tuple(departures),
        labels_b=labels_n,
        golden_bc=golden_nc,
        candidate_bc=outputs_nc,
        repeats=repeats,
        reference_labels_b=labels_n,
        reference_logits_bc=golden_nc,
        reference_trusted=options.trust_reference,
    )
    return _outcome(evidence, rows_checked=models[0].stored_nc is None)


def _outcome(evidence: Evidence, *, rows_checked: bool) -> Outcome:
    verdict, parity = judged(evidence)
    changed, furthest = image_pairs(evidence) if parity is not None else ((), None)
    bad_b = ~np.isfinite(evidence.candidate_bc).all(axis=1)
    return Outcome(
        verdict=verdict,
        parity=parity,
        margin=evidence.margin,
        precision=evidence.precision,
        changed=changed,
        furthest=furthest,
        not_numbers=tuple(int(index) for index in np.flatnonzero(bad_b)),
        rows_checked=rows_checked,
    )


def _own_variant(model: Model) -> Variant | None:
    return variant_from_name(model.metadata.get(f"{PREFIX}variant", ""))


def _own_label_mode(metadata: Mapping[str, str]) -> LabelMode:
    return "multilabel" if metadata.get(f"{PREFIX}label_mode") == "multilabel" else "multiclass"


def _class_names(options: Options, metadata: Mapping[str, str], count: int) -> tuple[str, ...]:
    if options.class_names is None:
        own = json.loads(metadata.get(f"{PREFIX}class_names", "[]"))
        # A file of another number of classes is a contract problem, found by its outputs.
        return tuple(own) if len(own) == count else tuple(str(index) for index in range(count))
    if len(options.class_names) != count:
        raise ValueError(f"class_names has {len(options.class_names)} names, the reference gives {count} classes.")
    return tuple(options.class_names)


def _contract_problems(models: tuple[Model, Model], options: Options) -> list[str]:
    """Return where the files contradict each other or the options."""
    found = []
    own: dict[str, str] = {}
    if options.class_names is not None:
        own["class_names"] = json.dumps(list(options.class_names))
    if options.label_mode is not None:
        own["label_mode"] = options.label_mode
    for model in models:
        for name in _SHARED:
            value = model.metadata.get(PREFIX + name)
            if value is not None and own.setdefault(name, value) != value:
                found.append(f"the {model.side}'s own {name} is {value}, elsewhere it is {own[name]}")
    variant = _own_variant(models[0])
    if variant is not None and options.precision not in (None, variant.precision):
        found.append(f"the candidate's file is {variant.precision}, to be judged as {options.precision}")
    if variant is not None and variant.probabilities != (options.outputs == "probabilities"):
        found.append(f"the candidate's file is {variant.name}, its outputs are to be judged as {options.outputs}")
    return found


def _probability_problems(outputs_nc: Float32s, label_mode: LabelMode) -> list[str]:
    """Return why outputs are no probabilities; what is no number is the gate's to find."""
    finite_nc = outputs_nc[np.isfinite(outputs_nc).all(axis=1)].astype(np.float64)
    if not len(finite_nc):
        return []
    if finite_nc.min() < 0 or finite_nc.max() > 1:
        return [f"its probabilities reach from {finite_nc.min():.3g} to {finite_nc.max():.3g}"]
    error = float(np.abs(finite_nc.sum(axis=1) - 1).max()) if label_mode == "multiclass" else 0.0
    return [f"its probabilities of an image add up to 1 within {error:.3g} only"] if error > _LARGEST_SUM_ERROR else []


def _refuse(golden_nc: Float32s, label_mode: LabelMode) -> None:
    for problem in _probability_problems(golden_nc, label_mode):
        raise ValueError(f"The reference gives no probabilities: {problem}.")


def _logits(probabilities: Float32s, label_mode: LabelMode) -> Float32s:
    """Return logits that stand for these probabilities; a probability of 0 becomes a very small one."""
    wide: Floats = np.clip(probabilities.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(wide) if label_mode == "multiclass" else special.logit(wide), dtype=np.float32)


def _labels(labels: Any, count: int, class_count: int) -> Integers:
    """Return labels_n; raise ValueError for what are no class indices of these images."""
    if labels is None:
        return np.full(count, UNLABELLED, dtype=np.int64)
    found: Array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise ValueError(
            f"labels are {found.dtype} of the shape {list(found.shape)}: "
            f"give a class index for each of the {count} images, -1 where it is unknown."
        )
    if found.min() < UNLABELLED or found.max() >= class_count:
        raise ValueError(f"labels reach from {found.min()} to {found.max()}, the classes from 0 to {class_count - 1}.")
    return found.astype(np.int64)
