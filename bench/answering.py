"""The answers of whatever a test holds: a callable, an ONNX file, or outputs computed before.

Everything passes through NumPy, so that a candidate and a reference of two libraries see the very same images; torch
is recognised by its tensors' methods and never imported. Shapes: n images in all, b of one batch, c classes.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.evidence import Float32s
from harness.core.errors import BackendError

# Under pytest, what is the caller's to mend is shown where the caller wrote it.
__tracebackhide__ = operator.methodcaller("errisinstance", (AssertionError, ValueError))

Array = npt.NDArray[Any]
Side = Literal["candidate", "reference"]

_INPUT_TYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(double)": np.float64,
        "tensor(uint8)": np.uint8,
    }
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One side of the comparison. `run` is None where only `stored_nc` is known.

    `fixed_batch` is the only batch size it takes, None where it takes any; `metadata` is an ONNX file's own.
    """

    side: Side
    run: Callable[[Array], object] | None = None
    stored_nc: Float32s | None = None
    fixed_batch: int | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def answer(self, images: Array) -> Float32s:
        """Return outputs_bc; batches of a model that takes one size only are filled up with their last image."""
        assert self.run is not None, "stored answers are not asked again"
        size = self.fixed_batch or len(images)
        outputs = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            # A copy: a model that changes its images in place must not change those of the other side.
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            outputs.append(_outputs(self.run(filled), self.side, size)[: len(part)])
        # A copy again, for some models write every answer to the same memory.
        return np.concatenate(outputs)


def model_from(source: object, side: Side) -> Model:
    """Return a model for a callable, the path of an ONNX file, or outputs [n, c]; raise ValueError for others."""
    if isinstance(source, str | os.PathLike):
        return _onnx_model(Path(source), side)
    if hasattr(source, "named_parameters"):
        raise ValueError(
            f"The {side} is a torch module, which takes tensors. Pass a function of NumPy arrays: "
            "lambda images: model(torch.from_numpy(images))"
        )
    if callable(source):
        return Model(side=side, run=source)
    return Model(side=side, stored_nc=_outputs(source, side, None))


def with_fixed_batch(model: Model, batch_size: int) -> Model:
    """Return a callable's model that is only ever given this many images; a file knows better itself."""
    return replace(model, fixed_batch=model.fixed_batch or batch_size)


def answers_of(
    candidate: Model, reference: Model, images: object, batch_size: int
) -> tuple[Float32s, Float32s, dict[str, Float32s]]:
    """Return candidate_nc, reference_nc, and the candidate's answers to the first batch again, by what was changed.

    The images are read once and one batch is held, so that a generator will do. Raises ValueError.
    """
    answered: dict[Side, list[Float32s]] = {"candidate": [], "reference": []}
    repeats: dict[str, Float32s] = {}
    running = [model for model in (reference, candidate) if model.stored_nc is None]
    for number, batch in enumerate(_batches(images, batch_size) if running else ()):
        for model in running:
            answered[model.side].append(model.answer(batch))
        if number == 0 and candidate.stored_nc is None:
            repeats = _repeats(candidate, batch)
    outputs = {}
    for model in (candidate, reference):
        parts = answered[model.side] if model.stored_nc is None else [model.stored_nc]
        if not sum(map(len, parts)):
            raise ValueError("There are no images: nothing can be compared.")
        outputs[model.side] = np.concatenate(parts)
    counts = {side: len(outputs_nc) for side, outputs_nc in outputs.items()}
    if counts["candidate"] != counts["reference"]:
        raise ValueError(f"The candidate answers {counts['candidate']} images, the reference {counts['reference']}.")
    return outputs["candidate"], outputs["reference"], repeats


def _repeats(candidate: Model, batch: Array) -> dict[str, Float32s]:
    """Return outputs_bc, or outputs_kbc for several, of the batch asked again in ways that must not matter."""
    again = {"a second call with the same images": candidate.answer(batch)}
    if len(batch) == 1:
        return again
    shifts = [1 << power for power in range((len(batch) - 1).bit_length())]
    moved = [np.roll(candidate.answer(np.roll(batch, shift, axis=0)), -shift, axis=0) for shift in shifts]
    again["another row of the batch"] = np.stack(moved)
    alone = "a batch of 1" if candidate.fixed_batch is None else "a batch filled with that image"
    try:
        again[alone] = np.concatenate([candidate.answer(batch[row : row + 1]) for row in range(len(batch))])
    except Exception as error:
        # Whatever it is, it goes on upwards; only the most probable reason is added.
        error.add_note("It was asked with a batch of 1; fixed_batch_size=True keeps to batch_size.")
        raise
    return again


