"""From runs to figures: medians over the runs that may be believed.

A figure is the median over the rounds whose link was on time and whose bytes were right. A rate is
also given as a share of the best iperf3 of the same round: that is what the machine was able to do
at that hour, and it wanders.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from .experiment import IPERF3
from .peers import PEERS
from .workloads import Workload

Run = dict[str, Any]
Outcome = dict[str, Any]
OURS = "dsm"


def is_ours(peer: str) -> bool:
    return peer.startswith(OURS)


def believed(runs: Iterable[Run]) -> list[Run]:
    """Those that count."""
    return [run for run in runs if run["valid"] and not run["error"] and not run["wrong"]]


def value(workload: Workload, run: Run) -> float:
    """The workload's figure, in its unit."""
    if workload.unit == "Mbit/s":
        rate: float = run["bytes"] * 8 / run["seconds"] / 1e6
        return rate
    if workload.unit == "MB":
        waste: float = (run["payload_bytes"] - run["bytes"]) / 1e6
        return waste
    if workload.change:
        return float(run["recovered_s"]) * 1e3
    per_read = workload.kind in ("tail", "random", "demand")
    seconds: float = run["p50_s"] if per_read else run["seconds"]
    return seconds * 1e3


def counted(workload: Workload, runs: list[Run]) -> list[Run]:
    """A rate that was cut off is a rate, unless what came was waiting for its turn; a time that
    was cut off is only "longer than"."""
    good = believed(runs)
    in_order = all(run.get("in_order", True) for run in runs)
    if workload.unit == "Mbit/s" and in_order:
        return good
    return [run for run in good if run["complete"]]


def figures(workload: Workload, runs: list[Run]) -> dict[str, Any]:
    """Of one peer: the median, the extremes, tails, processor time, bytes; `None` if unmeasured."""
    counting = counted(workload, runs)
    if not counting:
        return {"median": None, "why": _why(workload, runs)}
    values = sorted(value(workload, run) for run in counting)
    gigabytes = sum(run["bytes"] for run in counting) / 1e9
    found = {
        "median": statistics.median(values),
        "least": values[0],
        "most": values[-1],
        "runs": len(counting),
        "cut_off": sum(not run["complete"] for run in believed(runs)),
        "wire_share": median(run["wire_bytes"] / max(1, run["bytes"]) for run in counting),
        "first_ms": median(run["first_s"] * 1e3 for run in counting if "first_s" in run),
        "p99_ms": median(run["p99_s"] * 1e3 for run in counting if "p99_s" in run),
    }
    for side in ("client", "server"):
        used = sum(run[f"{side}_cpu_s"] for run in counting)
        found[f"{side}_cpu_s_per_gb"] = used / max(gigabytes, 1e-9)
    return found


def median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def p99(values: Iterable[float]) -> float | None:
    """Of all rounds' reads together: one round alone has too few of them."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * 0.99))] if found else None


def _why(workload: Workload, runs: list[Run]) -> str:
    last = runs[-1]
    if last["error"]:
        return str(last["error"])
    if last["wrong"]:
        return "wrong bytes"
    if not last["valid"]:
        return "link was late"
    return "not reached" if workload.change else "cut off"


def shares_of_iperf3(outcome: Outcome, workload: Workload, peer: str) -> list[float]:
    """Round by round: the peer's rate to that of the best control of the same round."""
    runs = outcome["runs"].get(workload.name, {})
    best: dict[str, float] = {}
    for name in IPERF3:
        for run in believed(runs.get(name, [])):
            best[run["round"]] = max(best.get(run["round"], 0.0), value(workload, run))
    counting = counted(workload, runs[peer]) if peer in runs else []
    return [value(workload, run) / best[run["round"]] for run in counting if best.get(run["round"])]


def best_single(outcome: Outcome, workload: Workload) -> tuple[str, float] | None:
    """The best peer that has one connection, and its figure; what reads once, needs no more."""
    more_is_better = workload.unit == "Mbit/s"
    found = {
        peer: figures(workload, runs)["median"]
        for peer, runs in outcome["runs"].get(workload.name, {}).items()
        if not is_ours(peer)
        and peer in PEERS
        and (PEERS[peer].connections == 1 or workload.kind in ("first", "cold"))
    }
    measured = {peer: figure for peer, figure in found.items() if figure is not None}
    if not measured:
        return None
    chosen = (max if more_is_better else min)(measured, key=lambda peer: measured[peer])
    return chosen, measured[chosen]


def bound_value(outcome: Outcome, workload: Workload) -> float | None:
    """The bound by arithmetic, in the workload's unit."""
    seconds = outcome["bounds_s"].get(workload.name)
    if not seconds:
        return None
    if workload.unit == "ms":
        return float(seconds) * 1e3
    return float(outcome["wanted_bytes"][workload.name] * 8 / seconds / 1e6)
