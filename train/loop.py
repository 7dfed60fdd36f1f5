"""The training loop: epochs over batches, validation after each, state kept between them.

What the study got wrong is right here: the network returns to training mode after every validation, the loss is
divided once, and a frozen trunk keeps its batch-norm statistics. Shapes: b images, c classes or channels, h, w.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn, optim

from harness.core.cases import Architecture, Case, LabelMode
from harness.core.errors import RunError
from harness.core.metrics import (
    SplitMetrics,
    answers_from_probabilities,
    metrics_from_answers,
    probabilities_from_logits,
)
from harness.core.models import set_training_mode
from harness.core.progress import Progress, Task
from harness.data.evaluation_set import EvaluationSet
from harness.data.preprocessing import images_from_pixels
from train.batches import TrainingData, epoch_batches
from train.losses import LossFunction
from train.recipes import Recipe
from train.resume import EpochRecord, ResumeFolder

# VGG-16 keeps about 110 MB of activations an image at 224 px: 16 of these at once is the most. Without batch-norm a
# batch can be worked off in parts whose gradients add up; ResNet-18's statistics need it whole, and it is small.
_PIXELS_AT_ONCE: dict[Architecture, int | None] = {"vgg16": 16 * 224 * 224, "resnet18": None}
_VALIDATION_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything the loop works on."""

    case: Case
    recipe: Recipe
    network: nn.Module
    loss: LossFunction
    label_mode: LabelMode
    data: TrainingData
    resume: ResumeFolder


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All epochs, and which one was best on validation."""

    history: tuple[EpochRecord, ...]
    best_epoch: int


def train_network(
    training: Training, progress: Progress, on_epoch: Callable[[tuple[EpochRecord, ...]], None]
) -> Outcome:
    """Train to the recipe's last epoch, from the last finished one where there is any; every epoch's state is kept.

    Raises RunError where the loss is no longer finite.
    """
    recipe, network = training.recipe, training.network
    optimiser = optim.SGD(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,  # One pass over 193 M parameters instead of three.
    )
    state = training.resume.load(network, optimiser)
    history = state.history if state else ()
    best_epoch = state.best_epoch if state else 1
    if state:
        progress.say(f"{training.case.name}: going on after epoch {state.last_epoch} of {recipe.epochs}")
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        record = _train_epoch(training, optimiser, epoch, progress)
        history = (*history, record)
        if _score(record) > _score(history[best_epoch - 1]):
            best_epoch = epoch
        training.resume.save(network, optimiser, history, best_epoch)
        on_epoch(history)
    return Outcome(history=history, best_epoch=best_epoch)


def _score(record: EpochRecord) -> float:
    """What "best" means: macro-F1 on validation; the training loss where validation has no labels."""
    return -record.training_loss if record.validation_macro_f1 is None else record.validation_macro_f1


def _train_epoch(training: Training, optimiser: optim.SGD, epoch: int, progress: Progress) -> EpochRecord:
    recipe, network = training.recipe, training.network
    # Dropout draws from the global generator: seeded by (seed, epoch), it needs no state on disk.
    torch.manual_seed(int(np.random.SeedSequence([training.data.seed, epoch]).generate_state(1)[0]))
    set_training_mode(network, training.case)
    started_s = time.perf_counter()
    loss_sum, image_count = 0.0, 0
    steps = math.ceil(len(training.data.indices) / recipe.batch_size)
    description = f"{training.case.name} epoch {epoch}/{recipe.epochs}"
    with progress.task(description, total=len(training.data.indices)) as task:
        for step, (images_bchw, labels_b) in enumerate(epoch_batches(training.data, recipe, epoch)):
            rate = _learning_rate(recipe, (epoch - 1) * steps + step, recipe.epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss_sum += _train_step(training, optimiser, images_bchw, labels_b, task) * len(labels_b)
            image_count += len(labels_b)
    mean_loss = loss_sum / image_count
    if not math.isfinite(mean_loss):
        raise _diverged(training.case, "training", mean_loss, epoch)
    loss, metrics = _validation(training)
    if loss is not None and not math.isfinite(loss):
        raise _diverged(training.case, "validation", loss, epoch)
    return EpochRecord(
        epoch=epoch,
        training_loss=mean_loss,
        validation_loss=loss,
        validation_accuracy=metrics.accuracy if metrics else None,
        validation_macro_f1=metrics.macro_f1 if metrics else None,
        learning_rate=rate,
        duration_s=time.perf_counter() - started_s,
    )


def _diverged(case: Case, what: str, loss: float, epoch: int) -> RunError:
    return RunError(
        f"{case.name}: the {what} loss is {loss} in epoch {epoch}.",
        hint="Train with a lower --learning-rate: that is another run, so with its own --name or with --force.",
    )


def _learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def _train_step(training: Training, optimiser: optim.SGD, images_bchw: Tensor, labels_b: Tensor, task: Task) -> float:
    """Take one step and return the batch's mean loss; parts of a batch weigh by their number of images."""
    pixels_at_once = _PIXELS_AT_ONCE[training.case.architecture]
    at_once = max(1, pixels_at_once // training.recipe.crop_px**2) if pixels_at_once else len(labels_b)
    optimiser.zero_grad(set_to_none=True)
    total = 0.0
    for start in range(0, len(labels_b), at_once):
        part = slice(start, start + at_once)
        share = len(labels_b[part]) / len(labels_b)
        loss = training.loss(training.network(images_bchw[part]), labels_b[part]) * share
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        task.advance(len(labels_b[part]), note=f"loss {loss.item() / share:.3f}")
    optimiser.step()
    return total


def _validation(training: Training) -> tuple[float | None, SplitMetrics | None]:
    evaluation_set = training.data.evaluation_set
    indices = evaluation_set.indices_of("validation")
    labels_b = evaluation_set.labels_b[indices]
    labelled = indices[labels_b >= 0]
    if not len(labelled):
        return None, None
    logits_bc = logits_of_images(training.network, evaluation_set, labelled, training.recipe)
    labels_b = evaluation_set.labels_b[labelled]
    loss = training.loss(torch.from_numpy(logits_bc), torch.from_numpy(labels_b)).item()
    answers_b = answers_from_probabilities(
        probabilities_from_logits(logits_bc, training.label_mode), training.label_mode
    )
    return loss, metrics_from_answers(labels_b, answers_b, training.case.class_names)


def logits_of_images(
    network: nn.Module, evaluation_set: EvaluationSet, indices: npt.NDArray[np.int64], recipe: Recipe
) -> npt.NDArray[np.float32]:
    """Return logits_bc of the images at `indices`; the network is left in eval mode."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(indices), _VALIDATION_BATCH_SIZE):
            chunk = indices[start : start + _VALIDATION_BATCH_SIZE]
            images_bchw = images_from_pixels(evaluation_set.pixels_bhwc[chunk], recipe.preprocessing)
            parts.append(network(torch.from_numpy(images_bchw)).numpy())
    return np.concatenate(parts)
