"""What the coordinator says to the process that LoadGen runs in, and what that answers; see bench.messages."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.backends.interface import Description
from bench.load_settings import LoadSettings
from bench.messages import Load


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prepare(_Message):
    """Load a model, and refuse it unless it gives the stored outputs_bc for the first rows of `load`."""

    do: Literal["prepare"] = "prepare"
    load: Load
    stored_bc: list[list[float]]


class Prepared(_Message):
    """`largest_difference` is over all outputs of the rows that were compared."""

    load_s: float
    description: Description
    compared_rows: int
    largest_difference: float


class Drive(_Message):
    """Let LoadGen drive the model once; its logs go to `folder`, which is made."""

    do: Literal["drive"] = "drive"
    settings: LoadSettings
    folder: Path


class Driven(_Message):
    """LoadGen's own log has the result; here is what it does not have. `seeds` are those it was given.

    `cpu_s` is of the whole request, so that nothing of ours is taken for somebody else's.
    """

    cpu_s: float
    seeds: dict[str, int]
    image_count: int


class Rest(_Message):
    """Do nothing for a while, then time one call; so many times, with a few untimed calls after each."""

    do: Literal["rest"] = "rest"
    pause_s: float
    repeats: int
    settle_calls: int


class Rested(_Message):
    """`cpu_s` is of the whole request, pauses included."""

    first_call_s: list[float]
    cpu_s: float
