"""Carries packets between TUN devices, over the links of a topology: the tun backend's heart.

    host a [TUN] ──read──▶ Link a→b ──write──▶ [TUN] host b
           [TUN] ◀─write── Link b→a ◀──read──

The link is a hop of its own between the hosts, not a queue inside the sender: there, TCP would
notice each full queue and each lost packet by itself. What is read is a super-packet of many
segments; the link decides about segments, and the frame is cut to what arrives.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any

from . import namespaces, superpacket
from .commands import Handlers
from .link import Delivery, Link
from .precision import Alarm, Lateness, Pulse
from .topology import Topology

FRAME_BYTES_MAX = 65536 + superpacket.VNET_BYTES
READS_MAX = 32  # frames taken from one device before the others and the alarm get their turn

Frame = tuple[bytes, int]  # as read, and how many segments it holds
Way = tuple[str, str]  # from one host to a neighbour


class Host:
    """A namespace with a TUN device in it."""

    def __init__(self, name: str, topology: Topology, config: namespaces.HostConfig) -> None:
        """Leaves the calling thread in the new namespace. Raises `NotPermitted`."""
        self.name = name
        self.config = config
        self.ipv4, self.ipv6 = topology.ipv4(name), topology.ipv6(name)
        self.namespace = namespaces.new_namespace()
        self.tun = namespaces.open_tun(config.offloads)
        namespaces.configure(self.ipv4, self.ipv6, config)

    def settings(self, peer: Host) -> dict[str, Any]:
        """Where it is and how its TCP behaves, read back."""
        with namespaces.inside(self.namespace):
            found = namespaces.in_force(peer.ipv4)
        return {
            "ipv4": self.ipv4,
            "ipv6": self.ipv6,
            "namespace": f"/proc/{os.getpid()}/fd/{self.namespace}",
            "offloads": self.config.offloads,
            "mtu": self.config.mtu,
            **found,
        }

    def drops(self) -> int:
        with namespaces.inside(self.namespace):
            return namespaces.device_drops()


class Forwarder:
    """Runs on the loop that calls its `handlers`."""

    def __init__(self, topology: Topology, hosts: Mapping[str, Host], seed: int) -> None:
        self._topology = topology
        self._hosts = hosts
        self._hops = topology.next_hops()
        self._names: dict[bytes, str] = {}
        for host in hosts.values():
            self._names[socket.inet_pton(socket.AF_INET, host.ipv4)] = host.name
            self._names[socket.inet_pton(socket.AF_INET6, host.ipv6)] = host.name
        now_ns = time.monotonic_ns()
        self._links: dict[Way, Link[Frame]] = {
            way: Link(
                config,
                Random(f"{seed}/{way[0]}/{way[1]}"),
                timeline=self._timeline(way),
                start_ns=now_ns,
            )
            for way, config in topology.directions().items()
        }
        self._links_from = {
            name: [link for way, link in self._links.items() if way[0] == name] for name in hosts
        }
        self._flips = Random(f"{seed}/flips")
        self._alarm = Alarm()
        self._pulse = Pulse(now_ns)
        self.reset()

    def handlers(self) -> Handlers:
        """What to call when which descriptor is readable."""
        return {
            self._pulse.alarm.fd: lambda: self._pulse.rang(time.monotonic_ns()),
            self._alarm.fd: self._rang,
            **{host.tun: partial(self._readable, host) for host in self._hosts.values()},
        }

    def change(self, ways: list[Way], updates: Mapping[str, Any]) -> None:
        """Changes links while they run. Raises `ConfigError` and changes nothing then."""
        for way in ways:
            self._links[way[0], way[1]].config.changed(updates)
        for way in ways:
            self._links[way[0], way[1]].change(time.monotonic_ns(), updates)
        self._pump()

    def reset(self) -> None:
        """Statistics count from here."""
        self._lateness = Lateness()
        self._pulse.lateness = Lateness()
        self._unroutable = 0
        self._write_errors = 0
        self._began_ns = time.monotonic_ns()
        self._cpu_began_s = time.process_time()
        self._drops_before = {name: host.drops() for name, host in self._hosts.items()}
        self._counters_before = {w: asdict(link.counters) for w, link in self._links.items()}
        for link in self._links.values():
            link.counters.queue_peak_bytes = 0

    def statistics(self) -> dict[str, Any]:
        elapsed_s = (time.monotonic_ns() - self._began_ns) / 1e9
        return {
            "elapsed_s": round(elapsed_s, 3),
            "cpu_share": round((time.process_time() - self._cpu_began_s) / elapsed_s, 3),
            "lateness": self._lateness.summary(),  # of what was handed on
            "stalls": self._pulse.lateness.summary(),  # of beats at all times
            "unroutable_packets": self._unroutable,
            "write_errors": self._write_errors,
            "device_drops": {
                name: host.drops() - self._drops_before[name] for name, host in self._hosts.items()
            },
            "links": {f"{a}->{b}": self._link_statistics((a, b)) for a, b in self._links},
        }

    def _link_statistics(self, way: Way) -> dict[str, Any]:
        link = self._links[way]
        counters, before = asdict(link.counters), self._counters_before[way]
        since = {
            name: value if name == "queue_peak_bytes" else value - before[name]
            for name, value in counters.items()
        }
        since["queued_bytes"] = link.queued_bytes(time.monotonic_ns())
        since["inside_packets"] = link.inside()[0]
        return {**since, "config": link.config.brief()}

    def _timeline(self, way: Way) -> Any:
        path = self._topology.links.get(way) or self._topology.links[way[1], way[0]]
        return path.timeline

    # -- the way of a packet --

    def _readable(self, host: Host) -> None:
        for _ in range(READS_MAX):
            try:
                frame = os.read(host.tun, FRAME_BYTES_MAX)
            except BlockingIOError:
                break
            self._route(host.name, frame)
        self._wake_earlier(host)

    def _route(self, at: str, frame: bytes) -> None:
        """Puts a frame onto the link to the next hop."""
        _, destination = superpacket.addresses(frame)
        target = self._names.get(destination)
        if target is None or target == at:  # multicast, mostly
            self._unroutable += 1
            return
        shape = superpacket.shape_of(frame)
        self._links[at, self._hops[at, target]].accept(
            time.monotonic_ns(),
            (frame, shape.segments),
            shape.segment_bytes,
            shape.segments,
            shape.last_bytes,
        )

    def _wake_earlier(self, host: Host) -> None:
        """Moves the alarm forward, should what was read be due before anything else."""
        now_ns = time.monotonic_ns()
        waits = [link.wait_ns(now_ns) for link in self._links_from[host.name]]
        wait_ns = min((wait for wait in waits if wait is not None), default=None)
        if wait_ns == 0:
            self._pump()
        elif wait_ns is not None:
            at_ns = self._alarm.at_ns
            if at_ns is None or now_ns + wait_ns < at_ns:
                self._alarm.set(now_ns + wait_ns, now_ns)

    def _rang(self) -> None:
        self._alarm.acknowledge()
        self._pump()

    def _pump(self) -> None:
        """Hands on what is due and sets the alarm for what is next."""
        for way, link in self._links.items():
            for delivery in link.release(time.monotonic_ns()):
                self._lateness.record(time.monotonic_ns() - delivery.due_ns)
                self._arrived(way[1], delivery)
        now_ns = time.monotonic_ns()
        waits = [
            wait for link in self._links.values() if (wait := link.wait_ns(now_ns)) is not None
        ]
        self._alarm.set(now_ns + min(waits) if waits else None, now_ns)

    def _arrived(self, at: str, delivery: Delivery[Frame]) -> None:
        frame, segments = delivery.packet
        if delivery.end - delivery.first < segments:
            frame = superpacket.cut(frame, delivery.first, delivery.end)
        if delivery.flaw:
            frame = superpacket.flip(frame, delivery.flaw, self._flips.random())
        if self._names[superpacket.addresses(frame)[1]] != at:
            self._route(at, frame)
            return
        try:
            os.write(self._hosts[at].tun, frame)
        except OSError:  # no memory, or not a packet any more
            self._write_errors += 1
