"""Parity over ten thousand images: memory that does not grow with them, and time that is the model's own.

Slow; the ratio of times is recorded and never asserted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.backends.interface import LoadRequest
from bench.messages import Answer, Answered, Load, Loaded
from bench.worker_process import WorkerProcess
from harness.core.contract import Preprocessing
from harness.core.passport import golden_pair
from harness.data.golden import pair_pixels
from harness.data.preprocessing import images_from_pixels

_PREPROCESSING = Preprocessing(resize_px=73, crop_px=64)
_BATCH_SIZE = 8


def _request(session_run: Any) -> LoadRequest:
    return LoadRequest(
        artifact=session_run.folder / "export" / "fp32.onnx",
        case="d2-resnet18-ce",
        batch_size=_BATCH_SIZE,
        image_px=64,
        class_count=3,
        threads=1,
    )


@contextlib.contextmanager
def _largest_anonymous_bytes(process_id: int) -> Iterator[list[int]]:
    """Watch the memory that a process allocated itself; pages of the image file are the system's to drop."""
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            status = Path(f"/proc/{process_id}/status").read_text()
            line = next(each for each in status.splitlines() if each.startswith("RssAnon:"))
            largest[0] = max(largest[0], 1024 * int(line.split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield largest
    finally:
        done.set()
        watcher.join()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten thousand different images of 64 pixels, 123 MB."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    pixels_bhwc = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(10_000, 64, 64, 3))
    generator = np.random.default_rng(0)
    for start in range(0, 10_000, 500):
        pixels_bhwc[start : start + 500] = generator.integers(0, 256, (500, 64, 64, 3), dtype=np.uint8)
    pixels_bhwc.flush()
    return path


def _answered(session_run: Any, images: Path, count: int, folder: Path) -> tuple[int, float]:
    """Return the worker's largest memory and its seconds while it answers so many images."""
    with WorkerProcess(folder / f"{count}.log") as worker:
        load = Load(
            backend="onnxruntime",
            request=_request(session_run),
            images=images,
            rows=list(range(count)),
            preprocessing=_PREPROCESSING,
            pair=golden_pair(pair_pixels(64), np.zeros(3, dtype=np.float32)),
        )
        worker.ask(load, Loaded)
        with _largest_anonymous_bytes(worker._process.pid) as largest:
            answered = worker.ask(Answer(out=folder / f"{count}.npz"), Answered)
    return largest[0], answered.duration_s


@pytest.mark.slow
def test_ten_thousand_images_take_no_more_memory_than_a_thousand(
    session_run: Any, images: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    import onnxruntime

    few_bytes, _ = _answered(session_run, images, 1_000, tmp_path)
    many_bytes, duration_s = _answered(session_run, images, 10_000, tmp_path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(_request(session_run).artifact), options, providers=["CPUExecutionProvider"]
    )
    pixels_bhwc = np.load(images, mmap_mode="r")
    batches = [images_from_pixels(pixels_bhwc[i : i + _BATCH_SIZE], _PREPROCESSING) for i in range(0, 32, _BATCH_SIZE)]
    name = session.get_inputs()[0].name
    started_s = time.perf_counter()
    for index in range(10_000 // _BATCH_SIZE):
        session.run(None, {name: batches[index % len(batches)]})
    record_property("parity_over_inference", duration_s / (time.perf_counter() - started_s))
    assert many_bytes - few_bytes < 20e6
