"""Mixup: each image of a batch blended with another one, and the loss with that one's label.

Zhang et al. 2018, arXiv 1710.09412: x = s x_i + (1 - s) x_j and the same of the losses, s drawn from Beta(a, a) once
a batch. With some hundred films and random initial weights it is what keeps a network from learning the films by
heart (docs/decisions/0009). Shapes: b images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """How much each image keeps of itself, and the position in the batch of the one it is blended with."""

    share: float
    partners_b: Tensor

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """Return the blended inputs, in the memory order of the originals."""
        return torch.lerp(inputs[self.partners_b], inputs, self.share)


def mixture(recipe: Recipe, *, seed: int, epoch: int, step: int, count: int) -> Mixture | None:
    """Return the mixture of a batch of `count` images, which depends on nothing but the numbers given; None without.

    Several processes draw the same share, and each finds partners within its own part of the batch.
    """
    if not recipe.mixup:
        return None
    generator = np.random.default_rng([seed, epoch, step])
    share = float(generator.beta(recipe.mixup, recipe.mixup))
    return Mixture(share=share, partners_b=torch.from_numpy(generator.permutation(count)))
