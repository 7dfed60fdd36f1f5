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


class Recheck(_Message):
    """Answer the first `count` rows again: is this the model that was judged?"""

    do: Literal["recheck"] = "recheck"
    count: int


class WarmUp(_Message):
    """Call at least so often and so long, untimed; but, after three calls, no longer than `most_s`."""

    do: Literal["warm up"] = "warm up"
    calls: int
    duration_s: float
    most_s: float


class Block(_Message):
    """Time so many calls after a few untimed ones that bring the caches back.

    A runtime with a queue is timed through it, unless call by call is asked for.
    """

    do: Literal["block"] = "block"
    settle_calls: int
    calls: int
    call_by_call: bool = False


class Usage(_Message):
    """Say how much memory was used at most."""

    do: Literal["usage"] = "usage"


class Loaded(_Message):
    load_s: float
    description: Description


class Answered(_Message):
    """`refused_batches` says why a batch size could not be loaded."""

    duration_s: float
    refused_batches: dict[int, str] = {}


class Rechecked(_Message):
    """`first_call_s` is of the first call of all, where it is the first that the process was asked for."""

    outputs: list[list[float]]
    first_call_s: float


class WarmedUp(_Message):
    """`later_call_s` is the median of the later half; a queue takes `at_once` calls before it is full."""

    calls: int
    duration_s: float
    later_call_s: float
    at_once: int = 1


class Timed(_Message):
    """Samples in the order taken, empty where the block went through a queue: that gives one time per call, the mean.

    `cpu_s` covers the whole block, settling included.
    """

    compute_s: list[float] = []
    end_to_end_s: list[float] = []
    device_s: list[float] = []
    queue_s: float | None = None
    cpu_s: float


class Used(_Message):
    """Largest resident memory of the process; None for the device's where it has none of its own."""

    peak_memory_bytes: int
    device_memory_bytes: int | None = None


class Failed(_Message):
    """A HarnessError of the worker."""

    message: str
    hint: str
