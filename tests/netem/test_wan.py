"""Real packets between namespaces. Never early is exact; late has generous bounds, since the
machine may be crowded, and where timing decides the run is repeated until it was a valid one."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path as FilePath
from random import Random
from statistics import median
from typing import Any

import pytest
from dsm_netem import ConfigError, Link, LinkConfig, sweep
from dsm_netem.host import Host
from dsm_netem.namespaces import HostConfig, available_congestion
from dsm_netem.topology import Path, Topology
from dsm_netem.wan import Wan

PEER = str(FilePath(__file__).with_name("peer.py"))
TRIES = 4
HEADERS_BYTES = 28  # IPv4 and UDP


def path(rate_bps: float | None = None, rtt_s: float = 0.0, **both: Any) -> Path:
    config = LinkConfig(rate_bps=rate_bps, delay_s=rtt_s / 2, **both)
    return Path(config, config)


def program(verb: str, *args: Any) -> list[str]:
    return [sys.executable, PEER, verb, *map(str, args)]


def exchange(near: Host, send: list[str], far: Host, receive: list[str]) -> tuple[Any, Any]:
    """Runs a receiver, and a sender once that is ready; what each of them said."""
    with far.popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sent = near.run(send, stdout=subprocess.PIPE, text=True, timeout_s=60)
        received = receiver.communicate(timeout=60)[0]
    return json.loads(sent.stdout), json.loads(received)


def stream(near: Host, far: Host, size_bytes: int, congestion: str = "") -> tuple[Any, Any]:
    send = program("send-stream", far.ipv4, size_bytes, *([congestion] if congestion else []))
    return exchange(near, send, far, program("receive-stream", far.ipv4))


def datagrams(near: Host, far: Host, size_bytes: int, bursts: list[tuple[float, int]]) -> Any:
    send = program("send-datagrams", far.ipv4, size_bytes, json.dumps(bursts))
    return exchange(near, send, far, program("receive-datagrams", far.ipv4, 1.0))


def ping(near: Host, far: Host, count: int = 10) -> list[float]:
    command = program("ping", far.ipv4, count)
    said = near.run(command, stdout=subprocess.PIPE, text=True, timeout_s=60).stdout
    times: list[float] = json.loads(said)["times"]
    return times


def until(so: Callable[[], bool]) -> None:
    """A crowded machine may take seconds to start a program."""
    deadline = time.monotonic() + 20
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_round_trip_takes_the_delay_of_both_ways(wan):
    emulated = wan(path(rtt_s=0.03))
    near, far = emulated.hosts.values()
    times_s = ping(near, far)
    assert min(times_s) >= 0.03
    assert median(times_s) < 0.05
    emulated.change({"delay_s": 0.055}, one_way=("b", "a"))  # the way back has a link of its own
    assert min(ping(near, far, 3)) >= 0.07


@pytest.mark.parametrize("offloads", [True, False])
def test_tcp_goes_at_the_rate_less_framing_and_no_faster(wan, offloads):
    link = path(50e6, 0.01, queue_bytes=200_000, overhead_bytes=38)
    size_bytes = 5_000_000
    for _ in range(TRIES):
        emulated = wan(link, host=HostConfig(offloads=offloads, congestion="cubic"))
        near, far = emulated.hosts.values()
        sent, received = stream(near, far, size_bytes)
        assert (received["bytes"], received["wrong"]) == (size_bytes, 0)
        wire_s = size_bytes * (1538 / 1448) * 8 / 50e6
        assert sent["seconds"] >= wire_s
        if sent["seconds"] < wire_s + 0.3:
            return
    pytest.fail(f"took {sent['seconds']:.2f} s for {wire_s:.2f} s on the wire, {TRIES} times")


def test_the_bottleneck_is_a_hop_of_its_own(wan):
    """A sender that overruns the link hears nothing of it: no error, no drop at its own device."""
    emulated = wan(path(10e6, 0.01, queue_bytes=30_000))
    near, far = emulated.hosts.values()
    sent, received = datagrams(near, far, 1000, [(0, 500)])
    link = emulated.statistics()["links"]["a->b"]
    assert sent["errors"] == 0
    assert link["in_packets"] == 500
    assert link["dropped_packets"] == 500 - len(received["numbers"]) > 400
    assert emulated.statistics()["device_drops"] == {"a": 0, "b": 0}


def test_tcp_fills_the_queue_of_the_bottleneck_and_overflows_it(wan):
    """Shaped inside the sender, its small queues would keep it from ever doing so."""
    emulated = wan(path(20e6, 0.02, queue_bytes=50_000), host=HostConfig(congestion="cubic"))
    sent, received = stream(*emulated.hosts.values(), 3_000_000)
    link = emulated.statistics()["links"]["a->b"]
    assert (received["bytes"], received["wrong"]) == (3_000_000, 0)
    assert 45_000 < link["queue_peak_bytes"] <= 50_000
    assert link["dropped_packets"] > 0
    assert sent["retransmitted"] >= link["dropped_packets"] / 2
    assert emulated.statistics()["device_drops"] == {"a": 0, "b": 0}


def test_acknowledgements_wait_for_a_link_of_their_own(wan):
    emulated = wan(path(100e6, 0.01))
    near, far = emulated.hosts.values()
    size_bytes = 1_000_000
    quick, _ = stream(near, far, size_bytes)
    emulated.change({"rate_bps": 60e3}, one_way=("b", "a"))
    emulated.reset()
    slow, _ = stream(near, far, size_bytes)
    back = emulated.statistics()["links"]["b->a"]
    assert back["out_packets"] > 10
    assert slow["seconds"] >= back["out_bytes"] * 8 / 60e3 - 0.5  # what is still inside: the FIN's
    assert slow["seconds"] > 2 * quick["seconds"]


def test_loss_is_what_was_asked_for_and_in_order(wan):
    emulated = wan(path(200e6, 0.01, loss=0.05))
    near, far = emulated.hosts.values()
    _, received = datagrams(near, far, 200, [(i * 0.05, 500) for i in range(40)])
    numbers = received["numbers"]
    assert numbers == sorted(numbers)
    assert 1 - len(numbers) / 20_000 == pytest.approx(0.05, rel=0.1)
    link = emulated.statistics()["links"]["a->b"]
    assert link["lost_packets"] == 20_000 - len(numbers)


@pytest.mark.parametrize("offloads", [True, False])
def test_tcp_repairs_losses_of_single_segments(wan, offloads):
    emulated = wan(
        path(100e6, 0.01, loss=0.01, queue_bytes=200_000, duplicate=0.01, reorder=0.01),
        host=HostConfig(offloads=offloads),
    )
    near, far = emulated.hosts.values()
    sent, received = stream(near, far, 3_000_000, "bbr")
    assert (received["bytes"], received["wrong"]) == (3_000_000, 0)
    link = emulated.statistics()["links"]["a->b"]
    assert sent["retransmitted"] >= link["lost_packets"] / 2 > 0
    assert link["lost_packets"] / link["in_packets"] == pytest.approx(0.01, abs=0.007)


def test_silent_flips_pass_tcp_and_the_others_do_not(wan):
    emulated = wan(path(100e6, 0.01, corrupt_silent=0.02))
    near, far = emulated.hosts.values()
    _, received = stream(near, far, 1_000_000)
    assert received["bytes"] == 1_000_000
    silent = emulated.statistics()["links"]["a->b"]["corrupted_packets"]
    assert 0 < received["wrong"] <= silent
    emulated.change({"corrupt_silent": 0.0, "corrupt": 0.02})
    _, received = stream(near, far, 1_000_000)
    assert (received["bytes"], received["wrong"]) == (1_000_000, 0)
    assert emulated.statistics()["links"]["a->b"]["corrupted_packets"] > silent


def completion_s(link: Link[int], size_bytes: int, bursts: list[tuple[float, int]]) -> float:
    """When the last packet of a pattern has arrived, in virtual time."""
    for at_s, count in bursts:
        for _ in range(count):
            link.accept(round(at_s * 1e9), 0, size_bytes + HEADERS_BYTES)
    return max(delivery.due_ns for delivery in link.release(3600 * 10**9)) / 1e9


def test_virtual_time_and_the_emulator_agree(wan):
    config = LinkConfig(rate_bps=8e6, delay_s=0.04, queue_bytes=150_000, overhead_bytes=38)
    bursts = [(0.0, 60), (0.1, 100), (0.35, 30), (0.8, 40)]
    predicted_s = completion_s(Link(config, Random(0)), 1000, bursts)
    measured_s = []
    for _ in range(TRIES):
        emulated = wan(Path(config, config))
        near, far = emulated.hosts.values()
        sent, received = datagrams(near, far, 1000, bursts)
        measured_s.append(max(received["times"]) - sent["began"])
        if measured_s[-1] == pytest.approx(predicted_s, rel=0.05):
            return
    pytest.fail(f"predicted {predicted_s:.3f} s, measured {measured_s}")


def test_an_outage_loses_everything_and_ends(wan):
    emulated = wan(path(100e6, 0.01))
    near, far = emulated.hosts.values()
    ping(near, far, 1)
    emulated.outage("drop", one_way=("a", "b"))
    with far.running(program("receive-stream", far.ipv4), stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"ready\n"
        with near.running(
            program("send-stream", far.ipv4, 10_000), stdout=subprocess.PIPE
        ) as sender:
            until(lambda: emulated.statistics()["links"]["a->b"]["lost_packets"] >= 1)
            time.sleep(0.2)
            assert sender.poll() is None
            emulated.outage("none")
            assert sender.wait(timeout=20) == 0
            sender.communicate()
        assert json.loads(receiver.communicate(timeout=20)[0])["wrong"] == 0


def test_packets_between_distant_hosts_cross_all_links_between(wan):
    topology = Topology.of({("berlin", "ny"): path(100e6, 0.02), ("ny", "tokyo"): path(20e6, 0.03)})
    emulated = wan(topology)
    berlin, _, tokyo = emulated.hosts.values()
    assert min(ping(berlin, tokyo, 5)) >= 0.05
    sent, received = stream(berlin, tokyo, 1_000_000)
    assert received["wrong"] == 0
    assert sent["seconds"] >= 1_000_000 * 8 / 20e6
    links = emulated.statistics()["links"]
    assert links["berlin->ny"]["out_packets"] == links["ny->tokyo"]["in_packets"] > 600


@pytest.mark.parametrize("congestion", available_congestion().split(", "))
def test_congestion_control_and_socket_limits_are_what_was_asked_for(wan, congestion):
    limits = (4096, 20_000, 1_000_000)
    config = HostConfig(congestion=congestion, wmem_bytes=limits)
    emulated = wan(path(), host={"a": config, "b": HostConfig()})

    def on_socket() -> str:
        with socket.socket() as end:
            end.setblocking(False)
            end.connect_ex((emulated.hosts["b"].ipv4, 9))
            name = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        return name.rstrip(b"\0").decode()

    assert emulated.hosts["a"].settings["congestion"] == congestion
    assert emulated.hosts["a"].call(on_socket) == congestion
    assert emulated.statistics()["hosts"]["a"]["wmem_bytes"] == list(limits)


def test_a_congestion_control_that_is_not_there_is_refused(wan):
    with pytest.raises(ConfigError, match=r"'newvegas'.*available: "):
        wan(path(), host=HostConfig(congestion="newvegas"))


def test_goodput_knows_the_mtu_of_the_hosts(wan):
    emulated = wan(path(100e6, overhead_bytes=38), host=HostConfig(mtu=9000))
    assert emulated.goodput_bps("a", "b") == pytest.approx(100e6 * 8948 / 9038)


def test_statistics_tell_what_ran_and_whether_to_believe_it(wan):
    emulated = wan("metro", seed=3)
    near, far = emulated.hosts.values()
    ping(near, far, 3)
    statistics = json.loads(json.dumps(emulated.statistics()))
    assert statistics["backend"] == "tun"
    assert statistics["profile"]["name"] == "metro"
    assert statistics["seed"] == 3
    assert statistics["lateness"]["count"] >= 6
    assert statistics["valid"] == emulated.verdict().valid
    emulated.reset()
    assert emulated.statistics()["lateness"]["count"] == 0
    with pytest.raises(ConfigError, match="loss"):
        emulated.change({"loss": 2})
    with pytest.raises(ConfigError, match="directly"):
        emulated.change({"loss": 0.1}, one_way=("a", "x"))


def test_a_stalled_emulator_is_noticed_even_without_packets(wan):
    emulated = wan(path())
    forwarder = int(emulated.hosts["a"].namespace.split("/")[2])
    emulated.reset()
    os.kill(forwarder, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(forwarder, signal.SIGCONT)
    time.sleep(0.1)
    assert not emulated.verdict().valid
    assert "stalled" in str(emulated.verdict())


# -- what is left behind --


SLEEPER = ["sh", "-c", "echo up; exec sleep 600"]


def wait_for_end(pid: int) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 15)[0])
    finally:
        os.close(process)


def test_closing_ends_programs_that_still_run(wan):
    emulated = Wan(path(), backend="tun")
    wan(path())  # skips where it is not permitted
    with emulated:
        sleeper = emulated.hosts["a"].popen(SLEEPER, stdout=subprocess.PIPE)
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == b"up\n"
    sleeper.stdout.close()
    assert sleeper.wait(timeout=10) == -signal.SIGKILL


PARENT = """
import time
from dsm_netem.wan import Wan
wan = Wan("metro", backend="tun").start()
sleeper = wan.hosts["b"].popen(["sh", "-c", "echo up; exec sleep 600"], stdout=-1)
sleeper.stdout.readline()
print(sleeper.pid, wan.hosts["a"].namespace.split("/")[2], flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["parent", "forwarder and parent"])
def test_nothing_survives_a_kill(wan, victim):
    wan(path())
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        sleeper, forwarder = map(int, parent.stdout.readline().split())
        if victim != "parent":
            os.kill(forwarder, signal.SIGKILL)
        parent.kill()
        assert wait_for_end(forwarder)
    if victim != "parent":
        sweep.sweep()  # as the next run does
    assert wait_for_end(sleeper)


