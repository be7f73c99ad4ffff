"""What is measured on which link unless said otherwise, and how much time there is for it."""

from __future__ import annotations

from dataclasses import dataclass

from .experiment import Setting
from .peers import PEERS
from .targets import CHANGES_RATE_BPS
from .workloads import ALL, BY_NAME, Workload


@dataclass(frozen=True)
class Choice:
    """One link: these workloads by these peers. No round begins that would end after the budget."""

    setting: Setting
    workloads: tuple[str, ...]
    peers: tuple[str, ...]
    budget_s: float
    limit_s: float = 10.0
    rounds: int = 5
    controls: bool = True
    """Whether iperf3 takes part in bulk reads."""
    part: str = ""
    """Of the table."""

    def ordered(self) -> tuple[Workload, ...]:
        return tuple(workload for workload in ALL if workload.name in self.workloads)


PROFILES = ("metro", "continental", "transatlantic", "transpacific", "leo", "geo")
TRANSATLANTIC = Setting("transatlantic", "bbr")
METRO = Setting("metro", "bbr")

PEERS_BULK = ("dsm", "dsm-hints", "flight", "flight-8", "http-ranges")
PEERS_MANY = (
    *("dsm", "dsm-hints", "flight", "http-readahead", "http-ranges"),
    *("redis", "redis-pipelined", "nats", "zenoh"),
)
PEERS_ALL = tuple(name for name in PEERS if name not in ("dsm-refused", "dsm-tls"))
PEERS_QUICK = ("dsm", "dsm-hints", "flight", "http-readahead", "redis-pipelined")
SINGLE = ("flight", "http-readahead", "http-ranges", "redis", "zenoh")

# ── make bench: less than 20 minutes ──

DEFAULTS = (
    Choice(
        TRANSATLANTIC,
        ("bulk",),
        (*PEERS_BULK, "http-readahead", "redis-pipelined"),
        budget_s=400.0,
        limit_s=8.0,
    ),
    Choice(
        TRANSATLANTIC,
        (
            *("headers", "random-4k-1", "random-64k-16", "tail-100"),
            *("first-cold", "first-warm", "object-cold"),
        ),
        PEERS_MANY,
        budget_s=330.0,
    ),
    Choice(Setting("transatlantic", "cubic"), ("bulk",), PEERS_BULK, budget_s=220.0),
    Choice(METRO, ("bulk", "headers"), PEERS_BULK, budget_s=130.0),
)
QUICK = (
    Choice(
        METRO,
        ("bulk", "headers", "random-4k-1", "tail-100", "first-cold"),
        PEERS_QUICK,
        budget_s=95.0,
        rounds=2,
    ),
)
FULL = tuple(
    Choice(Setting(profile, congestion), tuple(BY_NAME), tuple(PEERS), 1800.0, limit_s=60.0)
    for profile in PROFILES
    for congestion in ("bbr", "cubic")
)

# ── the table of targets: an hour and a quarter ──
#
# Budgets are a fifth more than five rounds take on two quiet cores.

BULK_S = {
    "metro": 150.0,
    "continental": 150.0,
    "transatlantic": 210.0,
    "transpacific": 270.0,
    "leo": 360.0,
    "geo": 640.0,
}
"""For five rounds of three iperf3 and one read of 256 MB."""

READS = (
    *("bulk-cold", "random-4k-1", "random-64k-1", "random-4k-16", "random-64k-16"),
    *("first-warm", "demand", "seek"),
)


def _bulk(profile: str, budget_s: float) -> Choice:
    return Choice(Setting(profile, "bbr"), ("bulk",), ("dsm",), budget_s, 75.0, part="bulk")


def _loss_based(profile: str, budget_s: float) -> Choice:
    peers = ("dsm", "dsm-refused", "flight", "http-readahead")
    setting = Setting(profile, "cubic")
    return Choice(setting, ("bulk",), peers, budget_s, 8.0, controls=False, part="loss-based")


def _reads(workloads: tuple[str, ...], peers: tuple[str, ...], budget_s: float) -> Choice:
    return Choice(TRANSATLANTIC, workloads, peers, budget_s, controls=False, part="reads")


TABLE = (
    *(_bulk(profile, budget_s) for profile, budget_s in BULK_S.items()),
    _loss_based("transatlantic", 320.0),
    _loss_based("transpacific", 320.0),
    _reads(READS, ("dsm",), 330.0),
    _reads(("headers",), ("dsm", "dsm-hints", "flight"), 80.0),
    _reads(("first-cold", "object-cold"), ("dsm", "dsm-open", "dsm-tls", *SINGLE), 180.0),
    Choice(
        Setting("transatlantic", "bbr", overrides=(("loss", 0.0),)),
        ("tail-10", "tail-100", "tail-1000"),
        ("dsm", "nats", "zenoh"),
        budget_s=320.0,
        part="live",
    ),
    Choice(
        Setting("transatlantic", "bbr", overrides=(("rate_bps", CHANGES_RATE_BPS),)),
        ("step-up", "step-down", "rtt-up", "outage"),
        ("dsm", "flight"),
        budget_s=560.0,
        part="changes",
    ),
    Choice(TRANSATLANTIC, ("bulk",), PEERS_ALL, budget_s=1080.0, limit_s=5.5, part="peers"),
    Choice(
        TRANSATLANTIC,
        ("headers", "payloads", "random-4k-1", "random-64k-16", "strided", "tail-100"),
        ("dsm", "flight", "redis", "redis-pipelined", "nats", "zenoh"),
        budget_s=660.0,
        part="peers",
    ),
)
TABLE_PARTS = tuple(dict.fromkeys(choice.part for choice in TABLE))
