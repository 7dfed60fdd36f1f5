"""State dicts from elsewhere: read without running them, unwrapped, refused in words where they are none."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.core.errors import DataError
from harness.core.state_dicts import fitted_state, misfit, state_from_file

_STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


class _Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._proof),)


@pytest.mark.parametrize("form", ["protocol 2", "protocol 4", "zip", "torch before 1.6"])
def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "the-code-ran", tmp_path / "weights.pth"
    content = {"state_dict": {"conv.weight": torch.zeros(1), "more": _Malicious(proof)}}
    if form.startswith("protocol"):
        path.write_bytes(pickle.dumps({"conv.weight": _Malicious(proof)}, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")

    with pytest.raises(DataError, match="would run code that the file names") as caught:
        state_from_file(path)

    assert "mkdir" in caught.value.message
    assert "weights_only" not in caught.value.message + caught.value.hint
    assert not proof.exists()
    torch.load(path, weights_only=False) if form == "zip" else pickle.loads(pickle.dumps(_Malicious(proof)))
    assert proof.exists(), "the same object does run code where pickle is let to"


def test_a_whole_model_is_refused_with_what_it_would_import(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)

    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        state_from_file(path)

    assert "torch.save(model.state_dict(), FILE)" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x00" * 100], ids=["empty", "a web page", "zeros"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)

    with pytest.raises(DataError, match="not a readable weights file") as caught:
        state_from_file(path)

    assert ".safetensors" in caught.value.hint
    assert "weights_only" not in caught.value.message


def test_a_truncated_weights_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.rand(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(DataError, match="not a readable weights file"):
        state_from_file(path)


def test_a_missing_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no weights file"):
        state_from_file(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: nn.Parameter(tensor) for name, tensor in state.items()},
    ],
    ids=["plain", "state_dict", "model_state_dict", "DataParallel", "both", "parameters"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_state_dict_is_found_whatever_it_was_wrapped_in(tmp_path: Path, wrap: Any, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(_STATE), path)

    state = state_from_file(path)

    assert list(state) == list(_STATE)
    assert all(torch.equal(state[name], _STATE[name]) for name in _STATE)
    assert not any(tensor.requires_grad for tensor in state.values())


def test_safetensors_are_read_with_the_prefix_of_dataparallel_removed(tmp_path: Path) -> None:
    save_file({f"module.{name}": tensor for name, tensor in _STATE.items()}, tmp_path / "weights.safetensors")

    assert set(state_from_file(tmp_path / "weights.safetensors")) == set(_STATE)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, "a dict of epoch, weights"),
        ({"state_dict": {"a": 3}}, "a dict of state_dict"),
        ([torch.zeros(1)], "list"),
        ({}, "a dict of"),
    ],
)
def test_what_holds_no_state_dict_says_what_it_holds(tmp_path: Path, content: Any, named: str) -> None:
    path = tmp_path / "training.pth"
    torch.save(content, path)

    with pytest.raises(DataError, match=f"no plain state dict, but {named}"):
        state_from_file(path)


def test_a_file_is_held_to_the_hash_in_its_name(tmp_path: Path) -> None:
    plain = tmp_path / "weights.pth"
    torch.save(_STATE, plain)
    sha256 = hashlib.sha256(plain.read_bytes()).hexdigest()
    right, wrong = tmp_path / f"net-{sha256[:8]}.pth", tmp_path / "net-0badc0de.pth"
    right.write_bytes(plain.read_bytes())
    wrong.write_bytes(plain.read_bytes())

    assert set(state_from_file(right)) == set(_STATE)
    with pytest.raises(DataError, match=f"another file than its name says: its sha256 is {sha256}") as caught:
        state_from_file(wrong)

    assert "its name says 0badc0de" in caught.value.message
    assert "rename it" in caught.value.hint


@pytest.mark.parametrize(("name", "hashes"), [("resnet18.pth", "5c106cde or f37072fd"), ("vgg16.pth", "397923af")])
def test_a_file_named_as_torchvisions_must_be_torchvisions(tmp_path: Path, name: str, hashes: str) -> None:
    torch.save(_STATE, tmp_path / name)

    with pytest.raises(DataError, match=f"torchvision's begins with {hashes}"):
        state_from_file(tmp_path / name)


def test_every_kind_of_misfit_is_named_and_counted_up_to_a_cap() -> None:
    wanted = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    state = {"b": torch.zeros(4), "c": torch.zeros(1, dtype=torch.int8)} | {f"x{i}": torch.zeros(i) for i in range(12)}

    said = misfit(state, wanted)

    assert said.startswith("1 missing: a; 12 unexpected: x0 (0,), x1 (1,), ")
    assert "x7 (7,) and 4 more; 1 of another shape: b (4,) instead of (3,); 1 of another type: c torch.int8" in said


def test_what_fits_has_no_misfit_and_comes_in_the_wanted_order_and_type() -> None:
    wanted = {"b": torch.zeros(1, device="meta"), "bn.num_batches_tracked": torch.zeros((), dtype=torch.int64)}
    state = {"b": torch.ones(1, dtype=torch.float64)}

    assert misfit(state, wanted) == ""
    fitted = fitted_state(state, wanted, source="FILE")
    assert list(fitted) == list(wanted)
    assert fitted["b"].dtype is torch.float32
    assert fitted["bn.num_batches_tracked"].item() == 0
