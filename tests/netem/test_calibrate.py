"""Calibration: real programs over a real path, and when runs on it are not to be believed."""

from __future__ import annotations

import shutil

import pytest
from dsm_netem import calibrate as calibration
from dsm_netem.calibrate import Calibration, Figure, calibrate
from dsm_netem.profiles import profile

TRIES = 4


def figure(measured: float, allowed: float | None) -> Figure:
    return Figure("TCP goodput", "Mbit/s", 100.0, measured, allowed)


@pytest.mark.parametrize(
    ("measured", "allowed", "reasons"),
    [
        (97.1, 3.0, ()),
        (96.9, 3.0, ("TCP goodput is off",)),
        (103.1, 3.0, ("TCP goodput is off",)),
        (20.0, None, ()),
    ],
)
def test_a_figure_that_is_off_makes_it_invalid(measured, allowed, reasons):
    done = Calibration("metro", "tun", (figure(measured, allowed),), ())
    assert done.verdict.reasons == reasons


def test_a_late_emulator_makes_it_invalid():
    assert not Calibration("metro", "tun", (figure(100.0, 3.0),), ("late",)).verdict.valid


@pytest.fixture
def quick(wan, monkeypatch):
    wan("metro").close()  # skips where namespaces are not permitted
    for tool, package in calibration.TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: package {package}")
    for name, less in {"PINGS": 5, "DATAGRAMS": 10_000}.items():
        monkeypatch.setattr(calibration, name, less)


def test_a_path_is_as_it_was_asked_for(quick):
    asked = profile("metro", rate_bps=100e6, rtt_s=0.02, queue_bdp=2.0)
    for _ in range(TRIES):
        done = calibrate(asked, measure_s=3.0)
        if done.verdict.valid:
            break
    assert done.verdict.valid, done
    judged = [figure.name for figure in done.figures if figure.allowed is not None]
    assert judged == ["idle RTT, median", "loss", "TCP goodput"]


def test_a_few_losses_are_looked_for_among_millions_of_segments(quick):
    asked = profile("metro", loss=0.001, rate_bps=50e6)
    for _ in range(TRIES):
        figures = {figure.name: figure for figure in calibrate(asked, measure_s=1.0).figures}
        (name,) = (name for name in figures if name.endswith("segments"))
        if figures[name].good:
            break
    assert figures[name].good
    assert figures[name].allowed < figures["loss"].allowed
