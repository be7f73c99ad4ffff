"""What came of it: medians and spreads, as JSON, as a table, and as one picture per workload.

A figure is the median over the rounds whose link was on time and whose bytes were right. A rate is
also given as a share of the best iperf3 of the same round: that is what the machine was able to do
at that hour, and it wanders.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .experiment import IPERF3
from .workloads import BY_NAME, Workload

Run = dict[str, Any]
Outcome = dict[str, Any]
OURS = "dsm"


def believed(runs: Iterable[Run]) -> list[Run]:
    """Those that count."""
    return [run for run in runs if run["valid"] and not run["error"] and not run["wrong"]]


def value(workload: Workload, run: Run) -> float:
    """The workload's figure, in its unit."""
    if workload.unit == "Mbit/s":
        rate: float = run["bytes"] * 8 / run["seconds"] / 1e6
        return rate
    per_read = workload.kind in ("tail", "random")
    seconds: float = run["p50_s"] if per_read else run["seconds"]
    return seconds * 1e3


def figures(workload: Workload, runs: list[Run]) -> dict[str, Any]:
    """Of one peer: the median, the extremes, tails, processor time, bytes; `None` if unmeasured."""
    good = believed(runs)
    complete = [run for run in good if run["complete"]]
    # A rate that was cut off is a rate, unless what came was waiting for its turn; a time that was
    # cut off is only "longer than".
    counted = good if workload.unit == "Mbit/s" and _in_order(runs) else complete
    if not counted:
        return {"median": None, "why": _why(runs)}
    values = sorted(value(workload, run) for run in counted)
    gigabytes = sum(run["bytes"] for run in counted) / 1e9
    found = {
        "median": statistics.median(values),
        "least": values[0],
        "most": values[-1],
        "runs": len(counted),
        "cut_off": len(good) - len(complete),
        "wire_share": _median(run["wire_bytes"] / max(1, run["bytes"]) for run in counted),
        "first_ms": _median(run["first_s"] * 1e3 for run in counted if "first_s" in run),
        "p99_ms": _median(run["p99_s"] * 1e3 for run in counted if "p99_s" in run),
    }
    for side in ("client", "server"):
        used = sum(run[f"{side}_cpu_s"] for run in counted)
        found[f"{side}_cpu_s_per_gb"] = used / gigabytes
    return found


def _in_order(runs: list[Run]) -> bool:
    return all(run.get("in_order", True) for run in runs)


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _why(runs: list[Run]) -> str:
    last = runs[-1]
    if last["error"]:
        return str(last["error"])
    if last["wrong"]:
        return "wrong bytes"
    return "cut off" if last["valid"] else "link was late"


def share_of_iperf3(outcome: Outcome, peer: str) -> float | None:
    """Median over rounds: the peer's rate to that of the best control of the same round."""
    runs = outcome["runs"].get("bulk", {})
    bulk = BY_NAME["bulk"]
    shares = []
    for number, run in enumerate(runs.get(peer, [])):
        controls = believed(runs[name][number] for name in IPERF3 if name in runs)
        if controls and believed([run]):
            shares.append(value(bulk, run) / max(value(bulk, each) for each in controls))
    return _median(shares)


def name_of(outcome: Outcome) -> str:
    setting = outcome["setting"]
    return f"{setting['profile']}, {setting['congestion']}"


# ── a table ──


def markdown(outcomes: list[Outcome]) -> str:
    """A section per link, a table per section."""
    return "\n".join(part for outcome in outcomes for part in _section(outcome))


def _section(outcome: Outcome) -> list[str]:
    link = outcome["link"]
    rate = f"{link['rate_bps'] / 1e6:.0f} Mbit/s" if link.get("rate_bps") else "a delivery trace"
    wmem, rmem = (outcome["hosts"]["b"].get(name, "?") for name in ("wmem_bytes", "rmem_bytes"))
    lines = [
        f"### {name_of(outcome)}",
        "",
        f"{rate}, {link['rtt_s'] * 1e3:.0f} ms, loss {link.get('loss', 0):g}; "
        f"congestion control in force: {outcome['hosts']['b'].get('congestion', '?')}; "
        f"tcp_wmem {wmem}, tcp_rmem {rmem}; {outcome['rounds']} rounds, "
        f"{outcome['invalid']} runs repeated because the link was late.",
        "",
    ]
    for name, runs in outcome["runs"].items():
        lines += _workload_table(outcome, BY_NAME[name], runs)
    if outcome["skipped"]:
        reasons = "; ".join(f"{peer} ({why})" for peer, why in outcome["skipped"].items())
        lines += [f"Not measured: {reasons}.", ""]
    return lines


