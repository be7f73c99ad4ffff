"""What `dsm-netem` shows: live statistics, verdicts, calibrations."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .calibrate import Calibration
from .profiles import Profile
from .wan import Wan

REFRESH_S = 0.5
console = Console(stderr=True)


@contextmanager
def watching(wan: Wan) -> Iterator[None]:
    """Live statistics while the command runs."""
    done = threading.Event()

    def show() -> None:
        before: dict[str, int] = {}
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not done.wait(REFRESH_S):
                live.update(_table(wan.statistics(), before), refresh=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _table(statistics: dict[str, Any], before: dict[str, int]) -> Table:
    table = Table(box=None)
    for heading in ("link", "Mbit/s", "queue kB", "lost", "dropped", "late p99 us"):
        table.add_column(heading, justify="right")
    late = str(statistics.get("lateness", {}).get("p99_us", "?"))
    for name, link in statistics.get("links", {}).items():
        bits = (link["out_bytes"] - before.get(name, link["out_bytes"])) * 8
        before[name] = link["out_bytes"]
        table.add_row(
            name,
            f"{bits / REFRESH_S / 1e6:.1f}",
            f"{link['queued_bytes'] / 1e3:.0f}",
            str(link["lost_packets"]),
            str(link["dropped_packets"]),
            late,
        )
    return table


def report(statistics: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(statistics, indent=2) + "\n")
    if statistics["valid"]:
        console.print("the run is valid", style="dim")
    else:
        reasons = "; ".join(statistics["invalid_because"])
        console.print(f"the run is INVALID, repeat it: {reasons}", style="yellow")


def print_calibration(done: Calibration) -> None:
    table = Table(title=f"{done.profile} on {done.backend}: {done.verdict}", box=None)
    for heading in ("figure", "asked", "measured", "deviation", "allowed", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in done.figures:
        table.add_row(
            f"{figure.name} ({figure.unit})",
            f"{figure.asked:.4g}",
            f"{figure.measured:.4g}",
            f"{figure.deviation:+.3g}",
            "" if figure.allowed is None else f"{figure.allowed:.3g}",
            "" if figure.allowed is None else "good" if figure.good else "OFF",
        )
    Console().print(table)


def plain_calibration(done: Calibration) -> dict[str, Any]:
    figures = [
        {
            "name": figure.name,
            "unit": figure.unit,
            "asked": figure.asked,
            "measured": figure.measured,
            "allowed": figure.allowed,
            "good": figure.good,
        }
        for figure in done.figures
    ]
    return {
        "profile": done.profile,
        "backend": done.backend,
        "valid": done.verdict.valid,
        "invalid_because": list(done.verdict.reasons),
        "figures": figures,
    }


def profile_table(profiles: dict[str, Profile]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("profile", "rate", "RTT", "loss", "jitter", "what it is", "source"):
        table.add_column(heading, no_wrap=heading in ("profile", "rate", "RTT"))
    for name, found in profiles.items():
        table.add_row(
            name,
            f"{found.rate_bps / 1e6:g} Mbit/s" if found.rate_bps else "trace",
            f"{found.rtt_s * 1e3:g} ms",
            f"{found.loss * 100:g} %",
            f"{found.jitter_s * 1e3:g} ms",
            found.summary,
            found.source,
        )
    return table
