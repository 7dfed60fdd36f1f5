"""What one call of each runtime costs, all four verbs, under pytest-benchmark: run by `make bench-perf`.

Closed loops in one process, so from one run to the next a few per cent mean nothing; `harness bench` compares runtimes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.backends import BACKENDS
from bench.backends.interface import Backend, LoadRequest
from bench.peers.subject import made_subject
from harness.core.machine import core_count

pytestmark = pytest.mark.perf
_FILES = {"pytorch": "checkpoint.safetensors", "onnxruntime": "export/fp32.onnx", "openvino": "export/fp32.onnx"}
_HERE = [name for name in _FILES if name != "openvino" or util.find_spec("openvino")]


def _loaded(name: str, request: LoadRequest) -> Backend:
    module, _, function = BACKENDS[name].partition(":")
    load: Callable[[LoadRequest], Backend] = getattr(import_module(module), function or "load")
    return load(request)


def _benchmark_call(benchmark: Any, backend: Backend, request: LoadRequest) -> None:
    images = np.random.default_rng(0).standard_normal(request.input_shape, dtype=np.float32)

    def call() -> Any:
        backend.bind(images)
        backend.step()
        backend.sync()
        return backend.fetch()

    outputs_bc = benchmark(call)
    backend.close()
    assert outputs_bc.shape == (request.batch_size, request.class_count)
    assert np.isfinite(outputs_bc).all()


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("name", _HERE)
def test_a_call_at_64_px(benchmark: Any, session_run: Any, name: str, batch_size: int) -> None:
    benchmark.group = f"one call, ResNet-18 at 64 px, batch {batch_size}"
    request = LoadRequest(
        artifact=session_run.folder / _FILES[name],
        case="d2-resnet18-ce",
        batch_size=batch_size,
        image_px=64,
        class_count=3,
        threads=core_count(),
    )
    _benchmark_call(benchmark, _loaded(name, request), request)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
    """A ResNet-18 of random weights at 224 px."""
    folder: Path = tmp_path_factory.mktemp("full-size")
    return made_subject(folder, core_count()).request()


@pytest.mark.parametrize("name", [name for name in _HERE if name != "pytorch"])
def test_a_call_at_224_px(benchmark: Any, full_size: LoadRequest, name: str) -> None:
    benchmark.group = "one call, ResNet-18 at 224 px, batch 1"
    _benchmark_call(benchmark, _loaded(name, full_size), full_size)
