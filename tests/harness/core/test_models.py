"""The networks of the eight cases: the study's exact heads, and weights that fit or are refused in words."""

from __future__ import annotations

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
    state_for_case,
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
    path = _save(tmp_path / f"trunk{suffix}", torchvision_state)
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

    state["layer5.bias"] = torch.zeros(3)
    torch.save(state, path)

    with pytest.raises(DataError, match="do not fit the trunk of resnet18") as caught:
        load_trunk(network, _SMALL, str(path))

    assert "1 missing: layer1.0.conv1.weight; 1 unexpected: layer5.bias (3,); " in caught.value.message
    assert "1 of another shape: conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)" in caught.value.message
    assert "none of the cases" in caught.value.hint
    assert torch.equal(network.get_parameter("layer4.1.conv2.weight"), before), "nothing may be half loaded"


def test_a_trunk_from_before_torch_counted_batches_is_complete(
    tmp_path: Path, torchvision_state: Mapping[str, Tensor]
) -> None:
    # torchvision's own resnet18 files are like this: 102 tensors, where the network has 122.
    state = {name: tensor for name, tensor in torchvision_state.items() if "num_batches_tracked" not in name}
    assert len(state) == 102
    network = model_from_case(_SMALL, seed=0)

    load_trunk(network, _SMALL, str(_save(tmp_path / "old.pth", state)))

    assert torch.equal(network.get_buffer("bn1.running_mean"), torchvision_state["bn1.running_mean"])
    assert network.get_buffer("bn1.num_batches_tracked").item() == 0


def test_the_trunk_of_a_deeper_network_is_not_taken_for_a_part_of_it(tmp_path: Path) -> None:
    path = _save(tmp_path / "deep.pth", torchvision_models.resnet34(weights=None).state_dict())

    with pytest.raises(DataError, match=r"\d+ unexpected: layer1\.2\.conv1\.weight") as caught:
        load_trunk(model_from_case(_SMALL, seed=0), _SMALL, str(path))

    assert "and 88 more" in caught.value.message


def test_a_trunk_of_the_other_network_is_recognised(tmp_path: Path, torchvision_state: Mapping[str, Tensor]) -> None:
    case = case_named("d2-vgg16-ce")
    path = _save(tmp_path / "trunk.pth", torchvision_state)

    with pytest.raises(DataError, match="26 missing: features") as caught:
        load_trunk(_on_meta(case), case, str(path))

    assert "has the trunk of resnet18 under a head of none of the cases" in caught.value.hint


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path, torchvision_state: Mapping[str, Tensor]) -> None:
    state = dict(torchvision_state) | {"bn1.bias": torch.full((64,), float("nan"))}

    with pytest.raises(DataError, match=r"not finite, in bn1\.bias"):
        load_trunk(model_from_case(_SMALL, seed=0), _SMALL, str(_save(tmp_path / "nan.pth", state)))


@pytest.mark.parametrize("name", ["d1-resnet18-all", "d2-resnet18-ce"])
def test_a_whole_state_dict_of_the_studys_names_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    case = case_named(name)
    saved = model_from_case(case, seed=3).state_dict()

    state = state_for_case(case, _save(tmp_path / "study.pth", saved))

    assert list(state) == list(saved)
    assert all(torch.equal(state[each], saved[each]) for each in saved)


def test_torchvisions_own_name_of_a_resnets_head_is_understood(tmp_path: Path) -> None:
    saved = torchvision_models.resnet18(weights=None, num_classes=3).state_dict()

    state = state_for_case(_SMALL, _save(tmp_path / "own.pth", saved))

    assert torch.equal(state["fc.0.weight"], saved["fc.weight"])
    assert torch.equal(state["fc.0.bias"], saved["fc.bias"])
    assert "fc.weight" not in state


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    saved = model_from_case(_SMALL, seed=0).half().state_dict()

    state = state_for_case(_SMALL, _save(tmp_path / "half.safetensors", saved))

    assert state["conv1.weight"].dtype is torch.float32
    assert torch.equal(state["conv1.weight"], saved["conv1.weight"].float())


def test_a_file_of_another_case_is_refused_and_recognised(tmp_path: Path) -> None:
    path = _save(tmp_path / "other.pth", model_from_case(_SMALL, seed=0).state_dict())

    with pytest.raises(
        DataError, match=r"does not fit d1-resnet18-fc: 2 missing: fc\.2\.weight, fc\.2\.bias"
    ) as caught:
        state_for_case(_SMALL_HEAD, path)

    assert "2 of another shape: fc.0.weight (3, 512) instead of (7100, 512), fc.0.bias" in caught.value.message
    assert caught.value.hint == "This file fits d2-resnet18-ce and d2-resnet18-focal."


@pytest.mark.parametrize("name", ["d1-vgg16-all", "d2-vgg16-ce"])
def test_a_file_of_a_vgg16_case_is_recognised_too(tmp_path: Path, name: str) -> None:
    # One value seen everywhere: the shapes of 193 M parameters without their 770 MB.
    state = {
        each: torch.zeros(()).expand(tensor.shape) for each, tensor in _on_meta(case_named(name)).state_dict().items()
    }
    path = tmp_path / "vgg.pth"
    torch.save(state, path)

    with pytest.raises(DataError, match="does not fit d2-resnet18-ce: 102 missing") as caught:
        state_for_case(_SMALL, path)

    assert name in caught.value.hint


def test_torchvisions_imagenet_file_is_no_case_but_a_trunk(
    tmp_path: Path, torchvision_state: Mapping[str, Tensor]
) -> None:
    with pytest.raises(
        DataError, match=r"2 missing: fc\.0\.weight, fc\.0\.bias; 2 unexpected: fc\.weight \(1000, 512\)"
    ) as caught:
        state_for_case(_SMALL, _save(tmp_path / "imagenet.pth", torchvision_state))

    assert "`harness train CASE --weights FILE`" in caught.value.hint


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
