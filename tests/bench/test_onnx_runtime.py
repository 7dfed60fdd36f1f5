"""Where ONNX Runtime says that it ran, and what follows; no other provider than the CPU's is here, so on doubles."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from bench.backends import onnx_runtime_cuda
from bench.backends.cuda_memory import CudaMemory
from bench.backends.interface import LoadRequest
from bench.backends.onnx_runtime import OnnxRuntime
from bench.backends.onnx_runtime_cuda import OnnxRuntimeCuda, load
from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import gpu_driver_present
from tests.stand_ins.cuda import CudaStandIn
from tests.stand_ins.onnxruntime_cuda import OnnxRuntimeStandIn


def _departures(assignment: list[tuple[str, int]]) -> list[str]:
    backend = object.__new__(OnnxRuntime)
    groups = [
        SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [object()] * count) for name, count in assignment
    ]
    backend._session = SimpleNamespace(
        get_provider_graph_assignment_info=lambda: groups,
        get_session_options=lambda: SimpleNamespace(intra_op_num_threads=2),
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
    )
    backend._threads, backend._version, backend._precision = 2, "1", "fp32"
    return backend.describe().departures


@pytest.mark.parametrize(
    ("assignment", "departures"),
    [
        ([("CPUExecutionProvider", 3)], []),
        (
            [("CPUExecutionProvider", 3), ("XnnpackExecutionProvider", 2), ("XnnpackExecutionProvider", 4)],
            ["6 nodes ran on XnnpackExecutionProvider, asked for CPUExecutionProvider"],
        ),
        ([], ["ONNX Runtime does not tell where its nodes ran, asked for CPUExecutionProvider"]),
    ],
)
def test_the_assignment_record_must_say_that_every_node_ran_where_it_was_asked_to(
    assignment: list[tuple[str, int]], departures: list[str]
) -> None:
    assert _departures(assignment) == departures


class _Bed:
    """A small model with answers, and the doubles that it is loaded onto."""

    def __init__(self, folder: Path) -> None:
        model = onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 20]>'
            "agraph (float[batch, 3, 8, 8] image) => (float[batch, 3] logits, int64[batch] answer) {"
            "  pooled = GlobalAveragePool (image)"
            "  logits = Flatten (pooled)"
            "  answer = ArgMax <axis: int = 1, keepdims: int = 0> (logits)"
            "}"
        )
        self.path = folder / "fp32-prob.onnx"
        onnx.save(model, self.path)
        self.cuda = CudaStandIn()
        self.module = OnnxRuntimeStandIn(self.cuda)

    def load(self, *, variant: str = "fp32-prob") -> OnnxRuntimeCuda:
        request = LoadRequest(
            artifact=self.path, case="any", batch_size=2, image_px=8, class_count=3, threads=1, variant=variant
        )
        return OnnxRuntimeCuda(request, onnxruntime=self.module, open_memory=lambda: CudaMemory(self.cuda))

    def assert_all_released(self) -> None:
        assert (self.cuda.memory, self.cuda.streams, self.cuda.events) == ({}, set(), {})


@pytest.fixture
def bed(tmp_path: Path) -> _Bed:
    return _Bed(tmp_path)


def test_bound_images_become_their_outputs_when_the_stream_is_waited_for(bed: _Bed) -> None:
    backend = bed.load()
    for seed in (1, 2):
        images = np.random.default_rng(seed).normal(size=(2, 3, 8, 8)).astype(np.float32)
        backend.bind(images)
        assert bed.cuda.queue == [], "the images are there when bind returns"
        backend.step()
        assert len(bed.cuda.queue) == 3, "a run between two marks, and nothing waited for"
        backend.sync()
        assert bed.cuda.queue == []
        logits_bc, answers_b = backend.fetch(), backend.fetch_answers()
        np.testing.assert_allclose(logits_bc, images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
        assert answers_b is not None
        np.testing.assert_array_equal(answers_b, logits_bc.argmax(axis=1))
        assert logits_bc.flags.owndata
        assert answers_b.flags.owndata
    assert backend.device_time_s() == pytest.approx(0.002)
    backend.close()
    bed.assert_all_released()
    backend.close()


def test_closing_waits_for_work_that_uses_the_memory(bed: _Bed) -> None:
    backend = bed.load()
    backend.bind(np.zeros((2, 3, 8, 8), np.float32))
    backend.step()
    backend.close()
    assert bed.cuda.queue == []
    bed.assert_all_released()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"assigned": [("CUDAExecutionProvider", 3), ("CPUExecutionProvider", 1)]},
            "1 nodes ran on CPUExecutionProvider, asked for CUDAExecutionProvider",
        ),
        ({"assigned": []}, "does not tell where its nodes ran"),
        ({"tf32": "1"}, "use_tf32 reads 1, asked for 0"),
        ({"providers": ["CPUExecutionProvider"]}, "no provider for a GPU"),
    ],
)
def test_a_session_that_is_not_all_on_the_gpu_in_float32_departs(
    bed: _Bed, changes: dict[str, Any], words: str
) -> None:
    vars(bed.module).update(changes)
    (departure,) = bed.load().describe().departures
    assert words in departure


def test_a_file_that_is_refused_or_another_leaves_nothing_on_the_gpu(bed: _Bed) -> None:
    with pytest.raises(BackendError, match="which is no fp32"):
        bed.load(variant="fp32")
    bed.assert_all_released()
    bed.path.write_bytes(b"this is not ONNX")
    with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
        bed.load()
    bed.assert_all_released()


@pytest.mark.parametrize("images", [np.zeros((1, 3, 8, 8), np.float32), np.zeros((2, 3, 8, 8))])
def test_images_of_another_shape_or_type_are_refused(bed: _Bed, images: Any) -> None:
    with pytest.raises(BackendError, match=r"loaded for float32 \(2, 3, 8, 8\)"):
        bed.load().bind(images)


def test_the_options_that_are_set_are_options_of_the_library_installed_here() -> None:
    folder = Path(onnxruntime.__file__).parent / "capi"
    found = b"".join(path.read_bytes() for path in folder.glob("*.so*") if "tensorrt" not in path.name)
    if not list(folder.glob("*providers_cuda*")):
        pytest.skip("this ONNX Runtime was built without CUDA")
    source = Path(onnx_runtime_cuda.__file__).read_text(encoding="utf-8")
    for option in ("use_tf32", "user_compute_stream", "device_id", "disable_synchronize_execution_providers"):
        assert f'"{option}"' in source
        assert option.encode() in found


@pytest.mark.skipif(gpu_driver_present(), reason="there is an NVIDIA driver here")
def test_without_a_gpu_loading_says_so(bed: _Bed) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    request = LoadRequest(artifact=bed.path, case="any", batch_size=2, image_px=8, class_count=3, threads=1)
    with pytest.raises(BackendError, match="CUDA reports"):
        load(request)
