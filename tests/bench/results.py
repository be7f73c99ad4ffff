"""Results as files: every measured link is kept, and what was measured on equal ones is joined.

bench-results/.../runs/20261122-041500-transatlantic-bbr.json
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .experiment import Outcome

Plain = dict[str, Any]
FOLDER = "runs"


def plain(outcome: Outcome) -> Plain:
    """As it is kept, with what is known of the machine."""
    found: Plain = json.loads(json.dumps(outcome.plain()))
    found["about"] = {
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "kernel": platform.release(),
        "cpu_hz": cpu_hz(),
    }
    return found


def cpu_hz() -> float | None:
    """Of the first processor, now."""
    try:
        found = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        return None
    return float(found[1]) * 1e6 if found else None


def keep(outcome: Plain, folder: Path) -> Path:
    name = re.sub(r"[^\w.]+", "-", f"{time.strftime('%Y%m%d-%H%M%S')} {outcome['name']}")
    path = folder / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outcome))
    return path


def kept(folder: Path) -> list[Plain]:
    """All that was kept, joined."""
    return joined(json.loads(path.read_text()) for path in sorted(folder.glob(f"{FOLDER}/*.json")))


def joined(outcomes: Iterable[Plain]) -> list[Plain]:
    """One for each link with the same data, with the runs of all."""
    links: dict[str, Plain] = {}
    for outcome in outcomes:
        key = json.dumps([outcome["name"], outcome["sizes"]])
        if key not in links:
            links[key] = json.loads(json.dumps(outcome))
        else:
            _join(links[key], outcome)
    for link in links.values():
        measured = {peer for runs in link["runs"].values() for peer in runs}
        link["skipped"] = {who: why for who, why in link["skipped"].items() if who not in measured}
    return list(links.values())


def _join(link: Plain, more: Plain) -> None:
    for workload, peers in more["runs"].items():
        for peer, runs in peers.items():
            link["runs"].setdefault(workload, {}).setdefault(peer, []).extend(runs)
    for name in ("bounds_s", "wanted_bytes", "skipped"):
        link[name].update(more[name])
    for name in ("invalid", "seconds"):
        link[name] += more[name]
    link["rounds"] = max(link["rounds"], more["rounds"])
    link["about"] = more["about"]
