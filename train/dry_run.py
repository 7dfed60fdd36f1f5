"""`harness train --dry-run`: everything is looked at, one step is taken, nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.core.models import set_training_mode
from harness.core.runs import RunDirectory
from harness.data.decoding import decoded_film
from harness.data.manifest import check_films, manifest_for_case
from harness.data.preprocessing import normalised_pixels, pixels_from_film
from train.batches import Batch, batch_count
from train.directory import existing_record
from train.losses import loss_function
from train.optimisers import optimiser_for
from train.precision import training_device
from train.ranks import ONE_PROCESS
from train.request import TrainRequest, new_record
from train.run import initial_network
from train.sources import images_at_once
from train.steps import Stepper

PLAN_COLUMNS = ["run", "state", "train / validation / test", "epochs x steps", "trains", "precision", "s per step"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would be. `step_s` is one whole step of the network on real films, after one untimed."""

    name: str
    state: str
    films: dict[str, int]
    epochs: int
    steps_per_epoch: int
    trainable_parameters: int
    precision: str
    step_s: float

    def row(self) -> list[str]:
        """Cells for the table: run, state, films, epochs x steps, trainable parameters, precision, s per step."""
        films = " / ".join(str(count) for count in self.films.values())
        return [
            self.name,
            self.state,
            films,
            f"{self.epochs} x {self.steps_per_epoch}",
            f"{self.trainable_parameters:,}",
            self.precision,
            f"{self.step_s:.2f}",
        ]

    def summary(self) -> dict[str, Any]:
        """The same for machines."""
        return dict(vars(self))


def planned_run(request: TrainRequest) -> Plan:
    """Check data, weights and run directory as a training would, and take two steps on the first films.

    Raises UsageError, DataError and RunError as the training would; only the lock is not tried. The steps are of the
    whole network also where a frozen trunk would be run once.
    """
    case, recipe, device = request.case, request.recipe, training_device()
    manifest = manifest_for_case(request.data_folder, case)
    run = RunDirectory(request.runs_folder / (request.name or case.name))
    record = new_record(request, run, manifest)
    existing = existing_record(run, record.identity, request.force)
    check_films(manifest)
    network, _ = initial_network(request)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_training_mode(network, case)
    train_rows = manifest.rows_of("train")
    rows = train_rows[: recipe.batch_size]
    pixels_bhwc = np.stack(
        [pixels_from_film(decoded_film(manifest.film_path(row)), recipe.preprocessing) for row in rows]
    )
    images_bhwc = normalised_pixels(pixels_bhwc, recipe.preprocessing)
    batch = Batch(
        inputs=torch.from_numpy(images_bhwc).permute(0, 3, 1, 2),
        labels_b=torch.tensor([case.class_names.index(row.class_name) for row in rows]),
        weight=1.0,
    )
    stepper = Stepper(
        module=network,
        loss=loss_function(record.identity.loss, record.identity.label_mode),
        optimiser=optimiser_for(network, recipe),
        precision=recipe.precision,
        images_at_once=images_at_once(case.architecture, recipe),
        device=device,
        ranks=ONE_PROCESS,
    )
    stepper.step(batch, recipe.learning_rate)
    started_s = time.perf_counter()
    stepper.step(batch, recipe.learning_rate)
    step_s = time.perf_counter() - started_s
    return Plan(
        name=run.name,
        state="new" if existing is None else {"training": "would go on"}.get(existing.status, existing.status),
        films={split: len(manifest.rows_of(split)) for split in ("train", "validation", "test")},
        epochs=recipe.epochs,
        steps_per_epoch=batch_count(len(train_rows), recipe),
        trainable_parameters=sum(each.numel() for each in network.parameters() if each.requires_grad),
        precision=recipe.precision,
        step_s=step_s,
    )
