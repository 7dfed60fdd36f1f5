"""What an assertion of parity found, in words that a person can act on: verdict, figures, images, what to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.evidence import Evidence
from bench.gate import Verdict, Word
from bench.parity import Parity
from harness.core.metrics import UNLABELLED

_SHOWN = 5
_REMEDIES = {
    "contract": "Candidate and reference do not belong together: look at which files are compared.",
    "numeric": (
        "Look for other preprocessing, a model in training mode, rows mixed up in the batch, a damaged file; a "
        "conversion to lower precision is judged by its own rule with precision='fp16', 'bf16' or 'int8'."
    ),
    "reference": (
        "Give labels to images that the reference answers better than the commonest class would be; without any label, "
        "trust_reference=True says that you have judged it elsewhere."
    ),
    "accuracy": "Do not ship this candidate.",
    "evidence": (
        "Give more images, or accept a larger margin for good reasons; accept_inconclusive=True makes this a warning."
    ),
}


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """The answers of both to one image, with the probabilities of both for the two classes they answer.

    `index` counts from 0 in the order of the images; `label` is None where there is none. `largest_dp` is how far
    the probability of any class moved, and `moved` which.
    """

    index: int
    label: str | None
    reference_answer: str
    answer: str
    reference_p: tuple[float, float]
    p: tuple[float, float]
    largest_dp: float
    moved: str
    moved_p: tuple[float, float]

    @property
    def line(self) -> str:
        """The pair in one line."""
        label = "" if self.label is None else f", label {self.label}"
        (was, was_other), (now_other, now) = self.reference_p, self.p
        return (
            f"image {self.index}{label}: {self.reference_answer} {was:.4f} ({self.answer} {was_other:.4f}) -> "
            f"{self.answer} {now:.4f} ({self.reference_answer} {now_other:.4f})"
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The gate's verdict with the figures behind it; `parity` is None where there was nothing to compute with.

    `changed` are all images whose answer changed, `furthest` the one whose probabilities moved most, `not_numbers`
    the indices of images that the candidate answers with NaN or infinity.
    """

    verdict: Verdict
    parity: Parity | None
    margin: float
    precision: str
    changed: tuple[ImagePair, ...] = ()
    furthest: ImagePair | None = None
    not_numbers: tuple[int, ...] = ()
    rows_checked: bool

    @property
    def summary(self) -> str:
        """Verdict and figures in one line."""
        parity = self.parity
        if parity is None:
            return f"{self.verdict.word}: {self.verdict.reason}"
        figures = [
            f"{parity.changed_answers} of {parity.images} answers changed",
            f"|dp| up to {parity.max_abs_dp:.2g}",
        ]
        if parity.accuracy is not None and parity.reference_accuracy is not None:
            figures.insert(1, f"accuracy {_percent(parity.reference_accuracy)} -> {_percent(parity.accuracy)}")
        return f"{self.verdict.word}: {', '.join(figures)}, margin {_points(self.margin)}"

    @property
    def message(self) -> str:
        """Everything that a person needs to act."""
        verdict = self.verdict
        lines = [f"parity {verdict.word} at the step `{verdict.step}` ({self.precision}): {verdict.reason}"]
        if self.parity is not None:
            lines += [f"  {name:<16} {text}" for name, text in _figures(self.parity, self.margin)]
        if self.furthest is not None:
            far, (was, now) = self.furthest, self.furthest.moved_p
            moved = f"image {far.index}, class {far.moved}: {was:.4f} -> {now:.4f}"
            lines.append(f"  {'largest |dp|':<16} {far.largest_dp:.3g}" + (f", {moved}" if far.largest_dp else ""))
        if not self.rows_checked:
            lines.append(f"  {'batch':<16} not checked, for the candidate's outputs were computed before")
        if self.not_numbers:
            shown = ", ".join(str(index) for index in self.not_numbers[:_SHOWN])
            lines.append(f"  {'NaN or infinity':<16} images {shown}{_more(len(self.not_numbers))}")
        if self.changed:
            lines.append(f"  changed answers, reference -> candidate{_more(len(self.changed))}:")
            lines += [f"    {each.line}" for each in self.changed[:_SHOWN]]
        if verdict.word is not Word.PASS:
            lines.append(f"  What to do: {_REMEDIES[verdict.step]}")
        return "\n".join(lines)


def image_pairs(evidence: Evidence) -> tuple[tuple[ImagePair, ...], ImagePair]:
    """Return the images whose answer changed, in order, and the image whose probabilities moved most."""
    answers = evidence.answers
    moved_bc = np.abs(answers.golden_bc - answers.candidate_bc)
    changed = np.flatnonzero(answers.golden_b != answers.candidate_b)
    pairs = tuple(_image_pair(evidence, int(index)) for index in changed)
    return pairs, _image_pair(evidence, int(moved_bc.max(axis=1).argmax()))


def _image_pair(evidence: Evidence, index: int) -> ImagePair:
    answers, names, label = evidence.answers, evidence.class_names, int(evidence.labels_b[index])
    golden_c, candidate_c = answers.golden_bc[index], answers.candidate_bc[index]
    was, now = int(answers.golden_b[index]), int(answers.candidate_b[index])
    moved = int(np.abs(golden_c - candidate_c).argmax())
    return ImagePair(
        index=index,
        label=None if label == UNLABELLED else names[label],
        reference_answer=names[was],
        answer=names[now],
        reference_p=(float(golden_c[was]), float(golden_c[now])),
        p=(float(candidate_c[was]), float(candidate_c[now])),
        largest_dp=float(abs(golden_c[moved] - candidate_c[moved])),
        moved=names[moved],
        moved_p=(float(golden_c[moved]), float(candidate_c[moved])),
    )


def _figures(parity: Parity, margin: float) -> list[tuple[str, str]]:
    changed = f"{parity.changed_answers} of {parity.images} answers changed"
    bound = f"at most {_percent(parity.changed_share_bound)} change (95 %)"
    figures = [("agreement", f"{_percent(parity.agreement)}: {changed}, {bound}")]
    if parity.accuracy is not None and parity.reference_accuracy is not None:
        both = f"{_percent(parity.reference_accuracy)} -> {_percent(parity.accuracy)}"
        figures.append(("accuracy", f"{both} of {parity.labelled} labelled images"))
    if parity.loss_interval_90 is not None and parity.table is not None:
        _, lost, gained, _ = parity.table
        low, high = (100 * each for each in parity.loss_interval_90)
        loss = 100 * (lost - gained) / parity.labelled
        interval = f"90 % interval {low:.2f} to {high:.2f}"
        figures.append(("loss of accuracy", f"{loss:.2f} points, {interval}; margin {_points(margin)}"))
    else:
        figures.append(("loss of accuracy", f"unknown without labels; margin {_points(margin)}"))
    figures += [("batch", f"|dp| {moved:.2g} in {where}") for where, moved in parity.repeats_max_abs_dp.items()]
    return figures


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(margin: float) -> str:
    return f"{100 * margin:g} points"


def _more(count: int) -> str:
    return f" (the first {_SHOWN} of {count})" if count > _SHOWN else ""
