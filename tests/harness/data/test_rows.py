"""Groups that share a film are one group, however long the chain; reading itself is tested where data sets are made."""

from __future__ import annotations

import itertools

import pytest

from harness.data.manifest import ManifestRow
from harness.data.rows import with_merged_groups


def _row(group: str, sha256: str) -> ManifestRow:
    return ManifestRow(
        path=f"a/{group}-{sha256}.png",
        class_name="a",
        split="train",
        group=group,
        sha256=sha256,
        width=1,
        height=1,
        mode="L",
    )


# p1 = p2 by film x, p2 = p3 by film y; p4 stands alone.
_CHAIN = [_row("p1", "x"), _row("p2", "x"), _row("p2", "y"), _row("p3", "y"), _row("p3", "z"), _row("p4", "w")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_groups_that_share_films_in_a_chain_are_one_group_in_any_order(order: tuple[int, ...]) -> None:
    rows = [_CHAIN[index] for index in (*order, 4, 5)]

    merged = with_merged_groups(rows)

    assert [row.path for row in merged] == [row.path for row in rows]
    assert {row.group for row in merged if row.sha256 != "w"} == {"p1"}
    assert [row.group for row in merged if row.sha256 == "w"] == ["p4"]


def test_groups_without_a_film_in_common_stay_as_they_are() -> None:
    rows = [_row("p1", "x"), _row("p1", "y"), _row("p2", "z")]

    assert with_merged_groups(rows) == rows
