"""What was measured, by link and workload, and how it is said in a line of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import controls
from .figures import OURS, Outcome, figures
from .workloads import BY_NAME

OURS_COLD = ("dsm-open", "dsm")
"""What a cold line is of: the first that was measured."""

OVER_TLS = ("dsm-tls",)


@dataclass(frozen=True)
class Line:
    """`met` is `None` where there is nothing to say it by."""

    name: str
    target: str
    measured: str = "not measured"
    met: bool | None = None


class Found:
    """What was measured, looked up by link and workload."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    def link(
        self, profile: str, congestion: str, workload: str, **overrides: float
    ) -> Outcome | None:
        """The link, with stock sockets, on which a workload was measured."""
        for outcome in self._outcomes:
            setting = outcome["setting"]
            if (
                setting["profile"] == profile
                and setting["congestion"] == congestion
                and setting["sockets"] == "stock"
                and dict(setting["overrides"]) == overrides
                and workload in outcome["runs"]
            ):
                return outcome
        return None

    def ours(
        self, outcome: Outcome | None, workload: str, peer: str = OURS
    ) -> dict[str, Any] | None:
        """Our figures there, or `None`."""
        runs = outcome["runs"].get(workload, {}).get(peer) if outcome else None
        found = figures(BY_NAME[workload], runs) if runs else None
        return found if found and found["median"] is not None else None

    def ours_cold(
        self, outcome: Outcome | None, workload: str, peers: tuple[str, ...] = OURS_COLD
    ) -> dict[str, Any] | None:
        """Of the shortest way to one segment, or that of a session."""
        measured = (self.ours(outcome, workload, peer) for peer in peers)
        return next((each for each in measured if each is not None), None)


def rtt_ms(outcome: Outcome) -> float:
    return float(outcome["link"]["rtt_s"]) * 1e3


def goodput_bps(outcome: Outcome) -> float:
    """Of TCP's payload."""
    link = outcome["link"]
    share = controls.PAYLOAD_OF_PACKET / (controls.PACKET_BYTES + link["overhead_bytes"])
    return float(link["rate_bps"]) * share


def in_rtts(milliseconds: float, outcome: Outcome) -> str:
    return f"{milliseconds / rtt_ms(outcome):.2f} RTT"


def mbps(found: dict[str, Any]) -> str:
    return f"{found['median']:.0f} Mbit/s"


def rounds(found: dict[str, Any]) -> str:
    return f"{found['runs']} rounds"
