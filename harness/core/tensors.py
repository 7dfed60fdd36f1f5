"""Named tensors in a safetensors file, with a full disk reported as one.

The native writer turns the operating system's error number into words of its own class; here it becomes an OSError
again, so that one place (harness/core/files.py) explains it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.files import is_disk_full

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file; raise OSError where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
        path.chmod(0o666 & ~_umask())  # The native writer creates files for their owner only.
    except SafetensorError as error:
        number = errno.ENOSPC if is_disk_full(error) else errno.EIO
        raise OSError(number, str(error), str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
