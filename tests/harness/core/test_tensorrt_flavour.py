"""Which TensorRT is chosen, and what is said where it is not there."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from harness.core.errors import BackendError
from harness.core.tensorrt_flavour import chosen_flavour, gpu_driver_present, imported_flavour

_HAS_RTX = util.find_spec("tensorrt_rtx") is not None
_HAS_TENSORRT = util.find_spec("tensorrt") is not None


@pytest.mark.skipif(not _HAS_RTX, reason="the extra `rtx` is not installed")
@pytest.mark.skipif(gpu_driver_present(), reason="this machine has a GPU")
def test_auto_without_a_gpu_is_rtx_which_builds_anywhere() -> None:
    assert chosen_flavour("auto") == "rtx"
    assert chosen_flavour("rtx") == "rtx"


@pytest.mark.skipif(not _HAS_RTX, reason="the extra `rtx` is not installed")
def test_the_module_of_a_flavour_is_the_library_itself() -> None:
    module = imported_flavour("rtx")

    assert module.__name__ == "tensorrt_rtx"
    assert hasattr(module, "Builder")


@pytest.mark.skipif(_HAS_TENSORRT, reason="TensorRT is installed")
def test_tensorrt_where_it_is_not_installed_is_refused_with_what_to_install() -> None:
    with pytest.raises(BackendError, match="tensorrt cannot be imported") as caught:
        chosen_flavour("tensorrt")

    assert "make setup GPU=1" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("__version__ = '10.9.0'", "tensorrt 10.9.0 is too old; 11 or newer is needed"),
        ("raise OSError('libnvinfer.so.11: cannot open shared object file')", "libnvinfer.so.11"),
        ("raise ImportError('no module named bindings')", "tensorrt cannot be imported"),
    ],
    ids=["too old", "libraries missing", "broken"],
)
def test_an_old_or_broken_tensorrt_is_refused_in_words(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "tensorrt.py").write_text(content, encoding="utf-8")
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom harness.core.errors import BackendError\n"
        "from harness.core.tensorrt_flavour import imported_flavour\n"
        "try:\n    imported_flavour('tensorrt')\nexcept BackendError as error:\n    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )

    assert words in done.stdout
