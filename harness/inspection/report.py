"""What was found out about one file, for people and for machines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ArtifactError, HarnessError

_LABEL_WIDTH = 16
_LINE_WIDTH = 100
SHORT_HASH = 12  # Hexadecimal digits that tell hashes apart to people.


@dataclass(frozen=True, kw_only=True)
class Section:
    """One side of a file: `facts` for JSON, `rows` of label and text, `findings` where something disagrees."""

    facts: Mapping[str, Any]
    rows: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()


NOTHING = Section(facts={})


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One file. `hint` says what to do about its findings; without findings the file is sound, as far as told."""

    path: Path
    sections: Mapping[str, Section]
    hint: str
    failure: str | None = None  # Where the file could not be inspected at all.

    @property
    def findings(self) -> tuple[str, ...]:
        found = tuple(finding for section in self.sections.values() for finding in section.findings)
        return found if self.failure is None else (*found, self.failure)

    @property
    def error(self) -> HarnessError | None:
        """The findings as the one error that decides the exit code."""
        if not self.findings:
            return None
        first, more = self.findings[0], len(self.findings) - 1
        named = first if first.startswith(str(self.path)) else f"{self.path}: {first}"
        return ArtifactError(named + (f" (and {more} more)" if more else ""), hint=self.hint)

    def lines(self) -> list[str]:
        """Return what is printed: facts by label, then one line for each finding."""
        rows = [row for section in self.sections.values() for row in section.rows]
        rows += [("FINDING", finding) for finding in self.findings]
        return [str(self.path), *(line for label, text in rows for line in _wrapped(label, text))]

    def summary(self) -> dict[str, Any]:
        """The same for machines, with all keys in every case."""
        names = ("file", "sidecar", "content", "contract", "passport", "parents")
        sections = {name: dict(self.sections.get(name, NOTHING).facts) or None for name in names}
        return {"path": str(self.path), **sections, "findings": list(self.findings)}


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        width=_LINE_WIDTH,
        initial_indent=f"  {label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * (_LABEL_WIDTH + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
