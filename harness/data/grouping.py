"""Which films belong together: those of one patient must stay in one split.

The default reads file names. NIH names are PATIENT_FOLLOWUP. The covid films are named after papers and case
reports, where day, figure, part and view are told apart by suffixes: these are stripped one after another. Where
two patients share a paper this groups too much, which costs nothing but balance; grouping too little would leak.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import DataError, UsageError

GroupOf = Callable[[Path], str]

_NIH_NAME = re.compile(r"^(?P<patient>\d{8})_\d{3}$")
_PAPER_PAGE = re.compile(r"(?P<paper>\.pdf)-\d{3}$", re.IGNORECASE)
_SUFFIXES = re.compile(
    r"""[-_.]+ (?:
        (?: \d+ - )? (?: day | days | hours | hour ) s?            # 3-days, 12-hours
      | day -? \d+ | admission                                     # day6, day-1
      | (?: fig | figure | gr | fx | f | g ) -? \d+ [a-z]? \d?     # fig5, gr2, f1a, g001
      | [a-z] \d?                                                  # part: a, b2, l, m
      | (?: lrg | html | webp | annot | original )                 # what a publisher's site appends
      | (?: pa | ap | lateral | left | right )                     # view
    )$""",
    re.IGNORECASE | re.VERBOSE,
)
_CASE_LETTER = re.compile(r"(?<=\d)[a-z]$")


def default_group(path: Path) -> str:
    """Return the patient (or paper) that a file name speaks of."""
    name = path.stem
    nih = _NIH_NAME.match(name)
    if nih:
        return nih["patient"]
    while True:
        shorter = _PAPER_PAGE.sub(r"\g<paper>", _SUFFIXES.sub("", name))
        if shorter == name or not shorter:
            break
        name = shorter
    # `case2a` and `case2b` are parts of one figure; a hexadecimal identifier is left alone.
    return _CASE_LETTER.sub("", name) if "case" in name.lower() else name


def group_from_regex(pattern: str) -> GroupOf:
    """Return a grouping by the first group of a regular expression (or the whole match) searched in the file name.

    Raises UsageError for a malformed pattern; the returned function raises DataError where it does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--group-regex {pattern!r} is not a regular expression: {error}.",
            hint=r"For names such as 00001234_002.png use '^(\d+)_'.",
        ) from error

    def group(path: Path) -> str:
        match = compiled.search(path.name)
        found = match and (match.group(1) if compiled.groups else match.group(0))
        if not found:  # An empty patient would tie all such films together.
            raise DataError(f"{path}: its name does not match --group-regex", hint="Widen the pattern.")
        return found

    return group


def group_from_csv(table: Path) -> GroupOf:
    """Return a grouping read from a CSV file with the columns `file` (name or relative path) and `group`.

    Raises DataError where the table is unusable; the returned function raises DataError for a file it lacks.
    """
    hint = "The table needs a header line with the columns file,group."
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}", hint=hint) from error
    if not rows or not {"file", "group"} <= set(rows[0]):
        raise DataError(f"{table} has no columns named file and group, or no rows.", hint=hint)
    groups: dict[str, str] = {}
    for row in rows:
        if groups.setdefault(row["file"], row["group"]) != row["group"]:
            raise DataError(f"{table} names {row['file']} twice, with different groups.", hint="Keep one of the rows.")

    def group(path: Path) -> str:
        for length in range(len(path.parts), 0, -1):
            found = groups.get("/".join(path.parts[-length:]))
            if found:
                return found
        raise DataError(f"{path}: not in the group table", hint=f"Add the file to {table}.")

    return group


def grouping_from_options(pattern: str | None, table: Path | None) -> GroupOf:
    """Return the grouping that the command line asks for; raise UsageError where it asks for two."""
    if pattern is not None and table is not None:
        raise UsageError("--group-regex and --groups exclude each other.", hint="Give one of them.")
    if pattern is not None:
        return group_from_regex(pattern)
    return default_group if table is None else group_from_csv(table)
