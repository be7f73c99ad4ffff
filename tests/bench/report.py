"""What came of it: medians and spreads, as JSON, as tables, and as one picture per workload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import targets
from .experiment import CONTROLLED, IPERF3
from .figures import Outcome, Run, bound_value, figures, is_ours, median, shares_of_iperf3
from .workloads import ALL, BY_NAME, Workload

# ── a table ──


def markdown(outcomes: list[Outcome]) -> str:
    """A section per link, a table per section."""
    return "\n".join(part for outcome in outcomes for part in _section(outcome))


def _section(outcome: Outcome) -> list[str]:
    link = outcome["link"]
    rate = f"{link['rate_bps'] / 1e6:.0f} Mbit/s" if link.get("rate_bps") else "a delivery trace"
    wmem, rmem = (outcome["hosts"]["b"].get(name, "?") for name in ("wmem_bytes", "rmem_bytes"))
    lines = [
        f"### {outcome['name']}",
        "",
        f"{rate}, {link['rtt_s'] * 1e3:.0f} ms, loss {link.get('loss', 0):g}; "
        f"congestion control in force: {outcome['hosts']['b'].get('congestion', '?')}; "
        f"tcp_wmem {wmem}, tcp_rmem {rmem}; "
        f"{outcome['invalid']} runs repeated because the link was late.",
        "",
    ]
    for workload in ALL:
        if workload.name in outcome["runs"]:
            lines += _workload_table(outcome, workload, outcome["runs"][workload.name])
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
        "| | median | least to most | runs | of iperf3 | p99 ms | wire / useful "
        "| client CPU s/GB | server CPU s/GB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
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
    label = f"**{peer}**" if is_ours(peer) else peer
    if found["median"] is None:
        return f"| {label} | {found['why'][:60]} | | | | | | | |"
    controlled = workload.name in CONTROLLED
    share = median(shares_of_iperf3(outcome, workload, peer)) if controlled else None
    cut = " (cut off)" if found["cut_off"] else ""
    bulky = workload.kind == "sequential"
    per_read = workload.kind in ("tail", "random", "demand")
    cells = [
        f"{_number(found['median'])}{cut}",
        f"{_number(found['least'])} to {_number(found['most'])}",
        str(found["runs"]),
        "" if share is None else f"{share:.0%}",
        _number(found["p99_ms"]) if per_read else "",
        f"{found['wire_share']:.2f}" if workload.kind != "tail" else "",
        f"{found['client_cpu_s_per_gb']:.2f}" if bulky else "",
        f"{found['server_cpu_s_per_gb']:.2f}" if bulky else "",
    ]
    return f"| {label} | " + " | ".join(cells) + " |"


def _number(number: float | None) -> str:
    if number is None:
        return ""
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


# ── files ──

COLUMNS = 3
"""Links side by side in a picture."""

LOG_FROM = 50.0
"""Where the worst is so many times the best, a linear scale would show only one of them."""


def write(outcomes: list[Outcome], folder: Path) -> list[Path]:
    """JSON, the tables, and the pictures where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    results.write_text(json.dumps(outcomes))
    tables = folder / "results.md"
    tables.write_text(f"{markdown(outcomes)}\n{targets.markdown(outcomes)}\n")
    return [results, tables, *pictures(outcomes, folder)]


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
        shown.sort(key=lambda outcome: -len(outcome["runs"][name]))
        rows = [shown[at : at + COLUMNS] for at in range(0, len(shown), COLUMNS)]
        bars = [len(row[0]["runs"][name]) for row in rows]
        heights = [1.2 + 0.25 * most for most in bars]
        figure, axes = pyplot.subplots(
            len(rows),
            len(rows[0]),
            figsize=(5.5 * len(rows[0]), 0.4 + sum(heights)),
            squeeze=False,
            layout="constrained",
            height_ratios=heights,
        )
        for row, most, places in zip(rows, bars, axes, strict=True):
            for place in places[len(row) :]:
                place.set_visible(False)
            for place, outcome in zip(places, row, strict=False):
                _draw(place, outcome, BY_NAME[name], most)
        figure.suptitle(BY_NAME[name].title)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        written.append(path)
    return written


def _draw(axis: Any, outcome: Outcome, workload: Workload, bars: int) -> None:
    """Horizontal bars, the best above, with the extremes of the rounds; the bound as a line."""
    runs = outcome["runs"][workload.name]
    found = {peer: figures(workload, results) for peer, results in runs.items()}
    measured = {peer: each for peer, each in found.items() if each["median"] is not None}
    more_is_better = workload.unit == "Mbit/s"
    peers = sorted(measured, key=lambda peer: measured[peer]["median"], reverse=not more_is_better)
    for place, peer in enumerate(peers):
        each = measured[peer]
        kind = "tab:orange" if is_ours(peer) else "tab:blue"
        colour = "tab:gray" if peer in IPERF3 else kind
        spread = [[each["median"] - each["least"]], [each["most"] - each["median"]]]
        axis.barh(place, each["median"], xerr=spread, color=colour, ecolor="black", capsize=2)
        told = f" {_number(each['median'])}"
        axis.text(each["most"], place, told, va="center", fontsize=8)
    axis.set_yticks(range(len(peers)), peers)
    values = [each["median"] for each in measured.values()]
    spreads = values and min(values) > 0 and max(values) > LOG_FROM * min(values)
    if workload.unit == "ms" and spreads:
        axis.set_xscale("log")
    axis.set_ylim(len(peers) - bars - 0.4, len(peers) - 0.4)
    axis.margins(x=0.12)
    bound = bound_value(outcome, workload)
    if bound is not None:
        axis.axvline(bound, color="tab:red", linestyle="--")
    axis.set_xlabel(workload.unit + ("" if bound is None else "; dashed: bound by arithmetic"))
    axis.set_title(outcome["name"])
