"""One line of what the doctor says, and the words that several lines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.doctor.child import Answer

# ok: works. limited: a part of it does. absent: not installed, or not in this machine. broken: there, and fails.
Status = Literal["ok", "limited", "absent", "broken"]
_DETAIL_CHARACTERS = 240


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`required`: the project does not work without it. `facts` is what a program reads instead of `detail`."""

    component: str
    status: Status
    detail: str
    remedy: str = ""
    required: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> list[str]:
        return [self.component, self.status, self.detail, self.remedy]

    def summary(self) -> dict[str, Any]:
        return {
            "component": self.component,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
            "required": self.required,
            "facts": dict(self.facts),
        }


def finding_from_failure(
    component: str, answer: Answer, *, install: str, distribution: str, required: bool = False
) -> Finding:
    """Say that a library is not installed (`install` is the command that adds it), or how it failed."""
    if answer.absent:
        return Finding(component=component, status="absent", detail="not installed", remedy=install, required=required)
    return Finding(
        component=component,
        status="broken",
        detail=shortened(answer.failure),
        remedy=answer.remedy or reinstall(distribution),
        required=required,
        facts={"failure": answer.failure},
    )


def reinstall(distribution: str) -> str:
    return f"pip install --force-reinstall --no-deps {distribution} -c constraints.txt"


def shortened(text: str) -> str:
    """Return one line that a table can hold."""
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS else f"{line[:_DETAIL_CHARACTERS]}..."


def size_text(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
