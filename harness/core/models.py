"""The networks of the eight cases, with the study's exact heads, and state dicts into them.

Torch is imported inside the functions: the command line and a torch-free `bench` import this module's neighbours.
Parameter names follow the study's own files (`fc.0`, `fc.2`, `classifier.0`, ...), so that its weights fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.cases import CASES, Architecture, Case
from harness.core.errors import ArtifactError, DataError
from harness.core.files import sha256_from_file
from harness.core.state_dicts import UNREADABLE, check_hash_of_name, fitted_state, misfit, state_from_file

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD_PREFIX: dict[Architecture, str] = {"resnet18": "fc.", "vgg16": "classifier."}
# Hidden width of the study's dataset-1 heads; its write-up does not explain the number.
_HIDDEN_UNITS = 7100
_IMAGENET_WEIGHTS: dict[Architecture, str] = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}


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
    wanted, trunk = _without(prefix, network.state_dict()), _without(prefix, state)
    odd = misfit(trunk, wanted)
    if odd:
        raise DataError(
            f"The weights {weights} do not fit the trunk of {case.architecture}: {odd}.",
            hint=f"{what_it_fits(state)} Needed is a state dict of torchvision's {case.architecture}; or start from "
            "random numbers with `--weights random`.",
        )
    network.load_state_dict(fitted_state(trunk, wanted, source=weights), strict=False)
    return provenance


def _without(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def state_for_case(case: Case, path: Path) -> dict[str, Tensor]:
    """Read all parameters of a case from a file made elsewhere.

    Raises DataError that names every tensor which does not fit, and the cases that the file would fit.
    """
    wanted = _wanted_state(case)
    state = _with_head_in_sequence(state_from_file(path), wanted)
    odd = misfit(state, wanted)
    if odd:
        raise DataError(f"{path} does not fit {case.name}: {odd}.", hint=what_it_fits(state))
    return fitted_state(state, wanted, source=str(path))


def _wanted_state(case: Case) -> dict[str, Tensor]:
    """Return names, shapes and types of the case's tensors, without any values."""
    import torch

    with torch.device("meta"):
        return dict(model_from_case(case, seed=0).state_dict())


def _with_head_in_sequence(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ResNet's plain `fc`, as torchvision has it, to the study's `fc.0` where that is the whole head."""
    names = {"fc.weight": "fc.0.weight", "fc.bias": "fc.0.bias"}
    same = all(
        ours in wanted and name in state and state[name].shape == wanted[ours].shape for name, ours in names.items()
    )
    return {names.get(name, name): tensor for name, tensor in state.items()} if same else state


def what_it_fits(state: dict[str, Tensor]) -> str:
    """Return in words what a state dict fits: cases, the trunk of a network, or nothing here."""
    wanted_by_case = {case: _wanted_state(case) for case in CASES.values()}
    fitting = [
        case.name
        for case, wanted in wanted_by_case.items()
        if not misfit(_with_head_in_sequence(state, wanted), wanted)
    ]
    if fitting:
        return f"This file fits {' and '.join(fitting)}."
    for case, wanted in wanted_by_case.items():
        prefix = HEAD_PREFIX[case.architecture]
        if not misfit(_without(prefix, state), _without(prefix, wanted)):
            return (
                f"This file has the trunk of {case.architecture} under a head of none of the cases: "
                "`harness train CASE --weights FILE` puts a new head on it."
            )
    return "This file fits none of the cases, nor the trunk of their networks."


def imagenet_file(architecture: Architecture) -> tuple[Path, str]:
    """Return where torchvision's ImageNet weights lie on this machine once they are there, and their address."""
    import torch
    from torchvision import models

    url: str = models.get_weight(_IMAGENET_WEIGHTS[architecture]).url
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[1]), url


def _imagenet_state(architecture: Architecture) -> dict[str, Tensor]:
    import http.client

    import torch

    path, url = imagenet_file(architecture)
    hint = (
        f"Place the file {path.name} (from {url}) in {path.parent}, "
        "or start from random numbers with `--weights random`, which the report will say."
    )
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True
        )
    except (http.client.HTTPException, *UNREADABLE) as error:
        raise DataError(
            f"torchvision's ImageNet weights for {architecture} cannot be had: {error}.", hint=hint
        ) from error
    # Torch checks the hash of what it downloads, but not of a file that already lies in its cache.
    check_hash_of_name(path, hint=hint)
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
