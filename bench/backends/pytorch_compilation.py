"""torch.compile of one network for one shape, and the proof of what was compiled.

Where torch cannot follow the Python of a network it leaves that part to eager without a word, so the whole network has
to become one graph or it is refused (`fullgraph`). Left alone, inductor also starts processes that stay alive beside
what is timed; here it compiles in this one. No CUDA graph is recorded, which would be mode "reduce-overhead".
"""

from __future__ import annotations

from typing import Any

from harness.core.errors import BackendError

_HINT = "Try `--backend pytorch`; what torch.compile printed is in the trial's log."


class Compilation:
    """A compiled network that was called once; `words` is what became of it."""

    def __init__(self, network: Any, example_bchw: Any) -> None:
        """Compile for the example, which is to be the very tensor of later calls.

        One of the same shape that was made in inference mode would be compiled for again. Raises BackendError where
        compiling fails or the network does not become one graph.
        """
        import torch
        from torch._dynamo.utils import counters

        torch._inductor.config.compile_threads = 1
        before, operations_before = self._graphs(counters), counters["stats"]["calls_captured"]
        self._counters = counters
        compile_network: Any = torch.compile  # Untyped, as far as its arguments go.
        self.network = compile_network(network, backend="inductor", fullgraph=True, dynamic=False)
        try:
            with torch.inference_mode():
                self.network(example_bchw)
        # What dynamo and inductor raise is all of this family: a graph break, no compiler, one that fails.
        except RuntimeError as error:
            raise BackendError(f"torch.compile failed: {error}", hint=_HINT) from error
        self._made = self._graphs(counters) - before
        operations = counters["stats"]["calls_captured"] - operations_before
        self.words = f"torch.compile (inductor; {self._made} graph of {operations} operations)"

    def departures(self) -> list[str]:
        """Return where not all of the network runs in the one graph that it was compiled to."""
        found = [] if self._made == 1 else [f"torch.compile made {self._made} graphs, asked for one"]
        return found + [f"torch.compile left a part to eager: {reason}" for reason in self._counters["graph_break"]]

    @staticmethod
    def _graphs(counters: Any) -> int:
        return int(counters["stats"]["unique_graphs"])
