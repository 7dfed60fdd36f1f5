"""`make bench-train`: our training beside the study's own way of it, interleaved on the same films.

The two alternate within one process, a round of each in turn, and only the ratio of neighbouring rounds counts, so
that the drift of a shared machine hits both alike (a frozen trunk has one round, of ten epochs each). A round is whole
epochs, loading and features included; validation and the writing of states are in neither. Nothing is augmented. The
last line is JSON: reference time / our time for each kind of case, and the share of a ResNet-18 step that is spent
waiting for data.

    python -m train.benchmark DATA
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev

import click
import numpy as np
import torch
from torch import nn

from harness.core.cases import Case, case_named
from harness.core.models import freeze_trunk, model_from_case
from harness.core.progress import SILENT
from harness.data.evaluation_set import EvaluationSet, ensured_evaluation_set
from harness.data.manifest import Manifest, manifest_for_case
from train.batches import TrainingData, training_data
from train.features import FrozenTrunk
from train.losses import loss_function
from train.optimisers import learning_rate, optimiser_for
from train.precision import resolved_precision, training_device
from train.ranks import ONE_PROCESS
from train.recipes import Recipe, recipe_for_case
from train.reference import ReferenceFilms, ReferenceTraining
from train.sources import FeatureSource, ImageSource, Source
from train.steps import Stepper

_FROZEN_EPOCHS = 10
_SEEDS = (0, 1, 2)
_ACCURACY_CASE, _ACCURACY_EPOCHS = case_named("d2-resnet18-ce"), 8


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is timed for one kind of case: so many films (a batch is 64), epochs a round, and rounds."""

    name: str
    case: Case
    films: int
    epochs: int
    rounds: int


KINDS = (
    Kind(name="frozen_resnet18", case=case_named("d1-resnet18-fc"), films=192, epochs=_FROZEN_EPOCHS, rounds=1),
    Kind(name="frozen_vgg16", case=case_named("d1-vgg16-fc"), films=64, epochs=_FROZEN_EPOCHS, rounds=1),
    Kind(name="full_resnet18", case=case_named("d2-resnet18-ce"), films=192, epochs=1, rounds=4),
    Kind(name="full_vgg16", case=case_named("d1-vgg16-all"), films=64, epochs=1, rounds=2),
)


