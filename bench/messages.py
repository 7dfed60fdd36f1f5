"""What coordinator and worker say to each other: one JSON object per line, a request and its reply in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.backends.interface import Description, LoadRequest
from harness.core.contract import Preprocessing
from harness.core.passport import GoldenPair


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Load(_Message):
    """Load a model, and open the evaluation images it will be fed with; `rows` are the test split's.

    `pair` is the made-up image that the model's passport carries.
    """

    do: Literal["load"] = "load"
    backend: str
    request: LoadRequest
    images: Path
    rows: list[int]
    preprocessing: Preprocessing
    pair: GoldenPair


class Answer(_Message):
    """Answer every row, the first ones again with the rows of each batch rotated, and the pair; write all to `out`."""

    do: Literal["answer"] = "answer"
    out: Path


class WarmUp(_Message):
    """Call at least so often and so long, untimed."""

    do: Literal["warm up"] = "warm up"
    calls: int
    duration_s: float


class Block(_Message):
    """Time so many calls after a few untimed ones that bring the caches back."""

    do: Literal["block"] = "block"
    settle_calls: int
    calls: int


class Loaded(_Message):
    load_s: float
    description: Description


class Answered(_Message):
    duration_s: float


class WarmedUp(_Message):
    calls: int
    duration_s: float
    first_call_s: float


class Timed(_Message):
    """Samples in the order taken. `cpu_s` covers the whole block, settling included."""

    compute_s: list[float]
    end_to_end_s: list[float]
    cpu_s: float


class Failed(_Message):
    """A HarnessError of the worker."""

    message: str
    hint: str
