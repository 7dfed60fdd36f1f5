"""What a mutant is: the bug, the file it sits in, and which step of the gate must name it in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tests.mutants.bed import Bed
from tests.mutants.graphs import Change, rewrite

# `refused`: bench measures nothing at all and says why, with exit code 1.
Step = Literal["contract", "numeric", "accuracy", "refused"]
PAIR = "image of its own passport"
FP32 = "fp32 allows"
AGREEMENT = "of answers agree"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`lie` says that it is harmful whatever it answers: who believes what is written on it is misled.

    `reason` is a regular expression that the verdict's reason must match. `batch_size` is that at which the caller
    asks, who measures the harm; bench is always asked for 8. `measurable` is false where the caller has nothing to ask:
    a file that nothing here can load, or damage that does not lie in the file.
    """

    name: str
    file: str
    damage: Callable[[Bed], None]
    steps: tuple[Step, ...]
    reason: str
    backend: str = "onnxruntime"
    data: Literal["films", "colour"] = "films"
    lie: bool = False
    batch_size: int = 8
    measurable: bool = True


def graph_mutant(name: str, file: str, *changes: Change, reason: str, steps: tuple[Step, ...] = ("numeric",)) -> Mutant:
    """A mutant whose graph is changed and whose sidecar vouches for it."""
    return Mutant(name=name, file=file, damage=partial(_rewritten, changes=changes), steps=steps, reason=reason)


def _rewritten(bed: Bed, changes: tuple[Change, ...]) -> None:
    rewrite(bed.path, *changes)
