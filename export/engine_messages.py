"""What the process that builds an engine is told, and what it tells: one JSON object per line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from export.address_space import Randomisation
from export.engine_options import BatchProfile, EngineOptions
from harness.core.tensorrt_flavour import Flavour


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildRequest(_Message):
    """Every path is absolute. The plan is written to `plan_path`; `artifact_path` is what errors call it."""

    onnx_path: Path
    flavour: Flavour
    input_name: str
    input_shape: tuple[int, int, int, int]
    profile: BatchProfile
    options: EngineOptions
    plan_path: Path
    artifact_path: Path


class TaskStarted(_Message):
    kind: Literal["task started"] = "task started"
    description: str
    total: int | None


class TaskAdvanced(_Message):
    kind: Literal["task advanced"] = "task advanced"
    amount: int
    note: str


class TaskEnded(_Message):
    kind: Literal["task ended"] = "task ended"


class Said(_Message):
    kind: Literal["said"] = "said"
    words: str


class BuiltPlan(_Message):
    """The plan is on the disk; the rest is as in BuiltEngine. `address_randomisation`: of the process that built it."""

    kind: Literal["built"] = "built"
    version: str
    targets: list[str]
    tf32: bool
    build_s: float
    log: list[str]
    address_randomisation: Randomisation


class Failed(_Message):
    """A HarnessError: the name of its class, its message and its hint."""

    kind: Literal["failed"] = "failed"
    error: str
    message: str
    hint: str


Reply = TaskStarted | TaskAdvanced | TaskEnded | Said | BuiltPlan | Failed
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
