"""The state between two epochs, so that a run that was stopped goes on as if it had not been.

`last/state.json` is the only entrance: it is renamed into place after the tensors it names, and names them with
their hashes. Weights and momentum are one file each per epoch; the weights of the best epoch stay until a better
one comes, and become the checkpoint by a hard link, not by another write of 770 MB.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn, optim

from harness.core.errors import RunError
from harness.core.files import sha256_from_file, write_atomically, write_text_atomically
from harness.core.tensors import save_tensors


class EpochRecord(BaseModel):
    """One finished epoch: mean training loss, and validation figures where that split has labels (fractions 0..1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    training_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    validation_macro_f1: float | None
    learning_rate: float
    duration_s: float


class ResumeState(BaseModel):
    """What state.json holds. `files` maps the tensor files it relies on to their sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history: Annotated[tuple[EpochRecord, ...], Field(min_length=1)]
    best_epoch: int
    files: dict[str, str]

    @property
    def last_epoch(self) -> int:
        return self.history[-1].epoch


class ResumeFolder:
    """The folder `last/` of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state_path = folder / "state.json"

    def weights_path(self, epoch: int) -> Path:
        return self.folder / f"weights-{epoch:03d}.safetensors"

    def _momentum_path(self, epoch: int) -> Path:
        return self.folder / f"momentum-{epoch:03d}.safetensors"

    def save(self, network: nn.Module, optimiser: optim.SGD, history: tuple[EpochRecord, ...], best_epoch: int) -> None:
        """Keep the state after the last epoch of `history`; raise ArtifactError where the disk is full."""
        epoch = history[-1].epoch
        weights, momentum = self.weights_path(epoch), self._momentum_path(epoch)
        write_atomically(weights, partial(save_tensors, tensors=network.state_dict()), durable=False)
        write_atomically(momentum, partial(save_tensors, tensors=_momentum_tensors(network, optimiser)), durable=False)
        needed = {weights, momentum, self.weights_path(best_epoch)}
        state = ResumeState(
            history=history,
            best_epoch=best_epoch,
            files={path.name: sha256_from_file(path) for path in sorted(needed)},
        )
        write_text_atomically(self._state_path, state.model_dump_json(indent=2) + "\n")
        for path in self.folder.glob("*.safetensors"):
            if path not in needed:
                path.unlink()

    def load(self, network: nn.Module, optimiser: optim.SGD) -> ResumeState | None:
        """Restore network and optimiser; return None where there is nothing to resume.

        Raises RunError where the state was damaged.
        """
        if not self._state_path.is_file():
            return None
        hint = f"Delete {self.folder} to train this run from its beginning."
        try:
            state = ResumeState.model_validate_json(self._state_path.read_text(encoding="utf-8"))
            damaged = [name for name, sha256 in state.files.items() if sha256_from_file(self.folder / name) != sha256]
        except (ValidationError, UnicodeDecodeError, OSError) as error:
            raise RunError(f"The resume state in {self.folder} is not readable: {error}", hint=hint) from error
        if damaged:
            raise RunError(f"The resume state in {self.folder} is damaged: {', '.join(damaged)}.", hint=hint)
        network.load_state_dict(load_file(self.weights_path(state.last_epoch)))
        _restore_momentum(network, optimiser, load_file(self._momentum_path(state.last_epoch)))
        return state

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _momentum_tensors(network: nn.Module, optimiser: optim.SGD) -> dict[str, Tensor]:
    return {
        name: optimiser.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if optimiser.state[parameter].get("momentum_buffer") is not None
    } or {"none": torch.zeros(1)}


def _restore_momentum(network: nn.Module, optimiser: optim.SGD, tensors: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        if name in tensors:
            optimiser.state[parameter]["momentum_buffer"] = tensors[name]
