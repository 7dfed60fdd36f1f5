"""What an engine needs of a GPU's memory, whichever library reaches it: two bodies, cuda-python and pycuda.

cuda-python is the default: a wheel that torch brings along. pycuda is used where it is asked for, or is the only one.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy.typing as npt

from bench.availability import is_installed
from harness.core.errors import BackendError

if TYPE_CHECKING:
    from bench.backends.cuda_memory import CudaMemory

Body = Literal["cuda-python", "pycuda"]
_PYCUDA = (
    "Install the extra: `pip install -e '.[pycuda]' -c constraints.txt`; it is built from source, with a CUDA toolkit."
)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One tensor twice: page-locked host memory seen as an array, and its place on the device.

    `host_address` is the array's. Asking numpy for it at every copy took 23 us, within what is timed.
    """

    host: npt.NDArray[Any]
    host_address: int
    device_address: int


class DeviceMemory(Protocol):
    """One stream, the memory of the tensors, and two events; every call is checked and raises BackendError.

    Nothing that is enqueued waits: `synchronise` does. `close` releases everything, and may be repeated.
    """

    library: str
    stream_handle: int

    def transfer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Transfer: ...

    def copy_to_device(self, memory: Transfer) -> None: ...

    def copy_to_host(self, memory: Transfer) -> None: ...

    def synchronise(self) -> None: ...

    def mark_start(self) -> None: ...

    def mark_end(self) -> None: ...

    def elapsed_s(self) -> float: ...

    def used_bytes(self) -> int: ...

    def device_name(self) -> str: ...

    def compute_capability(self) -> str: ...

    def close(self) -> None: ...


def chosen_body(asked: Body | None) -> Body:
    """Return the library to use: the one asked for, else cuda-python unless pycuda alone is installed."""
    if asked is not None:
        return asked
    return "pycuda" if is_installed("pycuda") and not is_installed("cuda.bindings") else "cuda-python"


def opened_memory(asked: Body | None = None) -> DeviceMemory:
    """Return memory on the first GPU; raise BackendError where its library or the GPU is not there."""
    return memory_through_pycuda() if chosen_body(asked) == "pycuda" else memory_through_cuda_python()


def memory_through_cuda_python() -> CudaMemory:
    """Return memory through cuda-python, which can also record CUDA graphs."""
    from bench.backends.cuda_memory import CudaMemory

    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(
            f"cuda-python cannot be imported: {error}.", hint="Install the extra: `make setup GPU=1`."
        ) from error
    return CudaMemory(runtime)


def memory_through_pycuda() -> DeviceMemory:
    """Return memory through pycuda, in the GPU's primary context, which torch and TensorRT use too."""
    from bench.backends.pycuda_memory import PycudaMemory

    try:
        driver = importlib.import_module("pycuda.driver")
        try:
            # Not pycuda.autoinit, which makes a context of its own: torch and TensorRT would lose theirs.
            importlib.import_module("pycuda.autoprimaryctx")
        except (driver.Error, RuntimeError) as error:
            raise BackendError(f"pycuda reaches no GPU: {error}.", hint="Check the GPU with `nvidia-smi`.") from error
    except ImportError as error:
        raise BackendError(f"pycuda cannot be imported: {error}.", hint=_PYCUDA) from error
    return PycudaMemory(driver)
