"""State dicts from files: read without executing any of them, held to the hash in their names, compared in words.

One way in for every file from elsewhere, whether it starts a training or becomes a run. Torch is imported inside the
functions, as in models.py. "Wanted" is always the state dict of a network, which may lie on the meta device.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.core.errors import DataError
from harness.core.files import sha256_from_file

if TYPE_CHECKING:
    from torch import Tensor

# What torch.load raises for files that are none of its own, or only half of one: its unpickler translates nothing.
UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError),
    *(TypeError, AttributeError, AssertionError, struct.error),
)
_HINT = (
    "Give a .safetensors file, or a .pth file that holds a plain state dict: `torch.save(model.state_dict(), FILE)`."
)
# Where training scripts put the state dict inside what they save.
_WRAPPERS = ("state_dict", "model_state_dict")
_PARALLEL_PREFIX = "module."  # nn.DataParallel wraps the network in a module of that name.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")
# torchvision's files under the name without a hash: the bytes must be those of one of its releases all the same.
_KNOWN_SHA256 = {"resnet18.pth": ("5c106cde", "f37072fd"), "vgg16.pth": ("397923af",)}
# A counter that no computation of these networks reads; files from before torch 0.4.1, torchvision's among them,
# do not have it.
_COUNTER = ".num_batches_tracked"
_MOST_NAMED = 8


def state_from_file(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a torch file without executing any of it.

    It may be wrapped by a training script or by DataParallel. Raises DataError where the file is missing, another one
    than its name says, malformed, or would have to run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"There is no weights file {path}.", hint=_HINT)
    check_hash_of_name(path, hint="Download it again; if it is a file of your own, rename it.")
    try:
        content = load_file(path) if path.suffix.lower() == ".safetensors" else _loaded(path)
    except (SafetensorError, *UNREADABLE) as error:
        # Torch goes on to recommend loading with weights_only=False: not here.
        reason = re.split(r"In PyTorch|This file can", str(error))[0].strip()
        raise DataError(f"{path} is not a readable weights file: {reason}", hint=_HINT) from error
    return _plain_state(content, path)


def _loaded(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # On pickles of another protocol, which is then refused in words.
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = [name for name in _names_in_pickles(path) if not _is_torchs_own(name)]
        if not named:
            raise
        raise DataError(
            f"{path} is refused: reading it would run code that the file names ({_listed(named)}). "
            "Nothing of it was run.",
            hint=f"Weights alone need no code. {_HINT}",
        ) from error


def _is_torchs_own(name: str) -> bool:
    return (
        name == "collections.OrderedDict" or re.fullmatch(r"torch\.(_utils\._rebuild\w+|\w+Storage)", name) is not None
    )


def _names_in_pickles(path: Path) -> list[str]:
    """Return what the pickles of a file would import, as far as their opcodes, which are only read, tell it."""
    names: dict[str, None] = {}
    # What no longer is a pickle ends the search: what was found before it stands.
    with contextlib.suppress(ValueError, EOFError, IndexError, OSError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        _collect_names(io.BytesIO(archive.read(member)), names)
        else:
            with path.open("rb") as stream:
                while stream.peek(1):  # Torch's old format is several pickles in a row.
                    _collect_names(stream, names)
    return list(names)


def _collect_names(stream: BinaryIO, names: dict[str, None]) -> None:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in {"GLOBAL", "INST"}:
            names[str(argument).replace(" ", ".")] = None
        elif opcode.name == "STACK_GLOBAL":
            names[".".join(texts[-2:])] = None
        elif isinstance(argument, str):
            texts.append(argument)


def _plain_state(content: Any, path: Path) -> dict[str, Tensor]:
    from torch import Tensor

    state = content
    if isinstance(content, dict):
        state = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        what = f"a dict of {_listed(list(map(str, content)))}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} holds no plain state dict, but {what}.", hint=_HINT)
    names = [str(name) for name in state]
    if all(name.startswith(_PARALLEL_PREFIX) for name in names):
        names = [name.removeprefix(_PARALLEL_PREFIX) for name in names]
    return {name: value.detach() for name, value in zip(names, state.values(), strict=True)}


def check_hash_of_name(path: Path, *, hint: str) -> None:
    """Compare a file with the sha256 prefix that torchvision writes into a name, as in resnet18-f37072fd.pth.

    Raises DataError where the file is another one than its name says.
    """
    match = _HASH_IN_NAME.search(path.name)
    wanted = (match[1],) if match else _KNOWN_SHA256.get(path.name)
    if wanted is None:
        return
    found = sha256_from_file(path)
    if not found.startswith(wanted):
        says = f"its name says {wanted[0]}" if match else f"torchvision's begins with {' or '.join(wanted)}"
        raise DataError(f"{path} is another file than its name says: its sha256 is {found}, {says}.", hint=hint)


def misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in words which tensors keep a state dict from fitting, empty where it fits."""
    common = [name for name in wanted if name in state]
    groups = {
        "missing": [name for name in wanted if name not in state and not name.endswith(_COUNTER)],
        "unexpected": [f"{name} {_shape(state[name])}" for name in state if name not in wanted],
        "of another shape": [
            f"{name} {_shape(state[name])} instead of {_shape(wanted[name])}"
            for name in common
            if state[name].shape != wanted[name].shape
        ],
        "of another type": [
            f"{name} {state[name].dtype}" for name in common if not _convertible(state[name], wanted[name])
        ],
    }
    parts = [f"{len(names)} {what}: {_listed(names)}" for what, names in groups.items() if names]
    return "; ".join(parts)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _convertible(tensor: Tensor, wanted: Tensor) -> bool:
    """Whole numbers, complex, sparse and quantised ones are no weights; half precision is."""
    return str(tensor.layout) == "torch.strided" and (tensor.is_floating_point() or not wanted.is_floating_point())


def fitted_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Return exactly the wanted tensors in the wanted types, from a state dict that has no misfit.

    Raises DataError where a value is not finite.
    """
    import torch

    fitted = {
        name: state[name].to(tensor.dtype) if name in state else torch.zeros_like(tensor, device="cpu")
        for name, tensor in wanted.items()
    }
    # The sum of a tensor is finite where all its values are, and needs no second tensor of 700 MB.
    odd = [name for name, tensor in fitted.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]
    if odd:
        raise DataError(
            f"{source} holds values that are not finite, in {_listed(odd)}.",
            hint="The training that made them diverged, or the file is damaged.",
        )
    return fitted


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
