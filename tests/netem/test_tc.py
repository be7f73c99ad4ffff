"""The tc backend, as far as the kernel goes along: what has no netem has veth and routes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from dsm_netem import HostConfig, NotPermitted, Topology, Wan, profile
from dsm_netem.backends import TcBackend
from pyroute2 import IPRoute

PEER = str(Path(__file__).with_name("peer.py"))


def test_it_shapes_or_says_which_module_is_missing(wan):
    wan("metro").close()  # skips where namespaces are not permitted
    try:
        emulated = Wan("transatlantic", backend="tc", loss=0.0).start()
    except NotPermitted as error:
        missing = str(error)
    else:
        with emulated:
            assert "its own lateness" in emulated.cannot
            assert least_ping_s(emulated.hosts["a"], emulated.hosts["b"].ipv4) >= 0.08
        return
    assert "sch_netem" in missing
    assert "tun backend" in missing


def test_hosts_reach_each_other_through_the_router(wan, monkeypatch):
    wan("metro").close()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(TcBackend, "_module", "tc_unshaped")
    topology = Topology.pair(profile("metro").path())
    configs = {"a": HostConfig(congestion="reno"), "b": HostConfig()}
    backend = TcBackend(topology, configs, 0)
    try:
        assert backend.hosts["a"].settings["congestion"] == "reno"
        assert least_ping_s(backend.hosts["a"], backend.hosts["b"].ipv4) < 0.5
        assert reaches(backend.hosts["a"], backend.hosts["b"].ipv6)
        assert backend.hosts["a"].call(segments_max) == 1  # no super-packet for one draw
        backend.reset()
        assert backend.statistics() == {"device_drops": {"a": 0, "b": 0}}
    finally:
        backend.close()


def least_ping_s(near, address: str) -> float:
    command = [sys.executable, PEER, "ping", address, "3"]
    said = near.run(command, stdout=subprocess.PIPE, text=True, timeout_s=30).stdout
    return min(json.loads(said)["times"])


def reaches(near, address: str) -> bool:
    def refused() -> bool:
        with socket.socket(socket.AF_INET6) as end:
            end.settimeout(10)
            return end.connect_ex((address, 9)) == errno.ECONNREFUSED

    return near.call(refused)


def segments_max() -> int:
    with IPRoute() as netlink:
        (device,) = netlink.get_links(ifname="wan0")
    return device.get_attr("IFLA_GSO_MAX_SEGS")
