"""What every runtime must offer, and nothing more: four verbs that one host clock can compose.

    compute      = step + sync
    end to end   = bind + step + sync + fetch

A backend holds one loaded model for one batch size. Verbs raise BackendError; they never time anything themselves.
Shapes: b batch, c channels or classes, h, w pixels. Images arrive preprocessed, as float32 and contiguous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Float32s = npt.NDArray[np.float32]


class LoadRequest(BaseModel):
    """What a worker asks a backend to load. `case` is needed only by a runtime that builds the network itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Path
    case: str
    batch_size: int
    image_px: int
    class_count: int
    threads: int


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
    """One loaded model. `bind` copies images_bchw in, `fetch` copies logits_bc out."""

    def bind(self, images_bchw: Float32s) -> None: ...

    def step(self) -> None: ...

    def sync(self) -> None: ...

    def fetch(self) -> Float32s: ...

    def describe(self) -> Description: ...

    def close(self) -> None: ...
