"""Named WAN paths, read from `profiles.toml`, and what may be overridden in them.

A `Profile` is what a person says about a path (round trip, queue in bandwidth-delay products);
`Profile.path()` is what the two directions of a link do about it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path as FilePath
from typing import Any

from .config import Change, ConfigError, GilbertElliott, JitterShape, LinkConfig, Timeline
from .topology import Path
from .trace import Trace, TraceError

ETHERNET_BYTES = 38  # preamble, header, check sequence and gap: what a packet costs on a line
QUEUE_BYTES_MIN = 10 * 1538  # an initial TCP window must fit into the queue of any real router
_FOLDER = FilePath(__file__).parent


@dataclass(frozen=True, slots=True)
class Blips:
    """An outage of `for_s` at the end of every `every_s`, in which everything is lost."""

    every_s: float
    for_s: float

    def timeline(self) -> Timeline:
        if not 0 < self.for_s < self.every_s:
            raise ConfigError(f"blips of {self.for_s} s every {self.every_s} s: cannot be")
        return Timeline(
            (
                Change(self.every_s - self.for_s, {"outage": "drop"}),
                Change(self.every_s, {"outage": "none"}),
            ),
            repeat_s=self.every_s,
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A symmetric path between `a` and `b`; the fields are explained in `profiles.toml`.

    At most one of `queue_bytes`, `queue_s` (of the rate) and `queue_bdp` is meant to be given; the
    first of them that is not `None` counts.
    """

    name: str
    rtt_s: float
    rate_bps: float | None = None
    summary: str = ""
    source: str = ""
    jitter_s: float = 0.0
    jitter: JitterShape = "uniform"
    jitter_interval_s: float = 0.0
    loss: float = 0.0
    loss_burst_packets: float = 1.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.0
    corrupt: float = 0.0
    corrupt_silent: float = 0.0
    queue_bytes: int | None = None
    queue_s: float | None = None
    queue_bdp: float = 1.0
    overhead_bytes: int = ETHERNET_BYTES
    trace_there: str | None = None
    trace_back: str | None = None
    blips: Blips | None = None

    def changed(self, overrides: Mapping[str, Any]) -> Profile:
        """With other figures. A rate takes the place of a trace. Raises `ConfigError`."""
        unknown = overrides.keys() - {field.name for field in fields(self)}
        if unknown:
            raise ConfigError(f"a profile has no {', '.join(sorted(unknown))}")
        updates = dict(overrides)
        if updates.get("rate_bps") is not None:
            updates = {"trace_there": None, "trace_back": None, **updates}
        return replace(self, **updates)

    def path(self) -> Path:
        """What both directions do. Raises `ConfigError`, or `TraceError` for a bad trace."""
        return Path(
            there=self._direction(self.trace_there),
            back=self._direction(self.trace_back),
            timeline=self.blips.timeline() if self.blips else Timeline(),
            name=self.name,
        )

    def facts(self) -> dict[str, Any]:
        """The figures without the texts, for reports."""
        facts = asdict(self)
        return {k: v for k, v in facts.items() if k not in ("summary", "source") and v is not None}

    def _direction(self, trace_file: str | None) -> LinkConfig:
        trace = _load_trace(trace_file) if trace_file else None
        rate_bps = trace.mean_rate_bps if trace else self.rate_bps
        bursts = None
        if self.loss_burst_packets != 1:
            bursts = GilbertElliott.of(self.loss, self.loss_burst_packets)
        return LinkConfig(
            rate_bps=None if trace else self.rate_bps,
            trace=trace,
            delay_s=self.rtt_s / 2,
            queue_bytes=self._queue_bytes(rate_bps),
            overhead_bytes=self.overhead_bytes,
            jitter_s=self.jitter_s / 2,
            jitter=self.jitter,
            jitter_interval_s=self.jitter_interval_s,
            loss=0.0 if bursts else self.loss,
            bursts=bursts,
            duplicate=self.duplicate,
            reorder=self.reorder,
            reorder_s=self.reorder_s,
            corrupt=self.corrupt,
            corrupt_silent=self.corrupt_silent,
        )

    def _queue_bytes(self, rate_bps: float | None) -> int | None:
        if self.queue_bytes is not None:
            return self.queue_bytes
        if rate_bps is None:
            return None
        for name in ("queue_s", "queue_bdp"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} of {value:g}: must be above 0")
        queue_s = self.queue_bdp * self.rtt_s if self.queue_s is None else self.queue_s
        return max(round(rate_bps / 8 * queue_s), QUEUE_BYTES_MIN)


@cache
def profiles() -> dict[str, Profile]:
    """All that are known, by name."""
    with (_FOLDER / "profiles.toml").open("rb") as file:
        tables = tomllib.load(file)
    found = {}
    for name, table in tables.items():
        if "blips" in table:
            table["blips"] = Blips(**table["blips"])
        found[name] = Profile(name=name, **table)
    return found


def profile(name: str, **overrides: Any) -> Profile:
    """A profile by name, with other figures where given. Raises `ConfigError`."""
    try:
        found = profiles()[name]
    except KeyError:
        raise ConfigError(f"no profile {name!r}; there are: {', '.join(profiles())}") from None
    return found.changed(overrides)


@cache
def _load_trace(file: str) -> Trace:
    try:
        return Trace.load(_FOLDER / file)  # an absolute one stays what it is
    except OSError as error:
        raise TraceError(f"delivery trace {file}: {error.strerror}") from error
