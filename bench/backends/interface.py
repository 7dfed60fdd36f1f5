"""What every runtime must offer, and nothing more: four verbs that one host clock can compose.

    compute      = step + sync
    end to end   = bind + step + sync + fetch

A backend holds one loaded model for one batch size. Verbs raise BackendError; they never time anything themselves.
What only some runtimes can do, to queue or to be timed by the GPU's own clock, is in the small Protocols at the end.
Shapes: b batch, c channels or classes, h, w pixels. Images arrive contiguous: preprocessed, as float32 [b, c, h, w],
or for a model that normalises by itself as uint8 [b, h, w, c].
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from harness.core.errors import BackendError
from harness.core.variants import Variant, variant_from_name

Float32s = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32] | npt.NDArray[np.uint8]


class LoadRequest(BaseModel):
    """What a worker asks a backend to load. `case` is needed only by a runtime that builds the network itself.

    `variant` is the name of what the file is said to be (harness/core/variants.py): it decides the type and shape of
    the input, and whether a second output holds the answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    case: str
    batch_size: int
    image_px: int
    class_count: int
    threads: int
    variant: str = "fp32"

    @property
    def form(self) -> Variant:
        """The variant; raises BackendError for a name that is none."""
        variant = variant_from_name(self.variant)
        if variant is None:
            raise BackendError(
                f"{self.artifact.name} says that it is a {self.variant!r}, which is no variant of this project.",
                hint="Export it again: `harness export --force`.",
            )
        return variant

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.form.input_shape(self.batch_size, self.image_px)

    @property
    def input_type(self) -> type[np.float32] | type[np.uint8]:
        return np.uint8 if self.form.uint8_input else np.float32


class Description(BaseModel):
    """What the runtime says it really runs, read back from it and not from the request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    version: str
    device: str
    precision: str
    threads: int | None
    # Any departure from what was asked for, in words; the gate fails on it.
    departures: list[str]
    # What the file itself carries, where the runtime can read it.
    metadata: dict[str, str] | None = None


class Backend(Protocol):
    """One loaded model. `bind` copies images in, `fetch` copies logits_bc, or probabilities_bc, out.

    `fetch_answers` is the second output of a model that gives probabilities, int64 [b]; None of any other.
    """

    def bind(self, images: Images) -> None: ...

    def step(self) -> None: ...

    def sync(self) -> None: ...

    def fetch(self) -> Float32s: ...

    def fetch_answers(self) -> npt.NDArray[np.int64] | None: ...

    def describe(self) -> Description: ...

    def close(self) -> None: ...


@runtime_checkable
class QueuedBackend(Protocol):
    """A backend that works on several batches at once: what throughput is measured with.

    `submit` copies the images in and starts, and blocks while the queue is full; `wait` returns when all that was
    submitted is done, and raises BackendError where one failed. The outputs are dropped: parity is taken through the
    four verbs, from the same compiled model.
    """

    @property
    def request_count(self) -> int:
        """How many batches it works on at once."""
        ...

    def submit(self, images: Images) -> None: ...

    def wait(self) -> None: ...


@runtime_checkable
class TimedOnDevice(Protocol):
    """A backend whose last step the GPU timed itself, by CUDA events around the enqueue; valid after `sync`."""

    def device_time_s(self) -> float: ...


@runtime_checkable
class MeasuredMemory(Protocol):
    """A backend that tells the GPU memory that it holds; each says in its docstring how that is counted."""

    def device_bytes(self) -> int: ...