@dataclass(frozen=True, kw_only=True)
class Films:
    """One case's data, ready for both ways, and where ours may write."""

    case: Case
    manifest: Manifest
    evaluation_set: EvaluationSet
    data: TrainingData
    recipe: Recipe
    work: Path

    def first(self, count: int) -> Films:
        """Return the same with so many training films only."""
        return replace(self, data=replace(self.data, indices=self.data.indices[:count]))

    def reference(self, split_rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ReferenceFilms:
        """Return rows for the reference, which decodes them itself."""
        paths = [self.data.films.paths[row] for row in split_rows]
        return ReferenceFilms(paths, self.evaluation_set.labels_b[split_rows].tolist(), self.recipe.preprocessing)


def films_of_case(case: Case, data_folder: Path, work: Path, recipe: Recipe, *, seed: int = 0) -> Films:
    """Open a case's data set; `work` takes the evaluation set and features."""
    manifest = manifest_for_case(data_folder, case)
    evaluation_set = ensured_evaluation_set(work / "evaluation-sets", manifest, recipe.preprocessing, SILENT)
    data = training_data(manifest, evaluation_set, seed, recipe=recipe)
    return Films(case=case, manifest=manifest, evaluation_set=evaluation_set, data=data, recipe=recipe, work=work)


class Ours:
    """Our training without the files: source and stepper as the loop uses them."""

    def __init__(self, films: Films, *, seed: int = 0) -> None:
        self._films = films
        self.network = _network(films.case, seed)
        self._device = training_device()
        self._stepper: Stepper | None = None
        self.load_share = 0.0

    def train(self, epochs: int) -> None:
        """Train epochs from the first on; features are made anew at every call."""
        films, recipe = self._films, self._films.recipe
        with tempfile.TemporaryDirectory(dir=films.work) as folder:
            source = self._source_in(Path(folder))
            if self._stepper is None:
                self._stepper = Stepper(
                    module=source.module,
                    loss=loss_function(films.case.loss, "multiclass"),
                    optimiser=optimiser_for(source.module, recipe),
                    precision=recipe.precision,
                    images_at_once=source.images_at_once,
                    device=self._device,
                    ranks=ONE_PROCESS,
                )
            waited_s, started_s, steps = 0.0, time.perf_counter(), source.steps_per_epoch()
            for epoch in range(1, epochs + 1):
                source.set_training_mode()
                batches = source.epoch_batches(epoch)
                for step in range(steps):
                    asked_s = time.perf_counter()
                    batch = next(batches)
                    waited_s += time.perf_counter() - asked_s
                    self._stepper.step(batch, learning_rate(recipe, (epoch - 1) * steps + step, steps))
            self.load_share = waited_s / (time.perf_counter() - started_s)

    def _source_in(self, folder: Path) -> Source:
        films = self._films
        if films.case.trainable == "all":
            return ImageSource(self.network, films.case, films.data, films.recipe, self._device, ONE_PROCESS)
        return FeatureSource(
            FrozenTrunk(
                network=self.network,
                architecture=films.case.architecture,
                data=films.data,
                recipe=films.recipe,
                device=self._device,
                ranks=ONE_PROCESS,
                folder=folder,
                progress=SILENT,
            ),
            films.case,
        )

    def test_accuracy(self) -> float:
        """Return the share of the test split answered rightly, in float32."""
        films = self._films
        rows = films.evaluation_set.indices_of("test")
        recipe = films.recipe.model_copy(update={"precision": "fp32"})
        source = ImageSource(self.network, films.case, films.data, recipe, self._device, ONE_PROCESS)
        return _accuracy(source.logits_of_rows(self.network, rows), films, rows)


def _network(case: Case, seed: int) -> nn.Module:
    network = model_from_case(case, seed=seed)
    if case.trainable == "head":
        freeze_trunk(network, case.architecture)
    return network


def _accuracy(
    logits_bc: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    films: Films,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> float:
    return float((logits_bc.argmax(axis=1) == films.evaluation_set.labels_b[rows]).mean())


def _timed(work: object, epochs: int) -> float:
    started_s = time.perf_counter()
    if isinstance(work, Ours):
        work.train(epochs)
    else:
        assert isinstance(work, ReferenceTraining)
        for _ in range(epochs):
            for _ in work.epoch():
                pass
    return time.perf_counter() - started_s


def measured_kind(kind: Kind, data_folder: Path, work: Path) -> tuple[list[float], float]:
    """Return the ratio of every round, and the share of our time spent waiting for data; prints what it sees."""
    precision = resolved_precision("auto", training_device())
    recipe = recipe_for_case("published", kind.case, augmentation="none", epochs=kind.epochs, precision=precision)
    films = films_of_case(kind.case, data_folder, work, recipe).first(kind.films)
    loss = loss_function(kind.case.loss, "multiclass")
    ours = Ours(films)
    reference = ReferenceTraining(_network(kind.case, 0), kind.case, films.reference(films.data.indices), loss, recipe)
    # One untimed step each: primitives are built, pages touched, momentum made.
    Ours(films.first(recipe.batch_size)).train(1) if kind.case.trainable == "head" else ours.train(1)
    next(reference.epoch())
    ratios, shares = [], []
    for number in range(kind.rounds):
        pair = (reference, ours) if number % 2 == 0 else (ours, reference)  # Neither always follows the other.
        seconds = {type(each): _timed(each, kind.epochs) for each in pair}
        ratios.append(seconds[ReferenceTraining] / seconds[Ours])
        shares.append(ours.load_share)
        click.echo(
            f"{kind.name} round {number + 1}/{kind.rounds}: reference {seconds[ReferenceTraining]:.1f} s, ours "
            f"{seconds[Ours]:.1f} s ({recipe.precision}), ratio {ratios[-1]:.2f}; {len(films.data.indices)} films, "
            f"{kind.epochs} epochs; peak memory so far {_peak_bytes() / 1e9:.1f} GB",
        )
    return ratios, median(shares)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_accuracies(data_folder: Path, work: Path) -> dict[str, list[float]]:
    """Return the test accuracy of both ways for each seed: 64 px, a few epochs, a constant rate."""
    precision = resolved_precision("auto", training_device())
    accuracies: dict[str, list[float]] = {"reference, float32": [], f"ours, {precision}": []}
    for seed in _SEEDS:
        recipe = recipe_for_case(
            "quick", _ACCURACY_CASE, epochs=_ACCURACY_EPOCHS, schedule="constant", precision=precision
        )
        films = films_of_case(_ACCURACY_CASE, data_folder, work, recipe, seed=seed)
        loss = loss_function(_ACCURACY_CASE.loss, "multiclass")
        torch.manual_seed(seed)  # The reference shuffles by the global generator.
        network = _network(_ACCURACY_CASE, seed)
        reference = ReferenceTraining(network, _ACCURACY_CASE, films.reference(films.data.indices), loss, recipe)
        _timed(reference, _ACCURACY_EPOCHS)
        rows = films.evaluation_set.indices_of("test")
        logits_bc = reference.validation(films.reference(rows)).numpy()
        ours = Ours(films, seed=seed)
        ours.train(_ACCURACY_EPOCHS)
        for name, accuracy in zip(accuracies, (_accuracy(logits_bc, films, rows), ours.test_accuracy()), strict=True):
            accuracies[name].append(accuracy)
        click.echo(
            f"accuracy, seed {seed}: " + ", ".join(f"{name} {each[-1]:.3f}" for name, each in accuracies.items())
        )
    return accuracies


@click.command()
@click.argument("data_folder", type=click.Path(path_type=Path), metavar="DATA")
def main(data_folder: Path) -> None:
    """Measure on DATA, a folder of dataset1 and dataset2."""
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        work = Path(folder)
        for name, values in measured_accuracies(data_folder, work).items():
            click.echo(f"accuracy, {name}: mean {mean(values):.3f}, sd {stdev(values):.3f} over {len(values)} seeds")
        for kind in KINDS:
            ratios, load_share = measured_kind(kind, data_folder, work)
            result[kind.name] = round(median(ratios), 2)
            if kind.name == "full_resnet18":
                result["load_share"] = round(load_share, 4)
    click.echo(json.dumps({name: result[name] for name in (*(kind.name for kind in KINDS), "load_share")}))


if __name__ == "__main__":
    main()
