"""The state between two epochs, so that a run that was stopped goes on as if it had not been.

`last/state.json` is the only entrance: it is renamed into place after the tensors it names, and names them with
their hashes. Per epoch there are the weights (averaged, where the recipe averages: then the raw ones lie beside
them) and the optimiser's tensors. The weights of the best epoch stay until a better one comes, and become the
checkpoint by a hard link, not by another write of 770 MB. There is no state of random generators (decision 2), of a
schedule (a function of the step) or of processes: a run may go on with another number of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel

from harness.core.errors import RunError
from harness.core.files import sha256_from_file, write_atomically, write_text_atomically
from harness.core.tensors import save_tensors


class EpochRecord(BaseModel):
    """One finished epoch: mean training loss, and validation figures where that split has labels (fractions 0..1).

    `load_share` is the fraction of the training time, validation apart, that was spent waiting for data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    training_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_macro_f1: float | None
    learning_rate: float
    duration_s: float
    load_share: float


class ResumeState(BaseModel):
    """What state.json holds. `files` maps the tensor files it relies on to their sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history: Annotated[tuple[EpochRecord, ...], Field(min_length=1)]
    best_epoch: int
    files: dict[str, str]

    @property
    def last_epoch(self) -> int:
        return self.history[-1].epoch


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What changes from step to step. `average` is the running average of the network, where the recipe has one."""

    network: nn.Module
    optimiser: optim.Optimizer
    average: AveragedModel | None

    @property
    def kept_network(self) -> nn.Module:
        """The network whose weights are validated and kept."""
        return self.network if self.average is None else self.average.module


class ResumeFolder:
    """The folder `last/` of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state_path = folder / "state.json"

    def weights_path(self, epoch: int) -> Path:
        """Return where the weights of an epoch lie that are validated and kept."""
        return self.folder / f"weights-{epoch:03d}.safetensors"

    def _raw_path(self, epoch: int) -> Path:
        return self.folder / f"raw-{epoch:03d}.safetensors"

    def _optimiser_path(self, epoch: int) -> Path:
        return self.folder / f"optimiser-{epoch:03d}.safetensors"

    def save(self, state: TrainingState, history: tuple[EpochRecord, ...], best_epoch: int) -> None:
        """Keep the state after the last epoch of `history`; raise ArtifactError where the disk is full."""
        epoch = history[-1].epoch
        contents = {
            self.weights_path(epoch): state.kept_network.state_dict(),
            self._optimiser_path(epoch): _optimiser_tensors(state.network, state.optimiser),
        }
        if state.average is not None:
            contents[self._raw_path(epoch)] = state.network.state_dict()
        for path, tensors in contents.items():
            write_atomically(path, partial(save_tensors, tensors=tensors), durable=False)
        needed = {*contents, self.weights_path(best_epoch)}
        kept = ResumeState(
            history=history,
            best_epoch=best_epoch,
            files={path.name: sha256_from_file(path) for path in sorted(needed)},
        )
        write_text_atomically(self._state_path, kept.model_dump_json(indent=2) + "\n")
        for path in self.folder.glob("*.safetensors"):
            if path not in needed:
                path.unlink()

    def load(self, state: TrainingState) -> ResumeState | None:
        """Restore network, average and optimiser; return None where there is nothing to resume.

        Raises RunError where the state was damaged.
        """
        if not self._state_path.is_file():
            return None
        hint = f"Delete {self.folder} to train this run from its beginning."
        try:
            kept = ResumeState.model_validate_json(self._state_path.read_text(encoding="utf-8"))
            damaged = [name for name, sha256 in kept.files.items() if sha256_from_file(self.folder / name) != sha256]
        except (ValidationError, UnicodeDecodeError, OSError) as error:
            raise RunError(f"The resume state in {self.folder} is not readable: {error}", hint=hint) from error
        if damaged:
            raise RunError(f"The resume state in {self.folder} is damaged: {', '.join(damaged)}.", hint=hint)
        epoch = kept.last_epoch
        state.kept_network.load_state_dict(load_file(self.weights_path(epoch)))
        if state.average is not None:
            state.network.load_state_dict(load_file(self._raw_path(epoch)))
            state.average.n_averaged.fill_(1)  # Not 0, which would begin the average anew; more is never asked.
        _restore_optimiser(state.network, state.optimiser, load_file(self._optimiser_path(epoch)))
        return kept

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _optimiser_tensors(network: nn.Module, optimiser: optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `key parameter-name` -> tensor."""
    return {
        f"{key} {name}": value
        for name, parameter in network.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    } or {"none": torch.zeros(1)}


def _restore_optimiser(network: nn.Module, optimiser: optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for label, value in tensors.items():
        key, _, name = label.partition(" ")
        if name:
            parameter = parameters[name]
            # In the parameter's own layout (channels last), as the optimiser made it; step counters are scalars.
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimiser.state[parameter][key] = like.copy_(value).to(parameter.device)
