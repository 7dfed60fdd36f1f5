"""Where ONNX Runtime says that it ran, and what follows; the session is a stand-in, no other provider is here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.backends.onnx_runtime import OnnxRuntime


def _departures(assignment: list[tuple[str, int]]) -> list[str]:
    backend = object.__new__(OnnxRuntime)
    groups = [
        SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [object()] * count) for name, count in assignment
    ]
    backend._session = SimpleNamespace(
        get_provider_graph_assignment_info=lambda: groups,
        get_session_options=lambda: SimpleNamespace(intra_op_num_threads=2),
        get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
    )
    backend._threads, backend._version, backend._precision = 2, "1", "fp32"
    return backend.describe().departures


@pytest.mark.parametrize(
    ("assignment", "departures"),
    [
        ([("CPUExecutionProvider", 3)], []),
        (
            [("CPUExecutionProvider", 3), ("XnnpackExecutionProvider", 2), ("XnnpackExecutionProvider", 4)],
            ["6 nodes ran on XnnpackExecutionProvider, asked for CPUExecutionProvider"],
        ),
        ([], ["ONNX Runtime does not tell where its nodes ran, asked for CPUExecutionProvider"]),
    ],
)
def test_the_assignment_record_must_say_that_every_node_ran_where_it_was_asked_to(
    assignment: list[tuple[str, int]], departures: list[str]
) -> None:
    assert _departures(assignment) == departures
