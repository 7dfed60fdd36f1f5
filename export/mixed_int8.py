"""Which layers must stay in float for int8 to keep the answers: found by their measured effect on validation.

Every layer is quantised alone, and the change of the probabilities ranks them. Then the worst 1, 2, 3, 4, 6, 8, ...
stay in float32 until the rule that the gate will apply to the test split holds on validation. The test split is
never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.quantisation import QuantisedForm, quantised_nodes
from harness.core.cases import LabelMode
from harness.core.contract import Preprocessing
from harness.core.errors import ExportError
from harness.core.interrupts import interrupts_held
from harness.core.metrics import answers_from_probabilities, probabilities_from_logits
from harness.core.progress import Progress
from harness.core.variants import SMALLEST_AGREEMENT
from harness.data.preprocessing import images_from_pixels

_BATCH_SIZE = 8
# Layer by layer, more images would tell the same and take longer.
_IMAGES_PER_LAYER = 32
WriteQuantised = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The validation split, and what the checkpoint answers to it."""

    pixels_bhwc: npt.NDArray[np.uint8]
    golden_bc: npt.NDArray[np.float32]
    preprocessing: Preprocessing
    label_mode: LabelMode

    def agreement(self, model: Path) -> float:
        """Return the share of images to which an ONNX file gives the checkpoint's answer."""
        answers_b = answers_from_probabilities(self._probabilities(model, len(self.golden_bc)), self.label_mode)
        golden_bc = probabilities_from_logits(self.golden_bc, self.label_mode)
        return float((answers_b == answers_from_probabilities(golden_bc, self.label_mode)).mean())

    def mean_abs_dp(self, model: Path) -> float:
        """Return by how much an ONNX file moves the probabilities of some images on average."""
        count = min(_IMAGES_PER_LAYER, len(self.golden_bc))
        golden_bc = probabilities_from_logits(self.golden_bc[:count], self.label_mode)
        return float(np.abs(self._probabilities(model, count) - golden_bc).mean())

    def _probabilities(self, model: Path, count: int) -> npt.NDArray[np.float64]:
        with interrupts_held():
            import onnxruntime

        session: Any = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = []
        for start in range(0, count, _BATCH_SIZE):
            pixels_bhwc = self.pixels_bhwc[start : min(start + _BATCH_SIZE, count)]
            parts.append(session.run(None, {name: images_from_pixels(pixels_bhwc, self.preprocessing)})[0])
        return probabilities_from_logits(np.concatenate(parts), self.label_mode)


@dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """The layers kept in float, and every number of layers tried with its agreement on validation."""

    names: tuple[str, ...]
    tried: tuple[tuple[int, float], ...]


def layers_kept_in_float(
    source: Path,
    form: QuantisedForm,
    write: WriteQuantised,
    validation: Validation,
    folder: Path,
    progress: Progress,
) -> FloatLayers:
    """Return the first set of layers, by falling effect, with which int8 keeps the answers to validation.

    `write(path, float_nodes=..., only_node=...)` writes a quantised model. Raises ExportError where no set
    does, or there is nothing to validate on.
    """
    if not len(validation.golden_bc):
        raise ExportError(
            "The data set has no validation split, on which layers could be chosen.",
            hint="Export with `--int8 all`, or prepare the data set with a validation split.",
        )
    smallest, trial = SMALLEST_AGREEMENT[form], folder / "trial.onnx"

    def agreement(names: tuple[str, ...]) -> float:
        write(trial, float_nodes=names)
        return validation.agreement(trial)

    tried = [(0, agreement(()))]
    if tried[0][1] >= smallest:
        return FloatLayers(names=(), tried=tuple(tried))
    nodes = quantised_nodes(source)
    effects = {}
    with progress.task("Effect of each layer", total=len(nodes)) as task:
        for node in nodes:
            write(trial, only_node=node)
            effects[node] = validation.mean_abs_dp(trial)
            task.advance(note=node)
    ranked = sorted(nodes, key=lambda node: -effects[node])
    for count in _set_sizes(len(nodes)):
        names = tuple(ranked[:count])
        tried.append((count, agreement(names)))
        progress.say(f"{count} layers in float: {100 * tried[-1][1]:.1f} % of validation answered as before")
        if tried[-1][1] >= smallest:
            return FloatLayers(names=names, tried=tuple(tried))
    raise ExportError(
        f"{form} changes too many answers on validation whatever layers stay in float: "
        + ", ".join(f"{count}: {100 * share:.1f} %" for count, share in tried),
        hint="Ship fp16, or calibrate with more images or another `--calibration-method`.",
    )


def _set_sizes(layer_count: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... below the number of layers: at least one must be left to quantise."""
    sizes = [1, 2]
    while sizes[-1] < layer_count:
        sizes += [3 * sizes[-1] // 2, 2 * sizes[-1]]
    return [size for size in sizes if size < layer_count]
