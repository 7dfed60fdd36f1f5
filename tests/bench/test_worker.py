"""A real worker on the session's ONNX file, and every way in which one can end badly."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.availability import why_unavailable
from bench.backends.interface import LoadRequest
from bench.messages import (
    Answer,
    Answered,
    Block,
    Load,
    Loaded,
    Recheck,
    Rechecked,
    Timed,
    Usage,
    Used,
    WarmedUp,
    WarmUp,
)
from bench.worker_process import WorkerProcess
from harness.core.contract import Preprocessing
from harness.core.errors import BackendError
from harness.core.passport import golden_pair
from harness.data.golden import pair_pixels

_ROWS = [59, 3, 40, 41, 42, 0, 7]


def _load(session_run: Any, *, batch_size: int = 1, backend: str = "onnxruntime", **changes: Any) -> Load:
    (images,) = session_run.runs_folder.glob("evaluation-sets/*/images.npy")
    request = LoadRequest(
        artifact=session_run.folder / "export" / "fp32.onnx",
        case="d2-resnet18-ce",
        batch_size=batch_size,
        image_px=64,
        class_count=3,
        threads=1,
    ).model_copy(update=changes)
    return Load(
        backend=backend,
        request=request,
        images=images,
        rows=_ROWS,
        preprocessing=Preprocessing(resize_px=73, crop_px=64),
        pair=golden_pair(pair_pixels(64), np.zeros(3, dtype=np.float32)),
    )


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(tmp_path / "logs" / "worker.log")
    yield made
    made.kill()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that may take three seconds for an answer."""
    made = WorkerProcess(tmp_path / "logs" / "worker.log", limit_s=3.0)
    yield made
    made.kill()


@pytest.mark.parametrize(
    ("batch_size", "backend"), [(1, "onnxruntime"), (4, "onnxruntime"), (4, "openvino-throughput")]
)
def test_a_worker_answers_every_row_in_order_as_the_golden_does(
    session_run: Any, worker: WorkerProcess, tmp_path: Path, batch_size: int, backend: str
) -> None:
    if why_unavailable(backend):
        pytest.skip(why_unavailable(backend))
    loaded = worker.ask(_load(session_run, batch_size=batch_size, backend=backend), Loaded)
    assert loaded.description.departures == []
    worker.ask(Answer(out=tmp_path / "answers.npz", other_batches=[2]), Answered)
    with np.load(session_run.folder / "golden.npz") as golden, np.load(tmp_path / "answers.npz") as answers:
        assert answers["rows"].tolist() == _ROWS
        np.testing.assert_allclose(answers["outputs_bc"], golden["logits_bc"][_ROWS], atol=1e-4, rtol=1e-4)
        first_bc = answers["outputs_bc"]
        np.testing.assert_allclose(answers["batch_2"], first_bc, atol=1e-4, rtol=1e-4)
        assert ("rows_kbc" in answers) is ("first_k1c" in answers) is (batch_size > 1)
        if batch_size > 1:
            assert answers["rows_kbc"].shape == (3, 4, 3)
            np.testing.assert_allclose(answers["rows_kbc"] - first_bc[:4], 0, atol=1e-4)
            assert answers["first_k1c"].shape == (4, 1, 3)
            np.testing.assert_allclose(answers["first_k1c"] - first_bc[0], 0, atol=1e-4)


def test_a_worker_times_as_many_calls_as_it_is_asked_for(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run), Loaded)
    warmed_up = worker.ask(WarmUp(calls=4, duration_s=0.0, most_s=60.0), WarmedUp)
    assert warmed_up.calls >= 4
    assert warmed_up.at_once == 1
    timed = worker.ask(Block(settle_calls=1, calls=5), Timed)
    assert len(timed.compute_s) == len(timed.end_to_end_s) == 5
    assert all(0 < compute <= whole for compute, whole in zip(timed.compute_s, timed.end_to_end_s, strict=True))
    assert timed.cpu_s > 0


def test_a_warm_up_ends_at_its_limit_but_not_before_three_calls(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run), Loaded)
    warmed_up = worker.ask(WarmUp(calls=1_000_000, duration_s=3600.0, most_s=0.0), WarmedUp)
    assert warmed_up.calls == 3
    assert 0 < warmed_up.later_call_s < warmed_up.duration_s


