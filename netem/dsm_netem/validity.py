"""Whether a run on an emulated link may be believed.

The emulator shares its machine with what it tests. Where it was late, or packets were lost
outside of the model, the run says something about the machine instead of the link, and must be
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATENESS_P99_MAX_S = 0.001
LATENESS_P99_MAX_RTTS = 0.02
CPU_SHARE_MAX = 0.9  # of a core: beyond, the emulator is the bottleneck and not the link


@dataclass(frozen=True, slots=True)
class Verdict:
    """`valid`, or the reasons why not."""

    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return "valid" if self.valid else "INVALID: " + "; ".join(self.reasons)


def judge(statistics: Mapping[str, Any], rtt_s: float) -> Verdict:
    """Judges a run by its statistics; the lateness allowed is 1 ms or 2 % of the RTT, if more."""
    reasons = []
    limit_us = max(LATENESS_P99_MAX_S, LATENESS_P99_MAX_RTTS * rtt_s) * 1e6
    for name, what in (("lateness", "late"), ("stalls", "stalled")):
        p99_us = statistics.get(name, {}).get("p99_us", 0)
        if p99_us > limit_us:
            reasons.append(f"the emulator was {what}: p99 {p99_us:.0f} us, allowed {limit_us:.0f}")
    shaped = any("rate_bps" in link["config"] for link in statistics.get("links", {}).values())
    if shaped and statistics.get("cpu_share", 0.0) > CPU_SHARE_MAX:
        reasons.append(f"the emulator used {statistics['cpu_share']:.0%} of a core")
    for host, drops in statistics.get("device_drops", {}).items():
        if drops:
            reasons.append(f"the device of {host} dropped {drops} packets outside of the link")
    if statistics.get("write_errors"):
        reasons.append(f"{statistics['write_errors']} packets could not be handed on")
    return Verdict(tuple(reasons))
