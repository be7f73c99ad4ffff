"""Prints the worst cells at the end of the run."""

from __future__ import annotations

from typing import Any

from tests.sim.grid import worst


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = list(worst())
    if lines:
        terminalreporter.section("simulation: the worst cell of each pattern")
        for line in lines:
            terminalreporter.write_line(line)
