"""The errors a user can do something about.

    HarnessError            1   the family; caught in one place, the command line
    ├── UsageError          2   the request itself is wrong: unknown case, options that exclude each other
    ├── DataError           1   images, folders, manifests
    ├── ArtifactError       1   a file does not hold what its sidecar says, or cannot be written
    ├── RunError            1   a run directory belongs to another experiment, is not finished, or is in use
    ├── ExportError         1   the exporter, the ONNX parser or an engine builder refused
    └── BackendError        1   a runtime cannot load or execute an artifact

The number is the exit code. Anything that is not a HarnessError is a bug and keeps its traceback.
Exit code 3 (a verdict failed) is a result, not an error, so it has no class here.
"""

from __future__ import annotations


class HarnessError(Exception):
    """What went wrong, and what to do about it."""

    exit_code = 1

    # The hint has a default only because torch's loader processes rebuild an error from its message alone.
    def __init__(self, message: str, *, hint: str = "See the message.") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HarnessError):
    """The request itself is wrong."""

    exit_code = 2


class DataError(HarnessError):
    """Images, folders or manifests are not usable."""


class ArtifactError(HarnessError):
    """A file is missing, does not match its sidecar, or cannot be written."""


class RunError(HarnessError):
    """A run directory belongs to another experiment, is not finished, or is in use."""


class ExportError(HarnessError):
    """A conversion was refused by the exporter, the parser or the builder."""


class BackendError(HarnessError):
    """A runtime cannot load or execute an artifact."""
