"""A backend that hands every verb on to another one; its heirs change one verb and leave the model alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.backends.interface import Backend, Description, Float32s, Images


class Passing:
    """The verbs of the backend within."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def bind(self, images: Images) -> None:
        self._backend.bind(images)

    def step(self) -> None:
        self._backend.step()

    def sync(self) -> None:
        self._backend.sync()

    def fetch(self) -> Float32s:
        return self._backend.fetch()

    def fetch_answers(self) -> npt.NDArray[np.int64] | None:
        return self._backend.fetch_answers()

    def describe(self) -> Description:
        return self._backend.describe()

    def close(self) -> None:
        self._backend.close()
