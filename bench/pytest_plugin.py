"""Parity in the tests of other repositories: `-p bench.pytest_plugin`, or `pytest_plugins` in the root conftest.

No entry point loads it, so that it is in nobody's way who has not asked. What it judges with is imported when a test
first uses it. docs/pytest.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.outcome import Outcome

_INI = "parity_margin"
_PROPERTY = "parity"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the one setting."""
    parser.addini(_INI, "largest acceptable loss of accuracy as a fraction (assert_parity)", default="0.01")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a margin that is none before any test runs."""
    _margin(config)


def _margin(config: pytest.Config) -> float:
    text = str(config.getini(_INI))
    try:
        margin = float(text)
    except ValueError:
        margin = 0.0
    if not 0 < margin < 1:
        raise pytest.UsageError(f"{_INI} is {text}: give a fraction, 0.01 is one percentage point.")
    return margin


@pytest.fixture
def assert_parity(request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    """Return `bench.asserting.assert_parity` with the margin of the ini file as its default."""
    from bench.asserting import Options, parity_outcome, require

    margin = _margin(request.config)

    def assert_parity(
        candidate: object, reference: object, images: object, labels: Any = None, **options: Any
    ) -> Outcome:
        __tracebackhide__ = True
        found = Options(**({"margin": margin} | options))
        outcome = parity_outcome(candidate, reference, images, labels, found)
        # Properties travel with reports, so that the summary is whole under pytest-xdist and JUnit files have it too.
        request.node.user_properties.append((_PROPERTY, outcome.summary))
        require(outcome, found)
        return outcome

    return assert_parity


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each assertion's verdict and figures."""
    lines: dict[str, list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            # A test has a report for each of its phases; the last knows what all of them found.
            if isinstance(report, pytest.TestReport):
                found = [str(value) for name, value in report.user_properties if name == _PROPERTY]
                lines[report.nodeid] = max(lines.get(report.nodeid, []), found, key=len)
    if any(lines.values()):
        terminalreporter.section("parity")
        for nodeid, found in lines.items():
            for line in found:
                terminalreporter.line(f"{nodeid}  {line}")
