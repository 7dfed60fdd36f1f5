"""The study's own way of training, kept as what ours is measured against: never used to train a run.

Every film is decoded in loader processes in every epoch, everything is float32 in torch's default layout, and a
frozen trunk is run forward on every film in every epoch. The arithmetic of a step is the same as ours: what differs
is only how long it takes. Shapes: b images, c channels, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from harness.core.cases import Case
from harness.core.contract import Preprocessing
from harness.core.machine import core_count
from harness.core.models import set_training_mode
from harness.data.decoding import decoded_film
from train.losses import LossFunction
from train.recipes import Recipe

# As many images at once as fit: VGG-16's activations at 224 px take 7 GB for the study's batch of 64.
PART_OF_VGG16 = 16


class ReferenceFilms(Dataset[tuple[Tensor, int]]):
    """Films decoded, resized and normalised at every access, as torchvision's ImageFolder would."""

    def __init__(self, paths: list[Path], labels: list[int], preprocessing: Preprocessing) -> None:
        self._films = list(zip(paths, labels, strict=True))
        self._transform = transforms.Compose(
            [
                transforms.Resize(preprocessing.resize_px, InterpolationMode.BILINEAR),
                transforms.CenterCrop(preprocessing.crop_px),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._films[index]
        return self._transform(decoded_film(path)), label


class ReferenceTraining:
    """A case trained the study's way, an epoch at each call of `epoch`."""

    def __init__(
        self, network: nn.Module, case: Case, films: ReferenceFilms, loss: LossFunction, recipe: Recipe
    ) -> None:
        self._network, self._case, self._loss = network, case, loss
        self._loader = DataLoader(films, batch_size=recipe.batch_size, shuffle=True, num_workers=core_count())
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimiser = optim.SGD(trainable, lr=recipe.learning_rate, momentum=recipe.momentum)

    def epoch(self) -> Iterator[int]:
        """Train one epoch, yielding the number of images after each step."""
        set_training_mode(self._network, self._case)
        for images_bchw, labels_b in self._loader:
            self._step(images_bchw, labels_b)
            yield len(labels_b)

    def _step(self, images_bchw: Tensor, labels_b: Tensor) -> None:
        self._optimiser.zero_grad()
        at_once = PART_OF_VGG16 if self._case.architecture == "vgg16" else len(labels_b)
        for start in range(0, len(labels_b), at_once):
            part = slice(start, start + at_once)
            share = len(labels_b[part]) / len(labels_b)
            loss = self._loss(self._network(images_bchw[part]), labels_b[part]) * share
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()

    def validation(self, films: ReferenceFilms) -> Tensor:
        """Return logits_bc of other films, decoded as always."""
        self._network.eval()
        loader = DataLoader(films, batch_size=16, num_workers=core_count())
        with torch.inference_mode():
            return torch.cat([self._network(images_bchw) for images_bchw, _ in loader])
