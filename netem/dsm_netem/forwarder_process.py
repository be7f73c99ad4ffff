"""`python -m dsm_netem.forwarder_process`: namespaces and the links between them, for `wan.Wan`.

It holds the namespaces, so they end with it. What still runs in them then is killed: nothing
else could end it once the network that it was started for is gone.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from . import namespaces, sweep
from .commands import Verbs, read_setup, say, serve_blocking
from .config import ConfigError
from .forwarder import FRAME_BYTES_MAX, Forwarder, Host
from .precision import become_punctual
from .topology import Path, Topology


def build(setup: dict[str, Any]) -> tuple[Topology, dict[str, Host]]:
    """The hosts, ready. Raises `NotPermitted`, `ConfigError`."""
    links = {(one, other): Path.of_plain(plain) for one, other, plain in setup["links"]}
    topology = Topology(tuple(setup["hosts"]), links)
    hosts = {
        name: Host(name, topology, namespaces.HostConfig(**config))
        for name, config in setup["hosts"].items()
    }
    return topology, hosts


def read_back(topology: Topology, hosts: dict[str, Host]) -> dict[str, Any]:
    """What is in force on each host. Raises `ConfigError` if that is not what was asked for."""
    hops = topology.next_hops()
    found = {}
    for name, host in hosts.items():
        neighbour = next(hop for (start, _), hop in hops.items() if start == name)
        found[name] = host.settings(hosts[neighbour])
        wanted = host.config.congestion
        if wanted and found[name]["congestion"] != wanted:
            raise ConfigError(
                f"congestion control {wanted!r} was asked for, {found[name]['congestion']!r} is "
                f"in force; available: {namespaces.available_congestion()}"
            )
    for host in hosts.values():  # what the probing has sent belongs to no experiment
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(host.tun, FRAME_BYTES_MAX)
    return found


def prepare(setup: dict[str, Any]) -> tuple[Topology, dict[str, Host]] | None:
    """Makes the hosts and tells the parent; `None` if that failed."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    sweep.sweep()
    try:
        topology, hosts = build(setup)
        found = read_back(topology, hosts)
    except namespaces.NotPermitted as error:
        say({"error": str(error), "kind": "permission"})
        return None
    except ConfigError as error:
        say({"error": str(error), "kind": "config"})
        return None
    namespaces.enter(home)
    os.close(home)
    say({"hosts": found, "marker": sweep.marker(os.getpid())})
    return topology, hosts


def forward(setup: dict[str, Any], topology: Topology, hosts: dict[str, Host]) -> None:
    realtime = become_punctual()
    forwarder = Forwarder(topology, hosts, setup["seed"])
    verbs: Verbs = {
        "change": lambda ways, updates: forwarder.change([(a, b) for a, b in ways], updates),
        "reset": forwarder.reset,
        "statistics": lambda: {**forwarder.statistics(), "realtime": realtime},
    }
    serve_blocking(setup["parent_pid"], verbs, forwarder.handlers())
    sweep.kill_inside([host.namespace for host in hosts.values()])


def main() -> None:
    setup = read_setup()
    if (prepared := prepare(setup)) is not None:
        forward(setup, *prepared)


if __name__ == "__main__":
    main()
