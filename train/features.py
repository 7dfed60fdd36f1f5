"""A frozen trunk is run once: what it makes of each film is kept, and the head alone is trained on that.

Without augmentation the features of a film never change, so epochs after the first cost the head only. With it, one
set of features is made per view; a recipe says how many views there are, and an epoch uses them in turn. With as
many views as epochs this is the plain loop, film for film.

Shapes: b images, d features (512 of ResNet-18, 25,088 of VGG-16), c channels, h, w pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.core.cases import Architecture
from harness.core.files import allocate_blocks, write_atomically
from harness.core.models import HEAD_PREFIX
from harness.core.progress import Progress
from train.batches import Batch, Indices, TrainingData, augmented_images, epoch_chunks, images_of_rows
from train.precision import autocast
from train.ranks import Ranks
from train.recipes import Recipe


def head_of(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Return the part of a network that a head-only case trains."""
    head = getattr(network, HEAD_PREFIX[architecture].rstrip("."))
    assert isinstance(head, nn.Module)
    return head


@contextmanager
def _without_head(network: nn.Module, architecture: Architecture) -> Iterator[nn.Module]:
    """The network ending in its features: torchvision's own forward, the head replaced by nothing."""
    name = HEAD_PREFIX[architecture].rstrip(".")
    head = getattr(network, name)
    setattr(network, name, nn.Identity())
    try:
        yield network
    finally:
        setattr(network, name, head)


@dataclass(frozen=True, kw_only=True)
class FrozenTrunk:
    """Makes features and keeps them in `folder`, which may be deleted at any time: they are made again."""

    network: nn.Module
    architecture: Architecture
    data: TrainingData
    recipe: Recipe
    device: torch.device
    ranks: Ranks
    folder: Path
    progress: Progress

    def epoch_batches(self, epoch: int) -> Iterator[Batch]:
        """Yield this process's part of every batch of an epoch as features_bd, in the order of the plain loop."""
        shards = self._training_features(self._view(epoch))
        place = {int(row): index for index, row in enumerate(self.data.indices)}
        for chunk in epoch_chunks(self.data, self.recipe, epoch):
            part = self.ranks.part_of(chunk)
            places = [divmod(place[int(row)], self.ranks.count) for row in part.rows]
            inputs_bd = torch.from_numpy(np.stack([shards[shard][index] for index, shard in places]))
            labels_b = torch.from_numpy(self.data.evaluation_set.labels_b[part.rows])
            yield Batch(inputs=inputs_bd, labels_b=labels_b, weight=part.weight)

    def features_of_rows(self, rows: Indices) -> npt.NDArray[np.float32]:
        """Return features_bd of rows of the evaluation set, unchanged films; kept for the next epoch."""
        images = images_of_rows(self.data.evaluation_set, rows, self.recipe)
        self._ensure("validation", rows, images)
        return np.asarray(np.load(self._path("validation", rows), mmap_mode="r"))

    def _view(self, epoch: int) -> int:
        if self.recipe.augmentation == "none":
            return 1
        return (epoch - 1) % (self.recipe.views or self.recipe.epochs) + 1

    def _training_features(self, view: int) -> list[npt.NDArray[np.float32]]:
        """Return the features of the train split, film i at [i % processes][i // processes].

        Each process runs the trunk on its share; all read all, for the order of batches mixes the films.
        """
        name, count = f"view-{view:03d}", self.ranks.count
        rows = self.data.indices[self.ranks.rank :: count]
        if self.recipe.augmentation == "none":
            images: Iterable[Tensor] = images_of_rows(self.data.evaluation_set, rows, self.recipe)
        else:
            starts = range(0, len(rows), self.recipe.batch_size)
            chunks = [rows[start : start + self.recipe.batch_size] for start in starts]
            images = augmented_images(self.data, self.recipe, view, chunks)
        if len(rows):  # None where there are more processes than films.
            self._ensure(name, rows, images)
        if self.recipe.augmentation != "none" and self.recipe.views is None:
            # Used once: for VGG-16 and the study's 12,000 films a view is 1.2 GB.
            self._path(f"view-{view - 1:03d}", rows).unlink(missing_ok=True)
        self.ranks.wait_for_all()
        shards = [self.data.indices[rank::count] for rank in range(count)]
        return [np.load(self._path(name, shard), mmap_mode="r") for shard in shards if len(shard)]

    def _path(self, name: str, rows: Indices) -> Path:
        # Another number of processes makes other shares, so the name says which rows these are.
        return self.folder / f"{name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:8]}.npy"

    def _ensure(self, name: str, rows: Indices, images: Iterable[Tensor]) -> None:
        path = self._path(name, rows)
        if not _is_whole(path, len(rows)):
            write_atomically(path, lambda temporary: self._write(temporary, name, len(rows), images), durable=False)

    def _write(self, path: Path, name: str, count: int, images: Iterable[Tensor]) -> None:
        features_bd: np.memmap[Any, np.dtype[np.float32]] | None = None
        done = 0
        with (
            self.progress.task(f"Features ({name})", total=count) as task,
            torch.inference_mode(),
            _without_head(self.network, self.architecture) as trunk,
        ):
            trunk.eval()
            for images_bchw in images:
                with autocast(self.device, self.recipe.precision):
                    part_bd = trunk(images_bchw.to(self.device, non_blocking=True)).float().cpu().numpy()
                if features_bd is None:
                    shape = (count, part_bd.shape[1])
                    features_bd = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                    allocate_blocks(path)
                features_bd[done : done + len(part_bd)] = part_bd
                done += len(part_bd)
                task.advance(len(part_bd))
        assert features_bd is not None, "a split has films"
        features_bd.flush()


def _is_whole(path: Path, count: int) -> bool:
    """Tell whether the file is there and holds `count` rows."""
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError):
        return False
