"""A part of the grid, small enough for every run of the tests; `make sim` is all of it."""

from __future__ import annotations

import pytest

from tests.sim.client import Path
from tests.sim.grid import (
    ON_DEMAND,
    TARGET,
    WASTE_RANDOM,
    Result,
    paths,
    run,
)
from tests.sim.patterns import PATTERNS
from tests.sim.tcp import Control

RTTS_S = (0.01, 0.08, 0.3)
RATES_BPS = (10e6, 100e6, 1e9)


@pytest.mark.parametrize("control", ["cubic", "bbr"])
def test_sequential_reads_are_as_fast_as_the_oracle(control: Control) -> None:
    for path in paths((control,), rtts_s=RTTS_S, rates_bps=RATES_BPS, losses=(0.0,)):
        result = run(path, PATTERNS["sequential"])
        assert result.of_oracle >= TARGET, result
        assert result.on_demand >= ON_DEMAND, result


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "sequential"])
def test_nothing_is_slower_than_on_demand(name: str) -> None:
    for path in small_grid(0.0):
        result = run(path, PATTERNS[name])
        assert result.on_demand >= ON_DEMAND, result
        _check_waste(result)


def small_grid(loss: float) -> list[Path]:
    return [Path(0.001, 100e6, loss), Path(0.01, 10e6, loss), Path(0.3, 1e9, loss)]


def _check_waste(result: Result) -> None:
    if result.pattern == "random":
        assert result.waste <= WASTE_RANDOM, result