def test_a_forwarder_that_is_told_to_end_takes_along_what_runs_on_its_hosts(wan):
    emulated = wan(path())
    forwarder = int(emulated.hosts["a"].namespace.split("/")[2])
    with emulated.hosts["a"].running(SLEEPER, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        os.kill(forwarder, signal.SIGTERM)
        assert wait_for_end(forwarder)
        assert sleeper.wait(timeout=10) == -signal.SIGKILL
        sleeper.communicate()


def test_a_sweep_spares_the_living(wan):
    emulated = wan(path())
    sleeper = emulated.hosts["a"].popen(SLEEPER, stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    assert sleeper.pid not in sweep.sweep()
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.communicate()


NESTED = """
from dsm_netem.wan import Wan
with Wan("metro", backend="tun") as inner:
    near, far = inner.hosts.values()
    near.run(["true"])
    print(near.ipv4, far.ipv4)
"""


def test_what_is_called_the_same_is_left_alone(wan):
    """A WAN started on a host of another: the same device name, the same addresses."""
    emulated = wan(path(rtt_s=0.01))
    near, far = emulated.hosts.values()
    done = near.run([sys.executable, "-c", NESTED], stdout=subprocess.PIPE, text=True)
    assert done.stdout == f"{near.ipv4} {far.ipv4}\n"
    assert min(ping(near, far, 3)) >= 0.01


# -- without the rights --

DROP = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(24, int(sys.argv[1]), 0, 0, 0) == 0  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


@pytest.mark.parametrize("missing", CAPABILITIES)
def test_missing_rights_are_named_and_auto_falls_back_to_the_relay(wan, missing):
    wan(path())

    def without(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", DROP, str(CAPABILITIES[missing])]
        command += ["-m", "dsm_netem.command", "run", "metro", *args, "--", "echo", "ran"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    refused = without("--backend", "tun")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert missing in refused.stderr
    assert "relay" in refused.stderr
    fell_back = without()
    assert (fell_back.returncode, fell_back.stdout) == (0, "ran\n")
    assert missing in fell_back.stderr
    assert "on relay, without" in fell_back.stderr
