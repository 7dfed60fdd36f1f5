"""What this machine can build and run: really asked here, and asked of libraries that crash, hang or lie."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from harness.core.progress import SILENT
from harness.core.tensorrt_flavour import gpu_driver_present
from harness.doctor.child import Answer, answers_to
from harness.doctor.examination import QUESTIONS
from harness.doctor.probes import PROBES
from harness.doctor.runtimes import CORE_MODULES, PROVIDERS, torch_findings

_ROOT = Path(__file__).resolve().parents[2]
_DOCTOR = [sys.executable, "-P", "-m", "harness.cli", "doctor"]
_COMPONENTS = [
    *("system", "processor", "memory", "disk", "gpu", "core packages", "torch", "torch.compile", "torchvision"),
    *(
        "imagenet resnet18",
        "imagenet vgg16",
        "onnxruntime",
        "onnxruntime CPU",
        "onnxruntime CUDA",
        "onnxruntime TensorRT",
        "openvino",
    ),
    *("cuda-python", "pycuda", "tensorrt", "tensorrt-rtx", "this machine"),
]
_no_driver = pytest.mark.skipif(gpu_driver_present(), reason="this machine has a GPU")
_has_rtx = pytest.mark.skipif(util.find_spec("tensorrt_rtx") is None, reason="the extra `rtx` is not installed")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `harness doctor --json` says here, by component, asked in a folder with the wrong torch.py in it."""
    folder = tmp_path_factory.mktemp("here")
    for name in ("torch.py", "openvino.py", "train.py", "harness.py"):
        (folder / name).write_text("raise SystemExit('the wrong file was imported')", encoding="utf-8")
    done = subprocess.run([*_DOCTOR, "--json"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    assert [finding["component"] for finding in findings] == _COMPONENTS
    return {finding["component"]: finding for finding in findings}


def test_machines_read_the_same_keys_of_every_finding(here) -> None:
    assert {tuple(finding) for finding in here.values()} == {
        ("component", "status", "detail", "remedy", "required", "facts")
    }
    assert {finding["status"] for finding in here.values()} <= {"ok", "limited", "absent", "broken"}


def test_whatever_is_missing_comes_with_what_to_do(here) -> None:
    assert [name for name, finding in here.items() if finding["status"] != "ok" and not finding["remedy"]] == []


def test_what_the_project_needs_works_where_its_tests_run(here) -> None:
    needed = {name: finding["status"] for name, finding in here.items() if finding["required"]}

    assert needed == dict.fromkeys(("torch", "torchvision", "onnxruntime", "onnxruntime CPU"), "ok")
    assert here["core packages"]["facts"].keys() == CORE_MODULES.keys()


@_no_driver
def test_providers_that_onnx_runtime_lists_and_cannot_load_are_not_believed(here) -> None:
    listed = here["onnxruntime"]["facts"]["providers"]
    if PROVIDERS["CUDA"] not in listed:
        pytest.skip("this build of ONNX Runtime lists no GPU provider")

    assert here["onnxruntime CPU"]["facts"] == {"listed": True, "runs": True, "ran_on": [PROVIDERS["CPU"]]}
    for name, library in (("CUDA", "libcuda.so.1"), ("TensorRT", "libnvinfer.so.10")):
        finding = here[f"onnxruntime {name}"]
        assert PROVIDERS[name] in listed
        assert (finding["status"], finding["facts"]["runs"]) == ("absent", False)
        assert f"there is no {library}" in finding["detail"]
    assert "cannot use TensorRT 11" in here["onnxruntime TensorRT"]["detail"]


@_no_driver
@_has_rtx
def test_without_a_gpu_rtx_engines_are_built_and_not_run(here) -> None:
    finding = here["tensorrt-rtx"]

    assert finding["status"] == "limited"
    assert (finding["facts"]["builds"], finding["facts"]["runs"]) == (True, False)
    assert "SM89" in finding["facts"]["targets"]
    assert here["this machine"]["facts"]["builds"] == ["ONNX", "TensorRT-RTX engines"]


@_no_driver
def test_every_way_to_find_a_gpu_says_why_it_found_none(here) -> None:
    assert here["gpu"]["status"] == "absent"
    assert all(f"{source}: " in here["gpu"]["detail"] for source in ("NVML", "cuda-python", "torch"))


def test_what_is_said_to_run_here_is_what_bench_runs_here(here) -> None:
    from bench.trials import available_backends

    words = {"PyTorch": "pytorch", "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "TensorRT": "tensorrt"}
    runs = {next(words[word] for word in words if each.startswith(word)) for each in _runs(here)}

    available = {name for name, reason in available_backends().items() if not reason}

    assert {"pytorch", "onnxruntime"} <= runs <= available
    # Bench looks for the driver alone, and tells the rest as a failed trial; a variety runs where its kind does.
    assert {name.partition("-")[0] for name in available} - runs <= {"tensorrt"}


def _runs(here: Mapping[str, Any]) -> list[str]:
    runs: list[str] = here["this machine"]["facts"]["runs"]
    return runs


def test_the_precision_of_training_is_the_one_that_training_chooses(here) -> None:
    import torch

    from train.precision import resolved_precision

    chosen = resolved_precision("auto", torch.device("cpu"))

    assert here["torch"]["facts"]["bf16_on_cpu"] == (chosen == "bf16")
    assert f"trains on this CPU in {'bf16' if chosen == 'bf16' else 'float32'}" in here["torch"]["detail"]


def test_every_question_has_a_probe_and_every_dependency_a_question() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[><=;]", line, maxsplit=1)[0].strip() for line in project["dependencies"]}

    assert {question[0] for question in QUESTIONS.values()} == PROBES.keys()
    assert needed - {"onnxruntime-gpu"} == CORE_MODULES.keys() | {"torch", "torchvision", "onnxruntime"}


_BROKEN: dict[str, tuple[str, str]] = {
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal SIGSEGV"),
    "hangs": ("import time; time.sleep(60)", "gave no answer within 3 s and was ended"),
    "hangs deaf": (
        "import signal, time\nfor each in (signal.SIGTERM, signal.SIGINT): signal.signal(each, signal.SIG_IGN)\n"
        "time.sleep(60)",
        "gave no answer within 3 s and was ended",
    ),
    "leaves": ("print('bye', flush=True); raise SystemExit(3)", "ended with exit code 3: bye"),
    "leaves as if well": ("raise SystemExit", "ended with exit code 0"),
    "lacks a library": ("raise OSError('libfoo.so.1: cannot open')", "OSError: libfoo.so.1: cannot open"),
    "lacks a package": ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "says it in lines": (r"raise RuntimeError('first\nsecond')", "RuntimeError: first\nsecond"),
}

PutLibrary = Callable[..., Path]


@pytest.fixture
def put_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PutLibrary:
    """Return a function that puts a library where the doctor's processes find it before the real one."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(_ROOT)]))

    def put(name: str, content: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(content, encoding="utf-8")
        return path

    return put


def _asked(*question: str, limit_s: float = 60.0) -> Answer:
    return answers_to({"it": question}, at_once=1, limit_s=limit_s, progress=SILENT)["it"]


@pytest.mark.parametrize("how", _BROKEN)
def test_a_library_that_does_not_import_is_an_answer_in_words(put_library: PutLibrary, how: str) -> None:
    content, words = _BROKEN[how]
    put_library("patient", content)

    answer = _asked("module", "patient", limit_s=3.0 if "hangs" in how else 60.0)

    assert not answer.ok
    assert not answer.absent
    assert words in answer.failure


def test_a_library_that_is_not_there_is_absent_not_broken() -> None:
    answer = _asked("module", "not_there_at_all")

    assert answer.absent
    assert not answer.failure


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)"], ids=["crash", "hang"])
def test_a_noisy_library_that_does_not_end_well_has_answered_all_the_same(put_library: PutLibrary, end: str) -> None:
    put_library(
        "patient",
        f"import atexit, os, signal, time\nprint('{{', flush=True)\natexit.register(lambda: {end})\n__version__ = '7'",
    )

    answer = _asked("module", "patient", limit_s=10.0)

    assert answer.ok, answer
    assert answer.facts == {"version": "7"}
    assert answer.log == "{"


def test_an_old_tensorrt_is_refused_with_what_to_install(put_library: PutLibrary) -> None:
    put_library("tensorrt", "__version__ = '10.9.0'")

    answer = _asked("flavour", "tensorrt")

    assert answer.failure == "tensorrt 10.9.0 is too old; 11 or newer is needed."
    assert "make setup GPU=1" in answer.remedy


_NVML = """
from types import SimpleNamespace
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=24 * 2**30)
def nvmlDeviceGetCudaComputeCapability(handle): return [(12, 0), (8, 9)][handle]
def nvmlDeviceGetName(handle): return f"GPU {handle}"
def nvmlSystemGetDriverVersion(): return "580.95.05"
def nvmlSystemGetCudaDriverVersion(): return 13010
"""


def test_what_nvml_tells_is_read(put_library: PutLibrary) -> None:
    put_library("pynvml", _NVML)

    facts = _asked("nvml").facts

    assert (facts["driver"], facts["cuda"]) == ("580.95.05", "13.1")
    assert [each["architecture"] for each in facts["devices"]] == ["SM120", "SM89"]
    assert facts["devices"][1] == {"name": "GPU 1", "memory_bytes": 24 * 2**30, "architecture": "SM89"}


def test_a_hanging_library_does_not_keep_the_others_waiting(put_library: PutLibrary, tmp_path: Path) -> None:
    put_library("patient", "import time; time.sleep(60)")
    put_library("sound", "")
    questions = {"hangs": ("module", "patient"), **{f"sound {i}": ("module", "sound") for i in range(3)}}

    answers = answers_to(questions, at_once=2, limit_s=5.0, progress=SILENT)

    assert {name: answer.ok for name, answer in answers.items()} == {name: name != "hangs" for name in questions}
    assert list(answers)[-1] == "hangs"


def test_the_doctor_examines_on_when_libraries_crash_even_the_one_that_draws_its_table(put_library: PutLibrary) -> None:
    put_library("openvino", "import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    put_library("rich", "raise ImportError('no colours today')")
    put_library("pydantic", "raise ImportError('no models either')")

    code, shown = _on_a_terminal(_DOCTOR)

    assert code == 1
    assert "Traceback" not in shown
    rows = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert [name for name in _COMPONENTS[:-1] if name not in rows] == []
    assert "ended by signal SIGABRT" in rows["openvino"]
    assert "pip install --force-reinstall --no-deps openvino -c constraints.txt" in rows["openvino"]
    assert "ImportError: no colours today" in rows["rich"]
    assert "ImportError: no models either" in rows["pydantic"]
    assert f"{len(CORE_MODULES) - 2} of {len(CORE_MODULES)} import" in rows["core packages"]
    last = shown.splitlines()[-1]
    assert last.startswith("This machine builds: ONNX")
    assert "ONNX Runtime (CPU" in last
    assert "OpenVINO" not in last


def _on_a_terminal(command: list[str]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # the terminal is gone with the process
    finally:
        os.close(ours)
    return process.wait(), shown.decode()


def test_an_interrupted_doctor_leaves_no_process_and_no_file(put_library: PutLibrary, tmp_path: Path) -> None:
    started, temporary = tmp_path / "started", tmp_path / "temporary"
    temporary.mkdir()
    put_library(
        "torch",
        f"import os, pathlib, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(60)",
    )
    environment = os.environ | {"TMPDIR": str(temporary)}
    process = subprocess.Popen(_DOCTOR, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (started.is_file() and started.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert "Interrupted" in said
    assert not Path("/proc", started.read_text()).exists()
    assert list(temporary.iterdir()) == []


def test_weights_in_torchs_cache_are_held_to_the_hash_in_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
    folder = tmp_path / "torch home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"half a download")

    *_, resnet, vgg = torch_findings({"torch": Answer(failure="x"), "torchvision": _asked("imagenet")}, bf16=True)

    assert (resnet.status, vgg.status) == ("broken", "absent")
    assert "another file than its name says" in resnet.detail
    assert f"curl -fL --create-dirs -o '{folder}/vgg16-397923af.pth' https://" in vgg.remedy
