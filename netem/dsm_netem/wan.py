"""`Wan`: hosts with wide-area links between them, for as long as a `with` block lasts.

with Wan("transatlantic") as wan:
    a, b = wan.hosts.values()
    with b.running(["iperf3", "-s"]):
        a.run(["iperf3", "-c", b.ipv4])
    wan.change({"loss": 0.01}, one_way=("a", "b"))
    assert wan.verdict().valid, "the machine was too busy: repeat"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from . import backends
from .config import ConfigError, Outage
from .host import Host
from .namespaces import HostConfig
from .profiles import Profile, profile
from .topology import Path, Topology
from .validity import Verdict, judge


class Wan:
    """A topology, running on a backend.

    `what` is the name of a profile, a `Profile`, a `Path` (both join hosts `a` and `b`) or a
    whole `Topology`. `overrides` are fields of the profile. `host` says how TCP behaves: for all,
    or by name. `backend` is `"tun"`, `"tc"`, `"relay"`, or `"auto"`, which takes the best that is
    allowed; then `backend`, `cannot` and `passed_over` say which, what it leaves out, and why
    not a better one. Raises `ConfigError`, `NotPermitted`.
    """

    def __init__(
        self,
        what: str | Profile | Path | Topology,
        *,
        backend: str = "auto",
        host: HostConfig | Mapping[str, HostConfig] | None = None,
        seed: int = 0,
        **overrides: Any,
    ) -> None:
        if isinstance(what, str):
            what = profile(what)
        if isinstance(what, Profile):
            self.profile: Profile | None = what.changed(overrides)
            what = self.profile.path()
        elif overrides:
            raise ConfigError("only a profile's figures can be overridden: change the path itself")
        else:
            self.profile = None
        self.topology = what if isinstance(what, Topology) else Topology.pair(what)
        self.seed = seed
        self._host = host or HostConfig()
        self._wanted = backend
        self._backend: backends.Backend | None = None

    def start(self) -> Self:
        """Raises `ConfigError`, `NotPermitted`, `ChildError`."""
        hosts = (
            dict.fromkeys(self.topology.hosts, self._host)
            if isinstance(self._host, HostConfig)
            else {name: self._host.get(name, HostConfig()) for name in self.topology.hosts}
        )
        self._backend, self.passed_over = backends.start(
            self._wanted, self.topology, hosts, self.seed
        )
        return self

    def close(self) -> None:
        """Ends the links, and every program that still runs on one of the hosts."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    @property
    def backend(self) -> str:
        return self._running().name

    @property
    def cannot(self) -> tuple[str, ...]:
        """What of the topology this backend leaves out."""
        return self._running().cannot

    @property
    def hosts(self) -> dict[str, Host]:
        return self._running().hosts

    def address(self, host: str, port: int) -> tuple[str, int]:
        """Where the other hosts reach this host's TCP port; with the relay, another port."""
        return self._running().address(host, port)

    def goodput_bps(self, start: str, end: str) -> float | None:
        """The most that TCP gets over the link from `start` to `end`, as it was configured.

        With packets, framing and headers are taken off; a relay's rate is that of the byte
        streams. `None` where unshaped.
        """
        return self._running().goodput_bps(self.topology.directions()[start, end])

    def change(self, updates: Mapping[str, Any], *, one_way: tuple[str, str] | None = None) -> None:
        """Changes fields of the links' `LinkConfig`s from now on: all, or one direction.

        Raises `ConfigError`.
        """
        ways = list(self.topology.directions())
        if one_way is not None:
            if one_way not in ways:
                raise ConfigError(f"no link leads directly from {one_way[0]} to {one_way[1]}")
            ways = [one_way]
        self._running().change(ways, updates)

    def set_rate(self, rate_bps: float | None) -> None:
        self.change({"rate_bps": rate_bps})

    def set_rtt(self, rtt_s: float) -> None:
        self.change({"delay_s": rtt_s / 2})

    def outage(self, kind: Outage = "drop", *, one_way: tuple[str, str] | None = None) -> None:
        """`"drop"` loses everything, `"hold"` keeps it, `"none"` ends the outage."""
        self.change({"outage": kind}, one_way=one_way)

    def reset(self) -> None:
        """Statistics, and with them the verdict, count from here."""
        self._running().reset()

    def statistics(self) -> dict[str, Any]:
        """What the links did, what is in force on the hosts, and whether to believe it."""
        running = self._running()
        counted = running.statistics()
        verdict = judge(counted, self._rtt_s())
        return {
            "backend": running.name,
            "cannot": list(running.cannot),
            "profile": self.profile.facts() if self.profile else None,
            "seed": self.seed,
            "hosts": {name: host.settings for name, host in running.hosts.items()},
            **counted,
            "valid": verdict.valid,
            "invalid_because": list(verdict.reasons),
        }

    def verdict(self) -> Verdict:
        """Whether what was measured since the start, or the last `reset`, may be believed."""
        return judge(self._running().statistics(), self._rtt_s())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = self.profile.name if self.profile else "custom"
        state = f"on {self._backend.name}" if self._backend else "not running"
        return f"<Wan {name}, {' '.join(self.topology.hosts)}, {state}>"

    def _rtt_s(self) -> float:
        return min(path.rtt_s for path in self.topology.links.values())

    def _running(self) -> backends.Backend:
        if self._backend is None:
            raise ConfigError("the WAN is not running: use it as a context manager, or start it")
        return self._backend
