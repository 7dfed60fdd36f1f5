"""The words of TensorRT: its log, its parser's errors, and what becomes of both where something is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

from harness.core.errors import ExportError
from harness.core.tensorrt_flavour import gpu_driver_present

# On a machine without a driver, every message drags this complaint along; an RTX build needs no driver.
_NO_DRIVER_NOISE = "cudaError 35"


@cache  # TensorRT keeps the first logger of a process while anything uses it, and ignores the later ones.
def kept_log(trt: Any) -> Any:
    """Return the logger of this process; `lines` are its warnings and errors, to be cleared before each build."""

    class KeptLog(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            self.lines: list[str] = []
            trt.ILogger.__init__(self)  # The binding insists on the base class being called by name.

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                self.lines.append(f"{severity.name}: {message}")

    return KeptLog()


def parser_words(parser: Any, lines: list[str]) -> list[str]:
    """Return every error of the parser, each with its node.

    The log's `lines` repeat them at length; only where no node is to blame do they tell more, as the name of a file
    of weights that is missing.
    """
    words, nodes = [], 0
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        operator = parser_error.node_operator()
        nodes += bool(operator)
        place = f" at node {parser_error.node_name()!r} (operator {operator})" if operator else ""
        words.append(f"{parser_error.code().name}{place}: {parser_error.desc()}")
    return words if nodes else [*words, *lines]


def without_noise(lines: list[str]) -> list[str]:
    """Return the lines without what only says that there is no driver, where there is none."""
    if gpu_driver_present():
        return list(lines)
    kept = ("\n".join(part for part in line.splitlines() if _NO_DRIVER_NOISE not in part) for line in lines)
    return [line for line in kept if line.strip()]


def refused(message: str, lines: list[str], hint: str) -> ExportError:
    """Return the error that says `message` and shows TensorRT's own lines below it."""
    # The noise is all there is where the missing driver is the very cause.
    told = without_noise(lines) or lines
    return ExportError("\n  ".join([message + ("." if not told else ":"), *told]), hint=hint)
