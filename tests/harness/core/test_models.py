"""The networks of the eight cases: the study's exact heads, and weights that fit or are refused in words."""

from __future__ import annotations

import os
import pickle
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as torchvision_models

from harness.core.cases import CASES, Case, case_named
from harness.core.errors import ArtifactError, DataError
from harness.core.models import (
    freeze_trunk,
    load_trunk,
    model_from_case,
    model_from_checkpoint,
    set_training_mode,
    state_from_file,
)

_SMALL = case_named("d2-resnet18-ce")
_SMALL_HEAD = case_named("d1-resnet18-fc")


def _on_meta(case: Case) -> nn.Module:
    with torch.device("meta"):
        return model_from_case(case, seed=0)


@pytest.fixture(scope="module")
def torchvision_state() -> Mapping[str, Tensor]:
    """What torchvision publishes: the trunk and a head of 1,000 classes, here with random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return torchvision_models.resnet18(weights=None).state_dict()


def _save(path: Path, state: Mapping[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_the_parameters_of_the_protocol(name: str) -> None:
    case = case_named(name)
    network = _on_meta(case)

    assert sum(parameter.numel() for parameter in network.parameters()) == case.parameter_count


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("d1-resnet18-fc", {"fc.0": (7100, 512), "fc.2": (2, 7100)}),
        ("d1-vgg16-all", {"classifier.0": (7100, 25088), "classifier.2": (2, 7100)}),
        ("d2-resnet18-focal", {"fc.0": (3, 512)}),
        ("d2-vgg16-ce", {"classifier.0": (4096, 25088), "classifier.3": (4096, 4096), "classifier.6": (3, 4096)}),
    ],
)
def test_the_heads_are_named_and_shaped_as_in_the_studys_own_files(
    name: str, shapes: dict[str, tuple[int, int]]
) -> None:
    state = _on_meta(case_named(name)).state_dict()
    prefix = next(iter(shapes)).split(".")[0] + "."

    assert {key for key in state if key.startswith(prefix)} == {
        f"{k}.{part}" for k in shapes for part in ("weight", "bias")
    }
    assert {key: tuple(state[f"{key}.weight"].shape) for key in shapes} == shapes


def test_only_the_dataset_2_head_of_vgg16_drops_out() -> None:
    with_dropout = {
        name for name in CASES if any(isinstance(module, nn.Dropout) for module in _on_meta(case_named(name)).modules())
    }
    assert with_dropout == {"d2-vgg16-ce", "d2-vgg16-focal"}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second = model_from_case(_SMALL, seed=3).state_dict(), model_from_case(_SMALL, seed=3).state_dict()
    other = model_from_case(_SMALL, seed=4).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["fc.0.weight"], other["fc.0.weight"])


def test_making_a_network_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model_from_case(_SMALL, seed=0)

    assert torch.equal(torch.rand(3), expected)


def test_a_frozen_trunk_trains_only_its_head_and_keeps_its_batch_norm_statistics() -> None:
    network = model_from_case(_SMALL_HEAD, seed=0)
    freeze_trunk(network, _SMALL_HEAD.architecture)
    set_training_mode(network, _SMALL_HEAD)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}

    network(torch.rand(2, 3, 64, 64))

    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == {
        "fc.0.weight",
        "fc.0.bias",
        "fc.2.weight",
        "fc.2.bias",
    }
    assert network.get_submodule("fc").training
    assert not any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_frozen_vgg16_trains_its_classifier() -> None:
    case = case_named("d1-vgg16-fc")
    network = _on_meta(case)
    freeze_trunk(network, case.architecture)
    set_training_mode(network, case)

    assert not network.get_submodule("features").training
    assert network.get_submodule("classifier").training
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trainable} == {"classifier"}


def test_a_network_of_which_all_layers_train_has_its_batch_norm_in_training_mode() -> None:
    network = _on_meta(_SMALL).eval()
    set_training_mode(network, _SMALL)

    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_torchvision_file_fills_the_trunk_and_leaves_the_head(
    tmp_path: Path, torchvision_state: Mapping[str, Tensor], suffix: str
) -> None:
    path = _save(tmp_path / f"resnet18{suffix}", torchvision_state)
    network = model_from_case(_SMALL, seed=0)
    head = network.get_parameter("fc.0.weight").clone()

    provenance = load_trunk(network, _SMALL, str(path))

    state = network.state_dict()
    trunk = [name for name in state if not name.startswith("fc.")]
    assert len(trunk) == 120
    assert all(torch.equal(state[name], torchvision_state[name]) for name in trunk)
    assert torch.equal(state["fc.0.weight"], head)
    assert path.name in provenance
    assert len(provenance.rsplit("sha256 ", 1)[1]) == 64


def test_random_weights_change_nothing_and_say_so() -> None:
    network = model_from_case(_SMALL, seed=0)
    before = network.get_parameter("conv1.weight").clone()

    assert load_trunk(network, _SMALL, "random") == "random"
    assert torch.equal(network.get_parameter("conv1.weight"), before)


def test_weights_that_do_not_fit_are_refused_with_the_tensors_names(
    tmp_path: Path, torchvision_state: Mapping[str, Tensor]
) -> None:
    state = dict(torchvision_state)
    del state["layer1.0.conv1.weight"]
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    path = _save(tmp_path / "odd.pth", state)
    network = model_from_case(_SMALL, seed=0)
    before = network.get_parameter("layer4.1.conv2.weight").clone()

    with pytest.raises(DataError, match="2 of 120 tensors are wrong") as caught:
        load_trunk(network, _SMALL, str(path))

    assert "conv1.weight (shape (64, 1, 7, 7))" in caught.value.message
    assert "layer1.0.conv1.weight (missing)" in caught.value.message
    assert torch.equal(network.get_parameter("layer4.1.conv2.weight"), before), "nothing may be half loaded"


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path: Path) -> None:
    proof = tmp_path / "the-code-ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(proof),)

    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps({"conv1.weight": Malicious()}, protocol=2))
    torch.save({"conv1.weight": Malicious()}, zipped)

    for path in (plain, zipped):
        with pytest.raises(DataError, match="not a readable weights file"):
            state_from_file(path)

    assert not proof.exists()
    pickle.loads(plain.read_bytes())
    assert proof.exists(), "the same bytes do run code where pickle is let to"


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x00" * 100], ids=["empty", "a web page", "zeros"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)

    with pytest.raises(DataError, match="not a readable weights file") as caught:
        state_from_file(path)

    assert ".safetensors" in caught.value.hint


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "weights.pth", {"weight": torch.rand(1000)})
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(DataError, match="not a readable weights file"):
        state_from_file(path)


def test_a_checkpoint_of_more_than_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    torch.save({"epoch": 3, "state_dict": {"weight": torch.zeros(1)}}, path)

    with pytest.raises(DataError, match="no plain state dict"):
        state_from_file(path)


def test_a_missing_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no weights file"):
        state_from_file(tmp_path / "nowhere.pth")


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch looks for downloaded weights, empty, and no network behind it."""

    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "file_name"), [("d2-resnet18-ce", "resnet18-f37072fd.pth"), ("d2-vgg16-ce", "vgg16-397923af.pth")]
)
def test_imagenet_weights_without_a_network_name_the_file_and_the_folder_to_place_it_in(
    hub_folder: Path, name: str, file_name: str
) -> None:
    case = case_named(name)

    with pytest.raises(DataError, match=r"ImageNet weights .* cannot be had") as caught:
        load_trunk(_on_meta(case), case, "imagenet")

    assert file_name in caught.value.hint
    assert str(hub_folder) in caught.value.hint
    assert "--weights random" in caught.value.hint


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b""], ids=["a web page", "empty"])
def test_a_placed_file_that_is_no_weights_file_is_refused_in_words(hub_folder: Path, content: bytes) -> None:
    (hub_folder / "resnet18-f37072fd.pth").write_bytes(content)

    with pytest.raises(DataError, match="ImageNet weights"):
        load_trunk(_on_meta(_SMALL), _SMALL, "imagenet")


