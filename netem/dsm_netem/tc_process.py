"""`python -m dsm_netem.tc_process`: two hosts and a router between them, shaped by the kernel.

    host a [wan0]══veth══[to-a] router [to-b]══veth══[wan0] host b

The router is a namespace of its own, because shaping at the sender meets TCP's small queues and
reports its losses to the local TCP. Segmentation offloads are off on the way: netem draws once per
frame, and a super-packet must not be lost as one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink.rtnl.tcmsg import sched_netem

from . import namespaces, sweep
from .commands import Verbs, read_setup, say, serve_blocking
from .config import ConfigError, LinkConfig
from .namespaces import HostConfig, NotPermitted
from .tc import netem_arguments
from .topology import Path, Topology

NETEM_MISSING = (
    "the kernel has no sch_netem (module sch_netem, CONFIG_NET_SCH_NETEM): use the tun backend"
)
QDISC = 0x10000  # 1:0
NEIGHBOUR_PROXY = 8  # NTF_PROXY

# pyroute2 0.9 takes netem's rate for an attribute of the qdisc message too, where it is another
# thing and an error. This hook of its runs after the options were made, and before the message.
sched_netem.fix_request = lambda context: context.pop("rate", None)


class Router:
    """The namespace in the middle, with a shaped device towards each host."""

    def __init__(self, topology: Topology, configs: Mapping[str, HostConfig]) -> None:
        """Leaves the calling thread in the router. Raises `NotPermitted`."""
        self._topology = topology
        self.hosts = {name: namespaces.new_namespace() for name in topology.hosts}
        self.namespace = namespaces.new_namespace()
        for forwarding in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            (FilePath("/proc/sys/net") / forwarding).write_text("1")
        self._links = dict(topology.directions())
        self.netlink = IPRoute()
        for name in topology.hosts:
            self._join(name, configs[name])
        for name in topology.hosts:
            self._answer_for_others(name)
        for (_, end), config in self._links.items():
            self._shape("add", end, config)

    def change(self, ways: list[tuple[str, str]], updates: Mapping[str, Any]) -> None:
        """Raises `ConfigError`."""
        changed = {way: self._links[way].changed(updates) for way in ways}
        for way, config in changed.items():
            self._shape("change", way[1], config)
            self._links[way] = config

    def settings(self, name: str, config: HostConfig, peer: str) -> dict[str, Any]:
        with namespaces.inside(self.hosts[name]):
            found = namespaces.in_force(self._topology.ipv4(peer))
        return {
            "ipv4": self._topology.ipv4(name),
            "ipv6": self._topology.ipv6(name),
            "namespace": f"/proc/{os.getpid()}/fd/{self.hosts[name]}",
            "mtu": config.mtu,
            **found,
        }

    def drops(self, name: str) -> int:
        with namespaces.inside(self.hosts[name]):
            return namespaces.device_drops()

    def _join(self, name: str, config: HostConfig) -> None:
        """A pair of devices: one end stays here, the other becomes the host's."""
        peer = {"ifname": namespaces.DEVICE, "net_ns_fd": self.hosts[name]}
        self.netlink.link("add", ifname=f"to-{name}"[:15], kind="veth", peer=peer)
        ipv4, ipv6 = self._topology.ipv4(name), self._topology.ipv6(name)
        with namespaces.inside(self.hosts[name]):
            namespaces.configure(ipv4, ipv6, config)
            with IPRoute() as netlink:  # what a host sends is not segmented before netem's draw
                (device,) = netlink.link_lookup(ifname=namespaces.DEVICE)
                netlink.link("set", index=device, gso_max_segs=1)
        (device,) = self.netlink.link_lookup(ifname=f"to-{name}"[:15])
        self.netlink.link("set", index=device, state="up", mtu=config.mtu)
        for address, bits in ((ipv4, 32), (ipv6, 128)):
            self.netlink.route("add", dst=f"{address}/{bits}", oif=device)

    def _answer_for_others(self, name: str) -> None:
        """A host takes the others for neighbours: the router answers in their place (RFC 1027)."""
        device_name = f"to-{name}"[:15]
        for setting, value in (
            (f"ipv4/conf/{device_name}/proxy_arp", "1"),
            (f"ipv4/neigh/{device_name}/proxy_delay", "0"),
            (f"ipv6/conf/{device_name}/proxy_ndp", "1"),
            (f"ipv6/neigh/{device_name}/proxy_delay", "0"),
        ):
            (FilePath("/proc/sys/net") / setting).write_text(value)
        (device,) = self.netlink.link_lookup(ifname=device_name)
        for other in self._topology.hosts:
            if other != name:
                ipv6 = self._topology.ipv6(other)
                self.netlink.neigh("add", dst=ipv6, ifindex=device, flags=NEIGHBOUR_PROXY)

    def _shape(self, verb: str, towards: str, config: LinkConfig) -> None:
        (device,) = self.netlink.link_lookup(ifname=f"to-{towards}"[:15])
        try:
            self.netlink.tc(verb, "netem", device, QDISC, **netem_arguments(config))
        except NetlinkError as error:
            raise NotPermitted(f"{NETEM_MISSING} ({error.args[-1]})") from error


def run(setup: dict[str, Any]) -> None:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    links = {(one, other): Path.of_plain(plain) for one, other, plain in setup["links"]}
    configs = {name: HostConfig(**config) for name, config in setup["hosts"].items()}
    try:
        sweep.sweep()
        topology = Topology(tuple(configs), links)
        if len(configs) != 2:
            raise ConfigError("the tc backend joins two hosts only: use the tun backend")
        router = Router(topology, configs)
        one, other = topology.hosts
        found = {
            one: router.settings(one, configs[one], other),
            other: router.settings(other, configs[other], one),
        }
    except (PermissionError, NetlinkError) as error:
        needs = "making devices, routes and qdiscs needs CAP_NET_ADMIN"
        say({"error": f"{needs} ({error}): use the relay backend", "kind": "permission"})
        return
    except NotPermitted as error:
        say({"error": str(error), "kind": "permission"})
        return
    except ConfigError as error:
        say({"error": str(error), "kind": "config"})
        return
    namespaces.enter(home)
    before = {name: router.drops(name) for name in configs}

    def reset() -> None:
        before.update({name: router.drops(name) for name in configs})

    verbs: Verbs = {
        "change": lambda ways, updates: router.change([(a, b) for a, b in ways], updates),
        "reset": reset,
        "statistics": lambda: {
            "device_drops": {name: router.drops(name) - before[name] for name in configs}
        },
    }
    say({"hosts": found, "marker": sweep.marker(os.getpid())})
    with contextlib.closing(router.netlink):
        serve_blocking(setup["parent_pid"], verbs)
    sweep.kill_inside([*router.hosts.values(), router.namespace])


if __name__ == "__main__":
    run(read_setup())