def _workload_table(outcome: Outcome, workload: Workload, runs: dict[str, list[Run]]) -> list[str]:
    measured = {peer: figures(workload, results) for peer, results in runs.items()}
    bound = bound_value(outcome, workload)
    rows = [
        f"**{workload.title}** (`{workload.name}`, {workload.unit}"
        f"{'' if bound is None else f'; bound {_number(bound)}'})",
        "",
        "| | median | least to most | of iperf3 | p99 ms | wire / useful "
        "| client CPU s/GB | server CPU s/GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    more_is_better = workload.unit == "Mbit/s"
    order = sorted(
        measured,
        key=lambda peer: (
            measured[peer]["median"] is None,
            (measured[peer]["median"] or 0) * (-1 if more_is_better else 1),
        ),
    )
    for peer in order:
        rows.append(_row(outcome, workload, peer, measured[peer]))
    return [*rows, ""]


def _row(outcome: Outcome, workload: Workload, peer: str, found: dict[str, Any]) -> str:
    label = f"**{peer}**" if peer.startswith(OURS) else peer
    if found["median"] is None:
        return f"| {label} | {found['why'][:60]} | | | | | | |"
    share = share_of_iperf3(outcome, peer) if workload.name == "bulk" else None
    cut = " (cut off)" if found["cut_off"] else ""
    bulky = workload.kind == "sequential"
    cells = [
        f"{_number(found['median'])}{cut}",
        f"{_number(found['least'])} to {_number(found['most'])}",
        "" if share is None else f"{share:.0%}",
        _number(found["p99_ms"]) if workload.kind in ("tail", "random") else "",
        f"{found['wire_share']:.2f}" if workload.kind != "tail" else "",
        f"{found['client_cpu_s_per_gb']:.2f}" if bulky else "",
        f"{found['server_cpu_s_per_gb']:.2f}" if bulky else "",
    ]
    return f"| {label} | " + " | ".join(cells) + " |"


def bound_value(outcome: Outcome, workload: Workload) -> float | None:
    """The bound by arithmetic, in the workload's unit."""
    seconds = outcome["bounds_s"].get(workload.name)
    if not seconds:
        return None
    if workload.unit == "ms":
        return float(seconds) * 1e3
    return float(outcome["wanted_bytes"][workload.name] * 8 / seconds / 1e6)


def _number(number: float | None) -> str:
    if number is None:
        return ""
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


# ── files ──


def write(outcomes: list[Outcome], folder: Path) -> list[Path]:
    """JSON, the table, and the pictures where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    results.write_text(json.dumps(outcomes, indent=1))
    table = folder / "results.md"
    table.write_text(markdown(outcomes))
    return [results, table, *pictures(outcomes, folder)]


def pictures(outcomes: list[Outcome], folder: Path) -> list[Path]:
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = dict.fromkeys(name for outcome in outcomes for name in outcome["runs"])
    written = []
    for name in names:
        shown = [outcome for outcome in outcomes if name in outcome["runs"]]
        figure, axes = pyplot.subplots(
            1, len(shown), figsize=(5.5 * len(shown), 5), squeeze=False, layout="constrained"
        )
        for axis, outcome in zip(axes[0], shown, strict=True):
            _draw(axis, outcome, BY_NAME[name])
        figure.suptitle(BY_NAME[name].title)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        written.append(path)
    return written


def _draw(axis: Any, outcome: Outcome, workload: Workload) -> None:
    """Horizontal bars, the best above, with the extremes of the rounds; the bound as a line."""
    runs = outcome["runs"][workload.name]
    found = {peer: figures(workload, results) for peer, results in runs.items()}
    measured = {peer: each for peer, each in found.items() if each["median"] is not None}
    more_is_better = workload.unit == "Mbit/s"
    peers = sorted(measured, key=lambda peer: measured[peer]["median"], reverse=not more_is_better)
    for place, peer in enumerate(peers):
        each = measured[peer]
        kind = "tab:orange" if peer.startswith(OURS) else "tab:blue"
        colour = "tab:gray" if peer in IPERF3 else kind
        spread = [[each["median"] - each["least"]], [each["most"] - each["median"]]]
        axis.barh(place, each["median"], xerr=spread, color=colour, ecolor="black", capsize=2)
    axis.set_yticks(range(len(peers)), peers)
    if not more_is_better and peers:
        axis.set_xscale("log")
    bound = bound_value(outcome, workload)
    if bound is not None:
        axis.axvline(bound, color="tab:red", linestyle="--", label="bound by arithmetic")
        axis.legend(loc="lower right")
    axis.set_xlabel(workload.unit)
    axis.set_title(name_of(outcome))
