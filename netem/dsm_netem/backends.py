"""What can carry a topology: `tun`, `tc`, `relay`; and which of them is to be had here.

A backend is made by calling its class, which starts it, and says in `cannot` what of the topology
it leaves out. All of them run from the same `Topology`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from .child import Child, ChildError
from .config import ConfigError, LinkConfig
from .host import Host
from .namespaces import HostConfig, NotPermitted
from .relay import Relay
from .relay_server import CANNOT
from .tc import left_out
from .topology import Path, Topology

Way = tuple[str, str]


class Backend(Protocol):
    """A running emulation."""

    name: str
    cannot: tuple[str, ...]
    hosts: dict[str, Host]

    def address(self, host: str, port: int) -> tuple[str, int]:
        """Where the other hosts reach a TCP port of this one."""

    def goodput_bps(self, config: LinkConfig) -> float | None:
        """The most that TCP gets over a link that is configured so."""

    def change(self, ways: Sequence[Way], updates: Mapping[str, Any]) -> None:
        """Changes directions of links while they run. Raises `ConfigError`."""

    def reset(self) -> None:
        """Statistics count from here."""

    def statistics(self) -> dict[str, Any]:
        """Counters, and lateness where it is known."""

    def close(self) -> None:
        """Ends it and everything that was made for it."""


class _Holder:
    """A backend whose hosts are namespaces that a process of ours holds."""

    name: str
    cannot: tuple[str, ...] = ()
    _module: str

    def __init__(self, topology: Topology, hosts: Mapping[str, HostConfig], seed: int) -> None:
        if importlib.util.find_spec("pyroute2") is None:
            raise NotPermitted(
                "making hosts needs pyroute2: pip install 'dsm-wan[netem]', "
                "or use the relay backend"
            )
        setup = {
            "seed": seed,
            "hosts": {name: asdict(hosts[name]) for name in topology.hosts},
            "links": [(one, other, path.plain()) for (one, other), path in topology.links.items()],
        }
        try:
            self._child = Child(self._module, setup)
        except ChildError as error:
            kinds = {"permission": NotPermitted, "config": ConfigError}
            raise kinds.get(error.kind, ChildError)(str(error)) from None
        marker = self._child.answer["marker"]
        self.hosts = {
            name: Host(name, found["ipv4"], found["ipv6"], found.pop("namespace"), found, marker)
            for name, found in self._child.answer["hosts"].items()
        }

    def address(self, host: str, port: int) -> tuple[str, int]:
        return self.hosts[host].ipv4, port

    def goodput_bps(self, config: LinkConfig) -> float | None:
        return config.goodput_bps(min(host.settings["mtu"] for host in self.hosts.values()))

    def change(self, ways: Sequence[Way], updates: Mapping[str, Any]) -> None:
        self._child.command("change", ways=list(ways), updates=dict(updates))

    def reset(self) -> None:
        self._child.command("reset")

    def statistics(self) -> dict[str, Any]:
        statistics: dict[str, Any] = self._child.command("statistics")
        return statistics

    def close(self) -> None:
        self._child.close()


class TunBackend(_Holder):
    """Packets through TUN devices and a forwarder of ours: all that the model can do."""

    name = "tun"
    _module = "dsm_netem.forwarder_process"


class TcBackend(_Holder):
    """Packets through the kernel's own netem, on a router between the hosts."""

    name = "tc"
    _module = "dsm_netem.tc_process"

    def __init__(self, topology: Topology, hosts: Mapping[str, HostConfig], seed: int) -> None:
        super().__init__(topology, hosts, seed)
        (path,) = topology.links.values()
        self.cannot = left_out(path)


class RelayBackend:
    """Byte streams over TCP relays, without privileges; both hosts are this machine."""

    name = "relay"

    def __init__(self, topology: Topology, hosts: Mapping[str, HostConfig], seed: int) -> None:
        if len(topology.hosts) != 2:
            raise ConfigError("the relay backend joins two hosts only: use the tun backend")
        (((_, far), path),) = topology.links.items()
        self._far = far
        self._seed = seed
        self._there, self._back, self.cannot = _for_relay(path)
        if any(host.congestion for host in hosts.values()):
            self.cannot = (*self.cannot, "congestion control per host")
        self.hosts = {name: Host(name, "127.0.0.1", "::1", None, {}) for name in topology.hosts}
        self._relays: dict[int, Relay] = {}

    def address(self, host: str, port: int) -> tuple[str, int]:
        if host != self._far:
            raise ConfigError(f"the relay backend leads to {self._far} only, not to {host}")
        if port not in self._relays:
            relay = Relay(
                "127.0.0.1", port, forward=self._there, backward=self._back, seed=self._seed
            )
            self._relays[port] = relay.start()
        relay = self._relays[port]
        return relay.host, relay.port

    def goodput_bps(self, config: LinkConfig) -> float | None:
        return config.mean_rate_bps

    def change(self, ways: Sequence[Way], updates: Mapping[str, Any]) -> None:
        for relay in self._relays.values():
            for _, end in ways:
                relay.change(updates, "forward" if end == self._far else "backward")

    def reset(self) -> None:
        """A relay counts from its start."""

    def statistics(self) -> dict[str, Any]:
        relays = {port: relay.statistics() for port, relay in self._relays.items()}
        latest = [relay[way]["lateness"] for relay in relays.values() for way in _WAYS]
        worst: dict[str, float] = max(latest, key=lambda lateness: lateness["p99_us"], default={})
        return {"lateness": worst, "relays": relays}

    def close(self) -> None:
        for relay in self._relays.values():
            relay.close()


_WAYS = ("forward", "backward")
BACKENDS: dict[str, type[TunBackend | TcBackend | RelayBackend]] = {
    "tun": TunBackend,  # best first: this is the order in which `auto` tries them
    "tc": TcBackend,
    "relay": RelayBackend,
}


def start(
    backend: str, topology: Topology, hosts: Mapping[str, HostConfig], seed: int
) -> tuple[Backend, tuple[str, ...]]:
    """Starts a backend, or with `auto` the best that is allowed; says why the better ones are not.

    Raises `ConfigError`, `NotPermitted`.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise ConfigError(f"no backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
        return BACKENDS[backend](topology, hosts, seed), ()
    passed: list[str] = []
    for name, candidate in BACKENDS.items():
        try:
            return candidate(topology, hosts, seed), tuple(passed)
        except NotPermitted as error:
            passed.append(f"{name}: {error}")
    raise NotPermitted("; ".join(passed))


def _for_relay(path: Path) -> tuple[LinkConfig, LinkConfig, tuple[str, ...]]:
    """Both directions as a relay can do them, and what they lose by it."""
    lost = []
    configs = []
    for config in (path.there, path.back):
        updates: dict[str, Any] = {
            name: getattr(LinkConfig(), name) for name in CANNOT if getattr(config, name)
        }
        if config.trace:
            updates |= {"trace": None, "rate_bps": config.mean_rate_bps}
            lost.append("delivery trace (its mean rate instead)")
        lost += [name for name in CANNOT if name in updates]
        updates |= {"overhead_bytes": 0, "queue_bytes": None, "ordered": True}
        configs.append(config.changed(updates))
    if path.timeline.changes:
        lost.append("scheduled outages")
    lost += ["packets: no slow start, no drops at a full queue, 20 ms of queue"]
    return configs[0], configs[1], tuple(dict.fromkeys(lost))
