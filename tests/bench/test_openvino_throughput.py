"""What the queue's errors become; that it works is shown in the suite of all backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.backends.openvino_throughput import OpenvinoThroughput
from harness.core.errors import BackendError


class _Failing:
    """A queue of which every call fails as OpenVINO's does, after a request in it failed."""

    def __getattr__(self, name: str) -> Callable[[], Any]:
        def call() -> Any:
            raise RuntimeError("Exception from src/inference: out of memory")

        return call


@pytest.mark.parametrize("verb", ["submit", "wait"])
def test_a_request_that_fails_is_told_by_submitting_as_by_waiting(verb: str) -> None:
    backend = object.__new__(OpenvinoThroughput)
    backend._queue, backend._inputs = _Failing(), []
    arguments = [np.zeros((1, 3, 64, 64), dtype=np.float32)] if verb == "submit" else []
    with pytest.raises(BackendError, match=r"OpenVINO failed: .*out of memory"):
        getattr(backend, verb)(*arguments)
