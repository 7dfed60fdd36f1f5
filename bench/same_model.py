"""Is the model of this process the one that was judged in another? It must run as asked, and answer as that one did.

Shapes: b images, c classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.backends.interface import Description
from harness.core.errors import BackendError

# The same file in the same runtime on the same machine: what differs by more is not the model that was proved.
_LARGEST_DIFFERENCE = 1e-3


def check_as_asked(description: Description) -> None:
    """Raise BackendError where a loaded model runs otherwise than it was asked to."""
    if description.departures:
        raise BackendError(
            f"A second process of the same model runs otherwise: {'; '.join(description.departures)}.",
            hint="What was judged is not what would be timed. Is another program holding threads or memory?",
        )


def check_same_answers(given_bc: npt.NDArray[np.floating], wanted_bc: npt.NDArray[np.floating]) -> float:
    """Return the largest difference; raise BackendError where that is more than rounding, or NaN."""
    difference = np.inf
    if given_bc.shape == wanted_bc.shape:
        difference = float(np.nan_to_num(np.abs(given_bc - wanted_bc), nan=np.inf).max())
    if not difference <= _LARGEST_DIFFERENCE * (1 + float(np.abs(wanted_bc).max())):
        raise BackendError(
            f"A second process of the same model answers otherwise than the one that was judged: by {difference:.2g}.",
            hint="Its verdict holds for no process but one: look for memory that is used after it was freed, or judge "
            "again with `harness bench --force`.",
        )
    return difference
