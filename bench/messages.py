"""What coordinator and worker say to each other: one JSON object per line, a request and its reply in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.backends.interface import Description, LoadRequest
from harness.core.contract import Preprocessing
from harness.core.passport import GoldenPair

# Names of arrays in a file of answers: the first batch again in other rows, its first image in every row, and the first
# images in batches of another size.
ROW_REPEATS = "rows_kbc"
FIRST_REPEATS = "first_k1c"
BATCH_REPEATS = "batch_"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Load(_Message):
    """Load a model, and open the evaluation images it will be fed with; `rows` are those to
    answer.

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
    """Write to `out` the answers to every row, to the first again in other rows and batch sizes, and to the pair."""

    do: Literal["answer"] = "answer"
    out: Path
    other_batches: list[int] = []


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
    """`refused_batches` says why a batch size could not be loaded."""

    duration_s: float
    refused_batches: dict[int, str] = {}


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
