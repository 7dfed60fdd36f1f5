"""What is trained, and on what: the whole network on images, or the head alone on what the frozen trunk made of them.

The loop sees one interface; which of the two it is changes nothing else. Shapes: b images, c classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from harness.core.cases import Architecture, Case
from harness.core.models import set_training_mode
from train.batches import Batch, Indices, TrainingData, batch_count, epoch_batches, images_of_rows
from train.features import FrozenTrunk, head_of
from train.precision import autocast
from train.ranks import Ranks
from train.recipes import Precision, Recipe

# VGG-16 keeps about 110 MB of activations an image at 224 px in float32: 16 of these at once is the most. Without
# batch-norm a batch can be worked off in parts whose gradients add up; ResNet-18's statistics need it whole, and it
# is small.
_PIXELS_AT_ONCE: dict[Architecture, int | None] = {"vgg16": 16 * 224 * 224, "resnet18": None}
_BYTES_PER_ACTIVATION: dict[Precision, int] = {"fp32": 4, "bf16": 2}


class Source(Protocol):
    """`images_at_once` is how much of a batch fits into memory; None: all of it."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def images_at_once(self) -> int | None: ...

    def set_training_mode(self) -> None: ...

    def steps_per_epoch(self) -> int: ...

    def epoch_batches(self, epoch: int) -> Iterator[Batch]: ...

    def logits_of_rows(self, network: nn.Module, rows: Indices) -> npt.NDArray[np.float32]: ...


def images_at_once(architecture: Architecture, recipe: Recipe) -> int | None:
    """Return how many images of a batch are worked off at once; None: all of them."""
    pixels = _PIXELS_AT_ONCE[architecture]
    if pixels is None:
        return None
    of_float32 = 4 // _BYTES_PER_ACTIVATION[recipe.precision]
    return max(1, pixels * of_float32 // recipe.crop_px**2)


class ImageSource:
    """The whole network on images, its frozen part included."""

    def __init__(
        self, network: nn.Module, case: Case, data: TrainingData, recipe: Recipe, device: torch.device, ranks: Ranks
    ) -> None:
        self.module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._case, self._data, self._recipe, self._device, self._ranks = case, data, recipe, device, ranks

    @property
    def images_at_once(self) -> int | None:
        return images_at_once(self._case.architecture, self._recipe)

    def set_training_mode(self) -> None:
        set_training_mode(self.module, self._case)

    def steps_per_epoch(self) -> int:
        return batch_count(len(self._data.indices), self._recipe)

    def epoch_batches(self, epoch: int) -> Iterator[Batch]:
        return epoch_batches(self._data, self._recipe, epoch, self._ranks)

    def logits_of_rows(self, network: nn.Module, rows: Indices) -> npt.NDArray[np.float32]:
        """Return logits_bc of rows of the evaluation set; the network is left in eval mode."""
        network.eval()
        parts = []
        at_once = self._recipe.model_copy(update={"batch_size": self.images_at_once or self._recipe.batch_size})
        with torch.inference_mode():
            for images_bchw in images_of_rows(self._data.evaluation_set, rows, at_once):
                with autocast(self._device, self._recipe.precision):
                    logits_bc = network(images_bchw.to(self._device, non_blocking=True))
                parts.append(logits_bc.float().cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, len(self._case.class_names)), dtype=np.float32)


class FeatureSource:
    """The head alone, on features."""

    images_at_once = None

    def __init__(self, trunk: FrozenTrunk, case: Case) -> None:
        self._class_count = len(case.class_names)
        trunk.network.to(trunk.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._trunk = trunk
        self.module = head_of(trunk.network, trunk.architecture)

    def set_training_mode(self) -> None:
        self._trunk.network.eval()
        self.module.train()

    def steps_per_epoch(self) -> int:
        return batch_count(len(self._trunk.data.indices), self._trunk.recipe)

    def epoch_batches(self, epoch: int) -> Iterator[Batch]:
        return self._trunk.epoch_batches(epoch)

    def logits_of_rows(self, network: nn.Module, rows: Indices) -> npt.NDArray[np.float32]:
        """Return logits_bc of rows of the evaluation set, by the head of `network`."""
        if not len(rows):  # More processes than films.
            return np.empty((0, self._class_count), dtype=np.float32)
        head = head_of(network, self._trunk.architecture).eval()
        features_bd = self._trunk.features_of_rows(rows)
        device, precision, size = self._trunk.device, self._trunk.recipe.precision, self._trunk.recipe.batch_size
        parts = []
        with torch.inference_mode(), autocast(device, precision):
            for start in range(0, len(features_bd), size):
                # A copy, for torch warns of memory that it may not write.
                part_bd = torch.from_numpy(np.array(features_bd[start : start + size])).to(device)
                parts.append(head(part_bd).float().cpu().numpy())
        return np.concatenate(parts)
