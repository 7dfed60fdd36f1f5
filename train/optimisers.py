"""The optimiser of a recipe, the learning rate of each step, and the running average of the weights."""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.recipes import Recipe


def optimiser_for(module: nn.Module, recipe: Recipe) -> optim.Optimizer:
    """Return the recipe's optimiser over the trainable parameters, in its fused form: one pass over the weights.

    Weight decay leaves biases and normalisation alone (one-dimensional parameters), as is usual with AdamW.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.optimiser == "sgd":
        return optim.SGD(
            trainable,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    groups: list[dict[str, Any]] = [
        {"params": [each for each in trainable if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in trainable if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from the first of all epochs: linear warm-up, then constant or cosine."""
    warm_up_steps = recipe.warm_up_epochs * steps_per_epoch
    if step < warm_up_steps:
        return recipe.learning_rate * (step + 1) / warm_up_steps
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - warm_up_steps) / max(recipe.epochs * steps_per_epoch - warm_up_steps, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def averaged_copy(network: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """Return torch's exponential moving average of the network, batch statistics included; None without averaging."""
    if not recipe.averaging:
        return None
    average = get_ema_multi_avg_fn(recipe.averaging)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
