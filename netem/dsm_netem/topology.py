"""Which hosts there are, what links join them, and over which hops a packet goes.

    Topology.pair(profile)        a ═══════ b

    Topology.of({("berlin", "ny"): transatlantic, ("ny", "tokyo"): transpacific})

                                  berlin ═══════ ny ═══════ tokyo
                                  10.99.0.1      .2         .3       also fd99::1, ::2, ::3

A packet between two hosts that no link joins passes through the others, on the way with the
fewest links; every link does to it what it does to its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .config import Change, ConfigError, LinkConfig, Timeline

HOSTS_MAX = 250  # the last byte of an address
IPV4_NETWORK = ipaddress.IPv4Network("10.99.0.0/24")
IPV6_NETWORK = ipaddress.IPv6Network("fd99::/64")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


ALWAYS_THE_SAME = Timeline()


@dataclass(frozen=True, slots=True)
class Path:
    """Both directions of a link: `there` from its first host to its second, and `back`."""

    there: LinkConfig
    back: LinkConfig
    timeline: Timeline = ALWAYS_THE_SAME
    name: str = "custom"

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; `Path.of_plain` makes it a path again."""
        return {
            "there": self.there.plain(),
            "back": self.back.plain(),
            "timeline": asdict(self.timeline),
            "name": self.name,
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Path:
        timeline = plain["timeline"]
        changes = tuple(Change(**change) for change in timeline["changes"])
        return cls(
            LinkConfig.of_plain(plain["there"]),
            LinkConfig.of_plain(plain["back"]),
            Timeline(changes, timeline["repeat_s"]),
            plain["name"],
        )

    @property
    def rtt_s(self) -> float:
        """The least that a round trip takes."""
        return self.there.delay_s + self.back.delay_s


@dataclass(frozen=True, slots=True)
class Topology:
    """Named hosts, and the links between pairs of them. Raises `ConfigError`."""

    hosts: tuple[str, ...]
    links: Mapping[tuple[str, str], Path]

    def __post_init__(self) -> None:
        if not 2 <= len(self.hosts) <= HOSTS_MAX:
            raise ConfigError(f"{len(self.hosts)} hosts: must be 2 to {HOSTS_MAX}")
        for name in self.hosts:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"host name {name!r}: must match {_NAME.pattern}")
        seen = set()
        for one, other in self.links:
            if one == other or frozenset((one, other)) in seen:
                raise ConfigError(f"the link between {one} and {other} is given twice, or a loop")
            seen.add(frozenset((one, other)))
            if unknown := {one, other} - set(self.hosts):
                raise ConfigError(f"a link names an unknown host: {', '.join(unknown)}")
        hops = self.next_hops()
        for one in self.hosts:
            for other in self.hosts:
                if one != other and (one, other) not in hops:
                    raise ConfigError(f"no links lead from {one} to {other}")

    @classmethod
    def pair(cls, path: Path) -> Topology:
        """Hosts `a` and `b`."""
        return cls(("a", "b"), {("a", "b"): path})

    @classmethod
    def of(cls, links: Mapping[tuple[str, str], Path]) -> Topology:
        """The hosts are those that the links name, in that order."""
        return cls(tuple(dict.fromkeys(name for ends in links for name in ends)), links)

    def directions(self) -> dict[tuple[str, str], LinkConfig]:
        """Every link as its two directions."""
        found = {}
        for (one, other), path in self.links.items():
            found[one, other] = path.there
            found[other, one] = path.back
        return found

    def ipv4(self, host: str) -> str:
        return str(IPV4_NETWORK[self.hosts.index(host) + 1])

    def ipv6(self, host: str) -> str:
        return str(IPV6_NETWORK[self.hosts.index(host) + 1])

    def next_hops(self) -> dict[tuple[str, str], str]:
        """(from, to) to the neighbour that comes next."""
        neighbours: dict[str, list[str]] = {name: [] for name in self.hosts}
        for one, other in self.links:
            neighbours[one].append(other)
            neighbours[other].append(one)
        hops = {}
        for target in self.hosts:  # breadth first, backwards from the target
            reached, waiting = {target}, deque([target])
            while waiting:
                near = waiting.popleft()
                for far in neighbours[near]:
                    if far not in reached:
                        reached.add(far)
                        hops[far, target] = near
                        waiting.append(far)
        return hops

    def rtt_s(self, one: str, other: str) -> float:
        """The least round trip between two hosts, over all hops."""
        configs, hops = self.directions(), self.next_hops()
        total_s = 0.0
        for start, target in ((one, other), (other, one)):
            while start != target:
                total_s += configs[start, hops[start, target]].delay_s
                start = hops[start, target]
        return total_s
