"""The loop of every process that the bench starts: requests on stdin, a line of JSON each, and replies on stdout.

What libraries print goes to stderr, which the coordinator keeps as the process's log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from bench.messages import Failed
from harness.core.errors import HarnessError


class Served(Protocol):
    """What lives from request to request."""

    def close(self) -> None: ...


_Model = TypeVar("_Model", bound=Served)
# Given a request and what the first one made, returns that and a reply.
Replier = Callable[[dict[str, Any], _Model | None], tuple[_Model | None, str]]


def serve(reply_to_request: Replier[_Model]) -> None:
    """Serve requests until stdin closes; a HarnessError is a reply, anything else ends the process."""
    # Ctrl-C reaches the whole process group; the coordinator decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        model: _Model | None = None
        for line in sys.stdin:
            try:
                model, reply = reply_to_request(json.loads(line), model)
            except HarnessError as error:
                reply = json.dumps({"failed": Failed(message=error.message, hint=error.hint).model_dump()})
            replies.write(reply + "\n")
            replies.flush()
        if model is not None:
            model.close()