def test_a_placed_file_of_other_weights_does_not_pass_for_imagenets(
    hub_folder: Path, torchvision_state: Mapping[str, Tensor]
) -> None:
    _save(hub_folder / "resnet18-f37072fd.pth", torchvision_state)

    with pytest.raises(DataError):
        load_trunk(model_from_case(_SMALL, seed=0), _SMALL, "imagenet")


def test_a_checkpoint_gives_back_the_network_that_was_saved(tmp_path: Path) -> None:
    network = model_from_case(_SMALL, seed=7).eval()
    path = _save(tmp_path / "checkpoint.safetensors", network.state_dict())
    images_bchw = torch.rand(2, 3, 64, 64)

    again = model_from_checkpoint(_SMALL, path)

    assert not any(module.training for module in again.modules())
    assert {parameter.device.type for parameter in again.parameters()} == {"cpu"}
    with torch.inference_mode():
        assert torch.equal(again(images_bchw), network(images_bchw))


def test_a_checkpoint_of_another_case_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path / "checkpoint.safetensors", model_from_case(_SMALL, seed=0).state_dict())

    with pytest.raises(
        ArtifactError, match=r"another network than d1-resnet18-fc: \d+ tensors differ, first fc"
    ) as caught:
        model_from_checkpoint(_SMALL_HEAD, path)

    assert "harness train d1-resnet18-fc --force" in caught.value.hint


def test_a_checkpoint_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"no tensors at all")

    with pytest.raises(ArtifactError, match="not a readable checkpoint"):
        model_from_checkpoint(_SMALL, path)