def test_a_worker_answers_the_first_rows_again_and_tells_its_memory(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run, batch_size=2), Loaded)
    rechecked = worker.ask(Recheck(count=5), Rechecked)
    with np.load(session_run.folder / "golden.npz") as golden:
        np.testing.assert_allclose(rechecked.outputs, golden["logits_bc"][_ROWS[:5]], atol=1e-4, rtol=1e-4)
    used = worker.ask(Usage(), Used)
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    (peak_kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert used.peak_memory_bytes == pytest.approx(1024 * peak_kib, rel=0.05)
    assert used.device_memory_bytes is None


_QUEUED = """
import threading, time
from bench.backends import onnx_runtime
class Queued(onnx_runtime.OnnxRuntime):
    request_count = 1
    def submit(self, images):
        self.thread = threading.Thread(target=self.work, args=(images, getattr(self, "thread", None)))
        self.thread.start()
    def work(self, images, before):
        if before: before.join()
        time.sleep(0.02)
        self.bind(images); self.step(); self.sync()
    def wait(self):
        self.thread.join()
load = Queued
"""


def test_a_runtime_with_a_queue_is_timed_from_the_first_submission_until_all_is_done(
    session_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queued_backend.py").write_text(_QUEUED)
    starter = tmp_path / "start.py"
    starter.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport bench.worker as w\n"
        "w.BACKENDS = {'queued': 'queued_backend:load'}\nw.main()\n"
    )
    with _started_with(starter, tmp_path, monkeypatch) as worker:
        worker.ask(_load(session_run, backend="queued"), Loaded)
        worker.ask(WarmUp(calls=1, duration_s=0.0, most_s=1.0), WarmedUp)
        timed = worker.ask(Block(settle_calls=1, calls=5), Timed)
    assert timed.compute_s == timed.end_to_end_s == []
    assert timed.queue_s is not None
    assert timed.queue_s >= 0.02  # A block that ended before the work did would be shorter than the sleeps.


def test_an_artifact_that_the_runtime_refuses_is_an_error_and_the_worker_lives(
    session_run: Any, worker: WorkerProcess, tmp_path: Path
) -> None:
    (tmp_path / "no.onnx").write_bytes(b"this is not ONNX")
    with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
        worker.ask(_load(session_run, artifact=tmp_path / "no.onnx"), Loaded)
    assert worker.ask(_load(session_run), Loaded).load_s > 0


@pytest.mark.parametrize("changes", [{"image_px": 65}, {"class_count": 4}], ids=["image size", "classes"])
def test_a_model_of_another_shape_is_an_error_in_words(
    session_run: Any, worker: WorkerProcess, tmp_path: Path, changes: dict[str, int]
) -> None:
    def answered() -> Answered:
        worker.ask(_load(session_run, **changes), Loaded)
        return worker.ask(Answer(out=tmp_path / "answers.npz"), Answered)

    with pytest.raises(BackendError, match=r"ONNX Runtime|OrtValue"):
        answered()


def test_a_worker_that_raises_ends_with_its_last_words_and_its_log(
    session_run: Any, worker: WorkerProcess, tmp_path: Path
) -> None:
    with pytest.raises(BackendError) as caught:
        worker.ask(_load(session_run, backend="nonesuch"), Loaded)
    assert "exit code 1" in caught.value.message
    assert "KeyError: 'nonesuch'" in caught.value.message
    log = tmp_path / "logs" / "worker.log"
    assert str(log) in caught.value.hint
    assert "Traceback" in log.read_text()
    with pytest.raises(BackendError):
        worker.ask(_load(session_run), Loaded)


def test_a_worker_killed_while_it_works_is_an_error_that_names_the_signal(
    session_run: Any, worker: WorkerProcess
) -> None:
    worker.ask(_load(session_run), Loaded)
    process_id = worker._process.pid
    killer = threading.Timer(0.5, os.kill, (process_id, signal.SIGKILL))
    killer.start()
    with pytest.raises(BackendError, match="SIGKILL"):
        worker.ask(WarmUp(calls=1, duration_s=60.0, most_s=60.0), WarmedUp)
    killer.join()


def test_a_worker_killed_between_two_requests_is_an_error(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run), Loaded)
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    with pytest.raises(BackendError, match="SIGKILL"):
        worker.ask(WarmUp(calls=1, duration_s=0.0, most_s=60.0), WarmedUp)


def test_a_worker_that_hangs_is_killed_at_its_limit(session_run: Any, impatient: WorkerProcess) -> None:
    impatient._limit_s = 60.0
    impatient.ask(_load(session_run), Loaded)
    impatient._limit_s = 0.5
    os.kill(impatient._process.pid, signal.SIGSTOP)
    with pytest.raises(BackendError, match="no answer within"):
        impatient.ask(WarmUp(calls=1, duration_s=0.0, most_s=60.0), WarmedUp)
    assert impatient._process.wait(timeout=10) == -signal.SIGKILL


_NOISY = """
import os, sys
os.write(1, b"a runtime says hello on descriptor 1\\n")
print("and on sys.stdout")
"""


def test_what_a_runtime_prints_goes_to_the_log_and_not_between_the_replies(
    session_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A backend module of ours, found by the worker through the import path only.
    (tmp_path / "noisy_backend.py").write_text(
        _NOISY + "from bench.backends.onnx_runtime import load\nprint('loaded', flush=True)\n"
    )
    starter = tmp_path / "start.py"
    starter.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport bench.worker as w\n"
        "w.BACKENDS = {'noisy': 'noisy_backend:load'}\nw.main()\n"
    )
    with _started_with(starter, tmp_path, monkeypatch) as worker:
        assert worker.ask(_load(session_run, backend="noisy"), Loaded).description.runtime == "ONNX Runtime"
    assert "hello on descriptor 1" in (tmp_path / "worker.log").read_text()


def _started_with(starter: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    """Start a worker process from another script, through a Python that runs it whatever it is given."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -P {starter}\n")
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(program))
        return WorkerProcess(folder / "worker.log", limit_s=30.0)


@pytest.mark.parametrize("line", ["garbage", '{"load_s": "soon"}', "[]"])
def test_a_reply_that_is_none_is_an_error_in_words(
    session_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    starter = tmp_path / "start.py"
    starter.write_text(f"import sys\nsys.stdin.readline()\nprint({line!r}, flush=True)\nsys.stdin.read()\n")
    with (
        _started_with(starter, tmp_path, monkeypatch) as worker,
        pytest.raises(BackendError),
    ):
        worker.ask(_load(session_run), Loaded)


def test_a_worker_ends_when_its_coordinator_closes_it(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run), Loaded)
    worker.close()
    assert worker._process.returncode == 0
    worker.close()


def test_a_worker_ignores_ctrl_c_which_is_the_coordinators_to_decide(session_run: Any, worker: WorkerProcess) -> None:
    worker.ask(_load(session_run), Loaded)
    os.kill(worker._process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert worker.ask(WarmUp(calls=1, duration_s=0.0, most_s=60.0), WarmedUp).calls >= 1
