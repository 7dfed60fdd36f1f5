"""What is measured beside others: one ONNX file, made-up images, and the bench's own worker in this very process.

Ours is `bench.worker.Worker.block`, the code that times every trial, on a backend whose model the peer uses as well. So
a difference is one of clocks and loops, and neither of two models nor of two processes, which alone is about 1 %.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from bench.backends.interface import Backend, Images, LoadRequest
from bench.messages import Block, Load, Timed, WarmUp
from bench.peers.network import CLASS_COUNT
from bench.worker import Worker
from harness.core.contract import Preprocessing
from harness.core.errors import BackendError
from harness.core.files import write_atomically
from harness.core.passport import golden_pair

IMAGE_PX = 224
SETTLE_CALLS = 3
_IMAGE_COUNT = 16
_WARM_UP = WarmUp(calls=40, duration_s=0.5, most_s=10.0)
_EXPORT_LIMIT_S = 300.0
_Loaded = TypeVar("_Loaded", bound=Backend)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model of one image a call, in a folder that keeps it, and how many threads it may use."""

    folder: Path
    threads: int

    @property
    def model(self) -> Path:
        return self.folder / "resnet18.onnx"

    @property
    def images(self) -> Path:
        return self.folder / "images.npy"

    def request(self) -> LoadRequest:
        return LoadRequest(
            artifact=self.model.resolve(),
            case="",  # Only PyTorch builds the network itself.
            batch_size=1,
            image_px=IMAGE_PX,
            class_count=CLASS_COUNT,
            threads=self.threads,
        )

    def load_message(self, backend: str) -> Load:
        """Return what a worker needs to load the model and answer the images."""
        pixels_hwc = np.load(self.images, mmap_mode="r")[0]
        return Load(
            backend=backend,
            request=self.request(),
            images=self.images.resolve(),
            rows=list(range(_IMAGE_COUNT)),
            preprocessing=Preprocessing(resize_px=IMAGE_PX, crop_px=IMAGE_PX),
            pair=golden_pair(np.asarray(pixels_hwc), np.zeros(CLASS_COUNT, dtype=np.float32)),
        )


def made_subject(folder: Path, threads: int) -> Subject:
    """Return the subject in a folder, made where it is not there yet; raise BackendError where that fails."""
    subject = Subject(folder=folder, threads=threads)
    folder.mkdir(parents=True, exist_ok=True)
    if not subject.images.is_file():
        shape = (_IMAGE_COUNT, IMAGE_PX, IMAGE_PX, 3)
        pixels_bhwc = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as stream:
                np.save(stream, pixels_bhwc)

        write_atomically(subject.images, write)
    if not subject.model.is_file():
        command = [sys.executable, "-P", "-m", "bench.peers.network", str(subject.model.resolve())]
        done = subprocess.run(  # noqa: S603  # our own module
            command, capture_output=True, text=True, timeout=_EXPORT_LIMIT_S, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BackendError(f"The network was not exported: {last}", hint="`make setup` installs what it needs.")
    return subject


@contextmanager
def loaded(kind: Callable[[LoadRequest], _Loaded], subject: Subject) -> Iterator[_Loaded]:
    """Load the subject's model into a backend of one kind, and close it at the end."""
    backend = kind(subject.request())
    try:
        yield backend
    finally:
        backend.close()


class OpenWorker(Worker):
    """The bench's worker in this process, on a backend that was loaded already; warmed up."""

    def __init__(self, message: Load, backend: Backend) -> None:
        super().__init__(message)
        self._backend.close()  # The worker's own, of which nobody but it could get hold.
        self._backend = backend
        self.warm_up(_WARM_UP)

    @property
    def batches(self) -> list[Images]:
        """The images that timed calls are given in turn."""
        return self._batches

    def timed(self, calls: int) -> Timed:
        """Return a block as every trial's is timed."""
        return self.block(Block(settle_calls=SETTLE_CALLS, calls=calls))

    def end_to_end_s(self, calls: int) -> float:
        """Return the median call of a block, images in and answer out."""
        return median(self.timed(calls).end_to_end_s)