def _batches(images: object, batch_size: int) -> Iterator[Array]:
    """Yield batches of this size, the last one smaller, whatever the sizes that the images come in."""
    held: Array | None = None
    for part in _parts(images):
        if part.dtype.kind not in "fiu" or part.ndim < 2:
            raise ValueError(f"A batch of images is {_form(part)}: give numbers of the shape [images, ...].")
        if held is not None and (held.shape[1:] != part.shape[1:] or held.dtype != part.dtype):
            raise ValueError(f"Images of one kind are needed: {_form(held)} is followed by {_form(part)}.")
        held = part if held is None or not len(held) else np.concatenate([held, part])
        while len(held) >= batch_size:
            yield held[:batch_size]
            held = held[batch_size:]
    if held is not None and len(held):
        yield held


def _parts(images: object) -> Iterator[Array]:
    if hasattr(images, "shape"):
        yield _array(images)
        return
    if isinstance(images, str | Mapping) or not isinstance(images, Iterable):
        raise ValueError(f"images is a {type(images).__name__}: give an array [images, ...], or batches of such.")
    for part in images:
        if isinstance(part, tuple | Mapping):
            raise ValueError(f"A batch of images is a {type(part).__name__}: give the images alone, labels apart.")
        yield _array(part)


def _array(value: Any) -> Array:
    # A torch tensor is known by its methods.
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _outputs(value: Any, side: Side, count: int | None) -> Float32s:
    """Return float32 [images, classes]; raise ValueError for anything that is not that."""
    if isinstance(value, tuple | Mapping):
        raise ValueError(f"The {side} gives a {type(value).__name__}: give its outputs [images, classes] alone.")
    # NumPy has no bfloat16.
    outputs = np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
    if outputs.dtype.kind not in "fiu":
        raise ValueError(f"The {side} gives a {type(value).__name__} and no numbers [images, classes].")
    if outputs.ndim != 2 or (count is not None and len(outputs) != count):
        wanted = "images" if count is None else count
        raise ValueError(f"The {side} gives {_form(outputs)}, wanted [{wanted}, classes].")
    if outputs.shape[1] < 2:
        raise ValueError(f"The {side} gives one column. For one logit z give two: np.hstack([np.zeros_like(z), z])")
    with np.errstate(over="ignore"):
        return np.asarray(outputs, dtype=np.float32)


def _form(array: Array) -> str:
    return f"{array.dtype} of the shape {list(array.shape)}"


def _onnx_model(path: Path, side: Side) -> Model:
    """Open a file in ONNX Runtime on the CPU; raise BackendError where that refuses it."""
    import onnxruntime

    from bench.backends.onnx_runtime import runtime_errors

    if not path.is_file():
        raise FileNotFoundError(f"The {side}'s ONNX file {path} does not exist.")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise BackendError(f"ONNX Runtime cannot load the {side}'s {path}: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _INPUT_TYPES:
        found = ", ".join(f"{each.name} {each.type}" for each in inputs)
        raise ValueError(f"{path.name} takes {found}; one input of images is wanted. Pass a function that calls it.")
    (taken,) = inputs
    names = [session.get_outputs()[0].name]
    wanted = np.dtype(_INPUT_TYPES[taken.type])

    def run(images: Array) -> object:
        if images.dtype != wanted and not (images.dtype.kind == wanted.kind == "f"):
            raise ValueError(f"{path.name} takes {wanted}, the images are {images.dtype}.")
        try:
            return session.run(names, {taken.name: images.astype(wanted, copy=False)})[0]
        except runtime_errors() as error:
            raise BackendError(
                f"{path.name} takes {taken.type} {taken.shape}, the images are {_form(images)}: {error}"
            ) from error

    size = taken.shape[0] if taken.shape else None
    return Model(
        side=side,
        run=run,
        fixed_batch=size if isinstance(size, int) and size > 0 else None,
        metadata=dict(session.get_modelmeta().custom_metadata_map),
    )
