"""What one direction of a link does to packets: the numbers, and whether they make sense.

A `LinkConfig` is a value. The same one drives the model in virtual time, the TCP relay, the
TUN forwarder and, translated, the kernel's netem. Changing a running link means handing it
another config (`dataclasses.replace`); changes known beforehand form a `Timeline`.

All of it is checked when it is made, so that whatever holds a `LinkConfig` may trust it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from .trace import Trace

JitterShape = Literal["uniform", "normal", "exponential", "pareto"]
Outage = Literal["none", "drop", "hold"]

RATE_MIN_BPS = 1_000  # one packet in 12 s; anything slower is a typing mistake
RATE_MAX_BPS = 1e12
DELAY_MAX_S = 60.0  # TCP itself gives up soon after
TCP_HEADERS_BYTES = 52  # IPv4, and TCP with time stamps


class ConfigError(ValueError):
    """A link was asked for that cannot be: says which value and what would be accepted."""


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} of {value:g}: a probability must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Bursty loss: two states with their own loss rates (Gilbert 1960, Elliott 1963).

    `to_bad` and `to_good` are the probabilities, per packet, of changing state.
    """

    to_bad: float
    to_good: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("to_bad", "to_good", "loss_good", "loss_bad"):
            _check_probability(f"gilbert_elliott.{name}", getattr(self, name))
        if self.to_bad > 0 and self.to_good == 0:
            raise ConfigError("gilbert_elliott.to_good must be above 0, or the bad state is final")

    @classmethod
    def of(cls, loss: float, burst_packets: float) -> GilbertElliott:
        """The simple Gilbert model with this mean loss rate and mean burst length."""
        if burst_packets < 1:
            raise ConfigError(f"a loss burst of {burst_packets} packets: must be at least 1")
        if not 0 <= loss < 1:
            raise ConfigError(f"loss {loss} in bursts: must be in [0, 1)")
        to_good = 1 / burst_packets
        to_bad = to_good * loss / (1 - loss)
        if to_bad > 1:
            raise ConfigError(f"loss {loss} cannot come in bursts of only {burst_packets} packets")
        return cls(to_bad=to_bad, to_good=to_good)

    @property
    def mean_loss(self) -> float:
        """The long-run loss rate."""
        changes = self.to_bad + self.to_good
        if changes == 0:
            return self.loss_good
        return (self.loss_bad * self.to_bad + self.loss_good * self.to_good) / changes


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One direction of a link.

    - `rate_bps`: bits per second on the wire, `None` for unshaped; `trace` takes its place.
    - `overhead_bytes`: added to every packet before the rate is applied (framing).
    - `delay_s`: propagation delay, the least that any packet sees.
    - `jitter_s`: *mean* extra delay, never negative, of shape `jitter`. Drawn anew every
      `jitter_interval_s` and interpolated between, or per packet where that is 0.
    - `ordered`: packets are held back rather than overtaken when jitter would reorder them.
    - `queue_bytes`: drop-tail limit of what waits for the serializer (packets under way do not
      count), `None` for no limit.
    - `loss`, or `bursts` for bursty loss; `duplicate`; `reorder` (delayed by `reorder_s` more).
    - `corrupt` flips one bit so that TCP's checksum notices, `corrupt_silent` so that it does not.
    - `outage`: `"drop"` loses what enters, `"hold"` stops the serializer and keeps the queue.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    queue_bytes: int | None = None
    overhead_bytes: int = 0
    jitter_s: float = 0.0
    jitter: JitterShape = "uniform"
    jitter_interval_s: float = 0.0
    ordered: bool = True
    loss: float = 0.0
    bursts: GilbertElliott | None = None
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.0
    corrupt: float = 0.0
    corrupt_silent: float = 0.0
    outage: Outage = "none"
    trace: Trace | None = None

    def __post_init__(self) -> None:
        if self.rate_bps is not None and not RATE_MIN_BPS <= self.rate_bps <= RATE_MAX_BPS:
            raise ConfigError(
                f"rate of {self.rate_bps:g} bit/s: must be in [{RATE_MIN_BPS:g}, {RATE_MAX_BPS:g}]"
            )
        for name in ("delay_s", "jitter_s", "jitter_interval_s", "reorder_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= DELAY_MAX_S):
                raise ConfigError(f"{name} of {value:g} s: must be in [0, {DELAY_MAX_S:g}]")
        if self.queue_bytes is not None and self.queue_bytes <= 0:
            raise ConfigError(f"a queue of {self.queue_bytes} bytes: must be above 0")
        if self.overhead_bytes < 0:
            raise ConfigError(f"overhead_bytes of {self.overhead_bytes}: must not be negative")
        for name in ("loss", "duplicate", "reorder", "corrupt", "corrupt_silent"):
            _check_probability(name, getattr(self, name))
        if self.bursts is not None and self.loss > 0:
            raise ConfigError("loss and bursts are two models of one thing: give one of them")
        if self.jitter not in get_args(JitterShape):
            raise ConfigError(
                f"jitter shape {self.jitter!r}: must be one of {get_args(JitterShape)}"
            )
        if self.outage not in get_args(Outage):
            raise ConfigError(f"outage {self.outage!r}: must be one of {get_args(Outage)}")

    def changed(self, updates: Mapping[str, Any]) -> LinkConfig:
        """This config with some fields replaced, checked anew. Raises `ConfigError`."""
        unknown = updates.keys() - {f.name for f in fields(self)}
        if unknown:
            raise ConfigError(f"a link has no {', '.join(sorted(unknown))}")
        try:
            return replace(self, **updates)
        except TypeError as error:
            raise ConfigError(f"cannot change a link by {dict(updates)}: {error}") from error

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; `LinkConfig.of_plain` makes it a config again."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> LinkConfig:
        """Raises `ConfigError`."""
        updates = dict(plain)
        if updates.get("bursts"):
            updates["bursts"] = GilbertElliott(**updates["bursts"])
        if updates.get("trace"):
            updates["trace"] = Trace(tuple(updates["trace"]["times_ms"]))
        return cls().changed(updates)

    def brief(self) -> dict[str, Any]:
        """What is not as by default, for people and reports: a trace by its mean rate only."""
        found = {
            name: value
            for name, value in self.plain().items()
            if value != getattr(_DEFAULT, name) and name != "trace"
        }
        if self.trace:
            found["trace_mean_bps"] = round(self.trace.mean_rate_bps)
        return found

    @property
    def mean_loss(self) -> float:
        return self.bursts.mean_loss if self.bursts else self.loss

    @property
    def mean_rate_bps(self) -> float | None:
        """The rate, or the trace's long-run one; `None` where unshaped."""
        return self.trace.mean_rate_bps if self.trace else self.rate_bps

    def goodput_bps(self, mtu_bytes: int = 1500) -> float | None:
        """The most that TCP can carry: payload of full packets; `None` where unshaped."""
        if self.mean_rate_bps is None:
            return None
        share = (mtu_bytes - TCP_HEADERS_BYTES) / (mtu_bytes + self.overhead_bytes)
        return self.mean_rate_bps * share


_DEFAULT = LinkConfig()


@dataclass(frozen=True, slots=True)
class Change:
    """At `at_s` after the link's start, these fields take these values."""

    at_s: float
    updates: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Changes known beforehand, repeated with a period of `repeat_s` where that is given."""

    changes: tuple[Change, ...] = ()
    repeat_s: float | None = None

    def __post_init__(self) -> None:
        at = [change.at_s for change in self.changes]
        if at != sorted(at) or (at and at[0] < 0):
            raise ConfigError(f"changes at {at} s: must be in order, from 0 on")
        if self.repeat_s is not None and (self.repeat_s <= 0 or (at and at[-1] > self.repeat_s)):
            raise ConfigError(f"repeat_s of {self.repeat_s}: must span all changes")
        for change in self.changes:
            LinkConfig().changed(change.updates)

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Endless if it repeats: (nanoseconds since the link's start, updates)."""
        base_s = 0.0
        while self.changes:
            for change in self.changes:
                yield round((base_s + change.at_s) * 1e9), change.updates
            if self.repeat_s is None:
                return
            base_s += self.repeat_s
