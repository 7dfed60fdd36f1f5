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
import torch
from torch import nn

from harness.core.cases import Case, LabelMode
from harness.core.errors import RunError
from harness.core.metrics import answers_from_probabilities, metrics_from_answers, probabilities_from_logits
from harness.core.progress import Progress
from train.batches import TrainingData
from train.losses import LossFunction
from train.mixup import mixture
from train.optimisers import averaged_copy, learning_rate, optimiser_for
from train.ranks import Ranks
from train.recipes import Recipe
from train.resume import EpochRecord, ResumeFolder, TrainingState
from train.sources import Source
from train.steps import Stepper


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything the loop works on. `source` says what is trained (the network or its head) and on what."""

    case: Case
    recipe: Recipe
    network: nn.Module
    source: Source
    loss: LossFunction
    label_mode: LabelMode
    data: TrainingData
    resume: ResumeFolder
    device: torch.device
    ranks: Ranks


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
    module = training.source.module
    state = TrainingState(
        network=network, optimiser=optimiser_for(module, recipe), average=averaged_copy(network, recipe)
    )
    resumed = training.resume.load(state)
    history = resumed.history if resumed else ()
    best_epoch = resumed.best_epoch if resumed else 1
    if resumed:
        progress.say(f"{training.case.name}: going on after epoch {resumed.last_epoch} of {recipe.epochs}")
        if training.ranks.writes:
            on_epoch(history)  # A process killed right after it kept an epoch has not told of it.
    stepper = Stepper(
        module=training.ranks.parallel(module),
        loss=training.loss,
        optimiser=state.optimiser,
        precision=recipe.precision,
        images_at_once=training.source.images_at_once,
        device=training.device,
        ranks=training.ranks,
    )
    while len(history) < recipe.epochs and not _patience_is_over(recipe, len(history), best_epoch):
        epoch = len(history) + 1
        record = _train_epoch(training, stepper, state, epoch, progress)
        history = (*history, record)
        if _score(record) > _score(history[best_epoch - 1]):
            best_epoch = epoch
        if training.ranks.writes:
            training.resume.save(state, history, best_epoch)
            on_epoch(history)
    return Outcome(history=history, best_epoch=best_epoch)


def _patience_is_over(recipe: Recipe, epochs_done: int, best_epoch: int) -> bool:
    return recipe.patience is not None and epochs_done - best_epoch >= recipe.patience


def _score(record: EpochRecord) -> float:
    """What "best" means: macro-F1 on validation; the training loss where validation has no labels."""
    return -record.training_loss if record.validation_macro_f1 is None else record.validation_macro_f1


def _train_epoch(
    training: Training, stepper: Stepper, state: TrainingState, epoch: int, progress: Progress
) -> EpochRecord:
    recipe, ranks = training.recipe, training.ranks
    # Dropout draws from the global generator: seeded by (seed, epoch), it needs no state on disk.
    seeds = [training.data.seed, epoch, *([ranks.rank] if ranks.rank else [])]
    torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
    training.source.set_training_mode()
    started_s = time.perf_counter()
    loss_sum, image_count, waited_s, rate = 0.0, 0, 0.0, 0.0
    steps = training.source.steps_per_epoch()
    description = f"{training.case.name} epoch {epoch}/{recipe.epochs}"
    with progress.task(description, total=steps) as task:
        batches = iter(training.source.epoch_batches(epoch))
        for step in range(steps):
            asked_s = time.perf_counter()
            batch = next(batches)
            waited_s += time.perf_counter() - asked_s
            rate = learning_rate(recipe, (epoch - 1) * steps + step, steps)
            mixed = mixture(recipe, seed=training.data.seed, epoch=epoch, step=step, count=len(batch.labels_b))
            loss = stepper.step(batch, rate, mixed)
            if state.average is not None:
                state.average.update_parameters(training.network)
            images = len(batch.labels_b) if batch.weight else 0
            loss_sum, image_count = loss_sum + loss * images, image_count + images
            task.advance(1, note=f"loss {loss:.3f}")
        assert next(batches, None) is None, "as many batches as steps"
    mean_loss = ranks.sum_of(loss_sum) / ranks.sum_of(image_count)
    if not math.isfinite(mean_loss):
        raise _diverged(training.case, "training", mean_loss, epoch)
    trained_s = time.perf_counter() - started_s
    validation_loss, accuracy, macro_f1 = _validation(training, state.kept_network)
    if validation_loss is not None and not math.isfinite(validation_loss):
        raise _diverged(training.case, "validation", validation_loss, epoch)
    return EpochRecord(
        epoch=epoch,
        training_loss=mean_loss,
        validation_loss=validation_loss,
        validation_accuracy=accuracy,
        validation_macro_f1=macro_f1,
        learning_rate=rate,
        duration_s=time.perf_counter() - started_s,
        load_share=waited_s / trained_s,
    )


def _diverged(case: Case, what: str, loss: float, epoch: int) -> RunError:
    return RunError(
        f"{case.name}: the {what} loss is {loss} in epoch {epoch}.",
        hint="Train with a lower --lr: that is another run, so with its own --name or with --force.",
    )


def _validation(training: Training, network: nn.Module) -> tuple[float | None, float | None, float | None]:
    """Return loss, accuracy and macro-F1 of the labelled validation films; None each where there are none."""
    evaluation_set, ranks = training.data.evaluation_set, training.ranks
    indices = evaluation_set.indices_of("validation")
    rows = indices[evaluation_set.labels_b[indices] >= 0]
    if not len(rows):
        return None, None, None
    ranks.share_buffers(network)
    mine = np.arange(ranks.rank, len(rows), ranks.count)
    logits_bc = ranks.gathered(training.source.logits_of_rows(network, rows[mine]), mine, len(rows))
    labels_b = evaluation_set.labels_b[rows]
    loss = training.loss(torch.from_numpy(logits_bc), torch.from_numpy(labels_b)).item()
    answers_b = answers_from_probabilities(
        probabilities_from_logits(logits_bc, training.label_mode), training.label_mode
    )
    metrics = metrics_from_answers(labels_b, answers_b, training.case.class_names)
    assert metrics is not None, "only labelled rows were asked for"
    return loss, metrics.accuracy, metrics.macro_f1
