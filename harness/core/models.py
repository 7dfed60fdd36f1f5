"""The networks of the eight cases, with the study's exact heads, and state dicts into them.

Torch is imported inside the functions: the command line and a torch-free `bench` import this module's neighbours.
Parameter names follow the study's own files (`fc.0`, `fc.2`, `classifier.0`, ...), so that its weights fit.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.cases import Architecture, Case
from harness.core.errors import ArtifactError, DataError
from harness.core.files import sha256_from_file

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD_PREFIX: dict[Architecture, str] = {"resnet18": "fc.", "vgg16": "classifier."}
# Hidden width of the study's dataset-1 heads; its write-up does not explain the number.
_HIDDEN_UNITS = 7100
_IMAGENET_WEIGHTS: dict[Architecture, str] = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}
# What torch.load raises for files that are none of its own, or only half of one: its unpickler translates nothing.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError),
    *(TypeError, AttributeError, AssertionError, struct.error),
)


def model_from_case(case: Case, *, seed: int) -> nn.Module:
    """Return the case's network in float32 on the CPU, every parameter drawn from `seed`."""
    import torch
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module
        if case.architecture == "resnet18":
            network = models.resnet18(weights=None, num_classes=1)
            network.fc = _resnet18_head(case.dataset)
        else:
            network = models.vgg16(weights=None, num_classes=1)
            network.classifier = _vgg16_head(case.dataset)
    return network


def _resnet18_head(dataset: int) -> nn.Module:
    from torch import nn

    if dataset == 1:
        return nn.Sequential(nn.Linear(512, _HIDDEN_UNITS), nn.ReLU(), nn.Linear(_HIDDEN_UNITS, 2))
    return nn.Sequential(nn.Linear(512, 3))


def _vgg16_head(dataset: int) -> nn.Module:
    from torch import nn

    features = 512 * 7 * 7
    if dataset == 1:
        return nn.Sequential(nn.Linear(features, _HIDDEN_UNITS), nn.ReLU(), nn.Linear(_HIDDEN_UNITS, 2))
    return nn.Sequential(
        nn.Linear(features, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 3),
    )


def freeze_trunk(network: nn.Module, architecture: Architecture) -> None:
    """Leave only the head trainable."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith(HEAD_PREFIX[architecture])


def set_training_mode(network: nn.Module, case: Case) -> None:
    """Put the network into training mode; a frozen trunk keeps its batch-norm statistics in eval mode."""
    network.train()
    if case.trainable == "head":
        for name, module in network.named_children():
            if not HEAD_PREFIX[case.architecture].startswith(name):
                module.eval()


def load_trunk(network: nn.Module, case: Case, weights: str) -> str:
    """Load trunk parameters named by `weights` (imagenet, random or a path) and return their provenance.

    The head stays as initialised: the study puts a new one on every case. Raises DataError where the weights
    cannot be had or do not fit.
    """
    if weights == "random":
        return "random"
    if weights == "imagenet":
        state = _imagenet_state(case.architecture)
        provenance = f"torchvision {_IMAGENET_WEIGHTS[case.architecture]}"
    else:
        state = state_from_file(Path(weights))
        provenance = f"file {Path(weights).name}, sha256 {sha256_from_file(Path(weights))}"
    prefix = HEAD_PREFIX[case.architecture]
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(prefix)}
    misfits = [
        f"{name} ({'missing' if name not in state else f'shape {tuple(state[name].shape)}'})"
        for name, tensor in wanted.items()
        if name not in state or state[name].shape != tensor.shape
    ]
    if misfits:
        raise DataError(
            f"The weights {weights} do not fit {case.architecture}: {len(misfits)} of {len(wanted)} tensors are "
            f"wrong, first {', '.join(misfits[:3])}.",
            hint="Give a state dict of torchvision's model of the same name, or `--weights random`.",
        )
    network.load_state_dict({name: state[name] for name in wanted}, strict=False)
    return provenance


def _imagenet_state(architecture: Architecture) -> dict[str, Tensor]:
    import http.client

    import torch
    from torchvision import models

    source = models.get_weight(_IMAGENET_WEIGHTS[architecture])
    file_name = source.url.rsplit("/", 1)[1]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    hint = (
        f"Place the file {file_name} (from {source.url}) in {folder}, "
        "or start from random numbers with `--weights random`, which the report will say."
    )
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            source.url, progress=False, check_hash=True, weights_only=True
        )
    except (http.client.HTTPException, *_UNREADABLE) as error:
        raise DataError(
            f"torchvision's ImageNet weights for {architecture} cannot be had: {error}.", hint=hint
        ) from error
    # Torch checks the hash of what it downloads, but not of a file that already lies in its cache.
    wanted, found = file_name.rsplit("-", 1)[1].removesuffix(".pth"), sha256_from_file(folder / file_name)
    if not found.startswith(wanted):
        raise DataError(f"{folder / file_name} is another file than its name says: its sha256 is {found}.", hint=hint)
    return state


def state_from_file(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a torch file without executing any of it.

    Raises DataError where the file is missing, malformed or would have to run code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    hint = "Give a .safetensors file, or a .pth file that holds a plain state dict."
    if not path.is_file():
        raise DataError(f"There is no weights file {path}.", hint=hint)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *_UNREADABLE) as error:
        raise DataError(f"{path} is not a readable weights file: {error}", hint=hint) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path} holds no plain state dict.", hint=hint)
    return state


def model_from_checkpoint(case: Case, path: Path) -> nn.Module:
    """Return the case's network with the weights of a checkpoint, in eval mode on the CPU.

    Built on the meta device, so that no second copy of 193 M parameters is ever initialised. Raises ArtifactError
    where the checkpoint is of another network.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    hint = f"The run is of case {case.name}; train it again with `harness train {case.name} --force`."
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a readable checkpoint: {error}", hint=hint) from error
    with torch.device("meta"):
        network = model_from_case(case, seed=0)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))
        raise ArtifactError(
            f"{path} is a checkpoint of another network than {case.name}: "
            f"{len({name for name, _ in odd})} tensors differ, first {odd[0][0]}.",
            hint=hint,
        )
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()
