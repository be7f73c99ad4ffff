"""The lines of "How good" that need a link: target, what was measured, and whether it is met.

    line    target    measured    met / not met

Nothing fails by it: it is read. A line that lacks its measurement says so. Where a line is not
said exactly, it is taken like this:

- The best iperf3 of the same round, warm as the session is: its start is not counted.
- "the link" and "the rate" mean what the link carries of TCP's payload, framing taken off.
- Bytes of waste and of a header scan are TCP's payload as it left the link, beyond what was asked
  for; of random reads it counts from the opened handle on.
- A live tail is that of the link without loss; a round trip is the profile's least one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .data import HEADER_BYTES
from .figures import (
    OURS,
    Outcome,
    believed,
    best_single,
    counted,
    median,
    p99,
    shares_of_iperf3,
)
from .lookup import OURS_COLD, OVER_TLS, Found, Line, goodput_bps, in_rtts, mbps, rounds, rtt_ms
from .trial import TARGET_RTTS, TARGET_S
from .workloads import BY_NAME

BULK = BY_NAME["bulk"]
OF_IPERF3 = ("metro", "continental", "transatlantic", "transpacific", "geo")
LEO = "leo"
LATENCY_ON = "transatlantic"
LOSS_BASED = ("cubic", "reno")
HEADER_WIRE_BYTES = HEADER_BYTES + 32
CHANGES = ("step-up", "step-down", "rtt-up")
CHANGES_RATE_BPS = 250e6
"""At most: then 256 MB last for as long as a changed link is watched."""


def lines(outcomes: list[Outcome]) -> list[Line]:
    found = Found(outcomes)
    return [line for part in PARTS for line in part(found)]


def markdown(outcomes: list[Outcome]) -> str:
    rows = ["### Targets", "", "| line | target | measured | |", "| --- | --- | --- | --- |"]
    words = {True: "met", False: "not met", None: ""}
    rows += [
        f"| {line.name} | {line.target} | {line.measured} | {words[line.met]} |"
        for line in lines(outcomes)
    ]
    return "\n".join(rows)


# ── bulk ──


def _bulk(found: Found) -> Iterator[Line]:
    for profile in OF_IPERF3:
        name, target = f"256 MB, 64 KiB reads, warm: {profile}", ">= 95 % of the best iperf3"
        outcome = found.link(profile, "bbr", "bulk")
        ours = found.ours(outcome, "bulk")
        shares = shares_of_iperf3(outcome, BULK, OURS) if outcome else []
        share = median(shares)
        if ours is None or share is None:
            yield Line(name, target)
            continue
        told = f"{share:.0%} ({mbps(ours)}, {rounds(ours)})"
        yield Line(name, target, told, share >= 0.95)
    yield _leo(found)


def _leo(found: Found) -> Line:
    name, target = f"256 MB, 64 KiB reads, warm: {LEO}", ">= 85 % of the link"
    outcome = found.link(LEO, "bbr", "bulk")
    ours = found.ours(outcome, "bulk")
    if outcome is None or ours is None:
        return Line(name, target)
    share = ours["median"] * 1e6 / goodput_bps(outcome)
    return Line(name, target, f"{share:.0%} ({mbps(ours)}, {rounds(ours)})", share >= 0.85)


def _loss_based(found: Found) -> Iterator[Line]:
    for profile in (*OF_IPERF3, LEO):
        for congestion in LOSS_BASED:
            outcome = found.link(profile, congestion, "bulk")
            if outcome is not None:
                yield _as_with_bbr(found, profile, outcome)
                yield _refused(found, profile, outcome)


def _as_with_bbr(found: Found, profile: str, outcome: Outcome) -> Line:
    name = f"the same, {outcome['setting']['congestion']} the default: {profile}"
    target = ">= 90 % of the figure with BBR"
    ours = found.ours(outcome, "bulk")
    with_bbr = found.ours(found.link(profile, "bbr", "bulk"), "bulk")
    if ours is None or with_bbr is None:
        return Line(name, target)
    share = ours["median"] / with_bbr["median"]
    told = f"{share:.0%} ({mbps(ours)} of {mbps(with_bbr)}, {rounds(ours)})"
    return Line(name, target, told, share >= 0.9)


def _refused(found: Found, profile: str, outcome: Outcome) -> Line:
    name = f"the same, and BBR refused to the node: {profile}"
    target = ">= 2 x the best single connection"
    ours = found.ours(outcome, "bulk", "dsm-refused")
    best = best_single(outcome, BULK)
    if ours is None or best is None:
        return Line(name, target)
    times = ours["median"] / best[1]
    told = f"{times:.1f} x ({mbps(ours)}, {best[0]} {best[1]:.0f}, {rounds(ours)})"
    return Line(name, target, told, times >= 2)


# ── first bytes ──


def _first(found: Found) -> Iterator[Line]:
    cold = "first access, cold session, 1 KiB"
    warm = "first access, warm session, 1 KiB"
    for workload, peers, name, target, rtts, extra_ms in (
        ("first-cold", OVER_TLS, f"{cold}, TLS", "<= 4 RTT", 4, 0),
        ("first-cold", OURS_COLD, cold, "<= 3 RTT", 3, 0),
        ("first-warm", OURS_COLD, warm, "<= 1 RTT + 3 ms", 1, 3),
    ):
        outcome = found.link(LATENCY_ON, "bbr", workload)
        ours = found.ours_cold(outcome, workload, peers)
        if outcome is None or ours is None:
            yield Line(name, target)
            continue
        told = f"{in_rtts(ours['median'], outcome)} ({ours['median']:.1f} ms, {rounds(ours)})"
        yield Line(name, target, told, ours["median"] <= rtts * rtt_ms(outcome) + extra_ms)


def _object(found: Found) -> Iterator[Line]:
    name, target = "10 MB object, cold session", "<= 70 % of the best single connection"
    outcome = found.link(LATENCY_ON, "bbr", "object-cold")
    ours = found.ours_cold(outcome, "object-cold")
    best = best_single(outcome, BY_NAME["object-cold"]) if outcome else None
    if ours is None or best is None:
        yield Line(name, target)
        return
    share = ours["median"] / best[1]
    told = f"{share:.0%} ({ours['median']:.0f} ms, {best[0]} {best[1]:.0f}, {rounds(ours)})"
    yield Line(name, target, told, share <= 0.7)


def _headers(found: Found) -> Iterator[Line]:
    workload = BY_NAME["headers"]
    outcome = found.link(LATENCY_ON, "bbr", workload.name)
    for peer, how in (("dsm", "left to `auto`"), ("dsm-hints", "told `hybrid`")):
        name = f"header scan, 10,000 blocks, {how}"
        ours = found.ours(outcome, workload.name, peer)
        if outcome is None or ours is None:
            yield Line(name, "<= 3 RTT + wire time")
            yield Line(f"{name}: bytes", "<= 1.25 x (headers + 32 B each)")
            continue
        wanted = outcome["wanted_bytes"][workload.name] / HEADER_BYTES * HEADER_WIRE_BYTES
        limit_ms = 3 * rtt_ms(outcome) + wanted * 8 / goodput_bps(outcome) * 1e3
        told = f"{ours['median']:.0f} ms of {limit_ms:.0f} ({rounds(ours)})"
        yield Line(name, "<= 3 RTT + wire time", told, ours["median"] <= limit_ms)
        crossed = median(
            run["payload_bytes"] for run in counted(workload, outcome["runs"]["headers"][peer])
        )
        share = (crossed or 0.0) / wanted
        told = f"{share:.2f} x ({(crossed or 0.0) / 1e6:.2f} MB)"
        yield Line(f"{name}: bytes", "<= 1.25 x (headers + 32 B each)", told, share <= 1.25)


# ── latency ──


def _tail(found: Found) -> Iterator[Line]:
    outcome = found.link(LATENCY_ON, "bbr", "tail-100", loss=0.0)
    ours = found.ours(outcome, "tail-100")
    for which, figure, extra_ms in (("p50", "median", 3), ("p99", "p99_ms", 10)):
        name = f"live tail, 100/s, no loss: {which}"
        target = f"<= RTT/2 + {extra_ms} ms"
        if outcome is None or ours is None:
            yield Line(name, target)
            continue
        over_ms = ours[figure] - rtt_ms(outcome) / 2
        told = f"RTT/2 + {over_ms:.1f} ms ({ours[figure]:.1f} ms, {rounds(ours)})"
        yield Line(name, target, told, over_ms <= extra_ms)


def _demand(found: Found) -> Iterator[Line]:
    name, target = "random 4 KiB while prefetch fills the link: p99", "<= 1.5 RTT + 5 ms"
    outcome = found.link(LATENCY_ON, "bbr", "demand")
    ours = found.ours(outcome, "demand")
    if outcome is None or ours is None:
        yield Line(name, target)
        return
    runs = counted(BY_NAME["demand"], outcome["runs"]["demand"][OURS])
    worst = p99(time for run in runs for time in run["times_ms"]) or 0.0
    beside = median(run["beside_bps"] / goodput_bps(outcome) for run in runs) or 0.0
    told = (
        f"{in_rtts(worst, outcome)} ({worst:.0f} ms; p50 {in_rtts(ours['median'], outcome)}; "
        f"the stream had {beside:.0%} of the link, {rounds(ours)})"
    )
    yield Line(name, target, told, worst <= 1.5 * rtt_ms(outcome) + 5)


# ── waste ──


def _waste(found: Found) -> Iterator[Line]:
    for workload in (BY_NAME[f"random-{kib}k-{depth}"] for kib in (4, 64) for depth in (1, 16)):
        outcome = found.link(LATENCY_ON, "bbr", workload.name)
        name, target = f"waste, {workload.title}", "<= 10 % more than asked"
        runs = outcome["runs"][workload.name].get(OURS, []) if outcome else []
        good = [run for run in believed(runs) if run["complete"]]
        share = median(run["payload_bytes"] / run["bytes"] - 1 for run in good)
        told = "not measured" if share is None else f"{share:.1%} ({len(good)} rounds)"
        yield Line(name, target, told, None if share is None else share <= 0.1)
    outcome = found.link(LATENCY_ON, "bbr", "seek")
    ours = found.ours(outcome, "seek")
    if outcome is None or ours is None:
        yield Line("waste after a seek", "<= 1 BDP")
        return
    bdps = ours["median"] * 1e6 / (outcome["link"]["rate_bps"] / 8 * outcome["link"]["rtt_s"])
    told = f"{bdps:.2f} BDP ({ours['median']:.1f} MB, {rounds(ours)})"
    yield Line("waste after a seek", "<= 1 BDP", told, bdps <= 1)


# ── changes ──


def _changes(found: Found) -> Iterator[Line]:
    for name in (*CHANGES, "outage"):
        workload = BY_NAME[name]
        assert workload.change is not None
        outcome = found.link(LATENCY_ON, "bbr", name, rate_bps=CHANGES_RATE_BPS)
        runs = outcome["runs"][name].get(OURS, []) if outcome else []
        limit = f"{TARGET_RTTS} RTT + {TARGET_S:.0f} s"
        target = f"within {limit}" if name in CHANGES else "(none; as the others)"
        good = [run for run in believed(runs) if "recovered_s" in run]
        if outcome is None or not good:
            yield Line(workload.title, target)
            continue
        late = float("inf")
        took_s = sorted(late if run["recovered_s"] is None else run["recovered_s"] for run in good)
        middle_s = took_s[len(took_s) // 2]
        limit_s = TARGET_RTTS * rtt_ms(outcome) / 1e3 * workload.change.last.rtt + TARGET_S
        took = "not while watched" if middle_s == late else f"{middle_s:.2f} s"
        yield Line(
            workload.title,
            target,
            f"{took} of {limit_s:.1f} ({len(good)} rounds)",
            middle_s <= limit_s if name in CHANGES else None,
        )


# ── cost ──


def _cost(found: Found) -> Iterator[Line]:
    for side, whose, target_s in (("client", "client", 1.2), ("server", "node", 0.7)):
        for profile in (*OF_IPERF3, LEO):
            outcome = found.link(profile, "bbr", "bulk")
            ours = found.ours(outcome, "bulk")
            if outcome is None or ours is None:
                continue
            used_s = ours[f"{side}_cpu_s_per_gb"]
            told = f"{used_s:.2f} CPU-s/GB{_cycles(used_s, outcome)} ({rounds(ours)})"
            target = f"<= {target_s} CPU-s/GB"
            yield Line(f"cost, {whose}: {profile}", target, told, used_s <= target_s)


def _cycles(used_s_per_gb: float, outcome: Outcome) -> str:
    """Beside the rule of thumb of one cycle for each bit."""
    hz = outcome.get("about", {}).get("cpu_hz")
    return f" = {used_s_per_gb * hz / 8e9:.2f} cycles per bit" if hz else ""


PARTS: tuple[Callable[[Found], Iterator[Line]], ...] = (
    *(_bulk, _loss_based, _first, _object, _headers, _tail, _demand, _waste, _changes, _cost),
)
