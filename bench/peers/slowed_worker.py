"""A worker whose every call takes 3 % longer, started in place of `bench.worker`: what a real slowdown looks like.

The wait comes before the step and is a busy one: a sleep of a quarter of a millisecond is not exact.
"""

from __future__ import annotations

import time
from typing import Any

from bench.messages import Load, WarmedUp, WarmUp
from bench.peers.passing import Passing
from bench.serving import serve
from bench.worker import Worker, reply_to

SLOWDOWN = 0.03


class Slowed(Passing):
    """A backend whose step begins with a wait."""

    wait_s = 0.0

    def step(self) -> None:
        end_s = time.perf_counter() + self.wait_s
        while time.perf_counter() < end_s:
            pass
        super().step()


class SlowedWorker(Worker):
    """A worker that is slowed from the end of its warm-up on, by a share of the calls that it saw there."""

    def __init__(self, message: Load) -> None:
        super().__init__(message)
        self._slowed = Slowed(self._backend)
        self._backend = self._slowed

    def warm_up(self, message: WarmUp) -> WarmedUp:
        warmed_up = super().warm_up(message)
        self._slowed.wait_s = SLOWDOWN * warmed_up.later_call_s
        return warmed_up


def _reply_to(request: dict[str, Any], worker: Worker | None) -> tuple[Worker | None, str]:
    if request["do"] == "load":
        made = SlowedWorker(Load.model_validate(request))
        return made, made.loaded().model_dump_json()
    return reply_to(request, worker)


if __name__ == "__main__":
    serve(_reply_to)
