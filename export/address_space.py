"""The same addresses in every process, for a library that writes other bytes at other addresses.

Run as a program (`python -P -m export.address_space MODULE`) it becomes MODULE without address randomisation: Linux
only, and only where personality(2) is allowed, which the usual seccomp filter of containers does not.
What else moves addresses, and why all of it is fixed here: docs/decisions/0012-engines-in-a-child-process.md.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import Literal

Randomisation = Literal["on", "off"]
_ADDR_NO_RANDOMIZE = 0x0040000  # sys/personality.h
_ASK = 0xFFFFFFFF
# The kernel maps libraries and heaps below the largest stack, so that another limit means other addresses.
_STACK_BYTES = 8 << 20
# Orders to the allocator; locales, whose archive is mapped at start; where Python keeps what it compiled.
_MOVES_ADDRESSES = ("GLIBC_TUNABLES", "MALLOC_", "LANG", "LC_", "PYTHONPYCACHEPREFIX")
_FIXED = {
    # A thread's cache also keeps chunks of other threads' heaps that it freed. With it, engines differed most of all.
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
}


def command_at_fixed_addresses(module: str) -> list[str]:
    """Return the command that runs `module` at the same addresses each time, where this machine can do that."""
    launcher = ["export.address_space"] if sys.platform == "linux" else []
    return [sys.executable, "-P", "-m", *launcher, module]


def randomisation() -> Randomisation:
    """Tell whether the addresses of this very process are drawn by chance."""
    if sys.platform != "linux":
        return "on"
    persona = _personality(_ASK)
    return "off" if persona >= 0 and persona & _ADDR_NO_RANDOMIZE else "on"


def _personality(persona: int) -> int:
    """Set what this process and the next program in it are like; return what was, or -1 where that is refused."""
    call = ctypes.CDLL(None).personality
    call.argtypes, call.restype = [ctypes.c_ulong], ctypes.c_int
    return int(call(persona))


def _fix_the_stack_limit() -> None:
    _, hard_limit_bytes = resource.getrlimit(resource.RLIMIT_STACK)
    allowed = hard_limit_bytes == resource.RLIM_INFINITY or hard_limit_bytes >= _STACK_BYTES
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES if allowed else hard_limit_bytes, hard_limit_bytes))


def main() -> None:
    """Become the module that the one argument names; where randomisation cannot be switched off, it can ask."""
    # Inherited: Ctrl-C reaches the whole process group, and the parent decides what becomes of its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    (module,) = sys.argv[1:]
    persona = _personality(_ASK)
    if persona >= 0:
        _personality(persona | _ADDR_NO_RANDOMIZE)
    _fix_the_stack_limit()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_MOVES_ADDRESSES)}
    command = [sys.executable, "-P", "-m", module]
    os.execve(sys.executable, command, environment | _FIXED)  # noqa: S606  # our own interpreter, and no shell is meant


if __name__ == "__main__":
    main()
