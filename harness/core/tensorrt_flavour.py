"""Which TensorRT: `tensorrt` (data-centre and desktop GPUs) or `tensorrt_rtx` (GeForce RTX and its kin).

Both export the same Python names for what this project does, so one builder and one backend serve both. The choice
is made here, once, and passed on; nothing reads an environment variable.
"""

from __future__ import annotations

import ctypes
import importlib
from types import ModuleType
from typing import Literal

from harness.core.errors import BackendError
from harness.core.interrupts import interrupts_held
from harness.core.tensorrt_names import missing_names

Flavour = Literal["tensorrt", "rtx"]
_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_REMEDIES: dict[Flavour, str] = {
    "tensorrt": "Install the extra: `make setup GPU=1` (tensorrt and cuda-python), on a machine with an NVIDIA GPU.",
    "rtx": "Install the extra: `pip install -e '.[rtx]' -c constraints.txt` (Linux or Windows on x86-64).",
}
# Built strongly typed everywhere; TensorRT 10 and older still need flags that 11 removed.
_LOWEST_MAJOR: dict[Flavour, int] = {"tensorrt": 11, "rtx": 1}


def imported_flavour(flavour: Flavour) -> ModuleType:
    """Return the flavour's module; raise BackendError in words where it is absent, broken, too old or too new."""
    try:
        with interrupts_held():
            module = importlib.import_module(_MODULES[flavour])
    except (ImportError, OSError) as error:
        raise BackendError(f"{_MODULES[flavour]} cannot be imported: {error}.", hint=_REMEDIES[flavour]) from error
    if int(module.__version__.split(".")[0]) < _LOWEST_MAJOR[flavour]:
        raise BackendError(
            f"{_MODULES[flavour]} {module.__version__} is too old; {_LOWEST_MAJOR[flavour]} or newer is needed.",
            hint=_REMEDIES[flavour],
        )
    if missing := missing_names(module, flavour):
        raise BackendError(
            f"{_MODULES[flavour]} {module.__version__} is another than this project knows: it lacks "
            f"{', '.join(missing)}.",
            hint=_REMEDIES[flavour],
        )
    return module


def gpu_driver_present() -> bool:
    """Tell whether NVIDIA's driver library can be loaded, which is the least that any GPU work needs."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def chosen_flavour(requested: Flavour | Literal["auto"]) -> Flavour:
    """Resolve `auto`: TensorRT where a GPU driver and its libraries are, else TensorRT-RTX, which builds anywhere.

    Raises BackendError where the chosen flavour cannot be used here.
    """
    if requested == "auto":
        try:
            if gpu_driver_present():
                imported_flavour("tensorrt")
                return "tensorrt"
        except BackendError:
            pass  # A GPU without TensorRT's libraries: TensorRT-RTX is the next best.
        requested = "rtx"
    imported_flavour(requested)
    if requested == "tensorrt" and not gpu_driver_present():
        raise BackendError(
            "TensorRT builds engines only on the GPU they will run on, and there is no NVIDIA driver here.",
            hint="Build on the target machine, or build for RTX GPUs here with `--flavour rtx`.",
        )
    return requested
