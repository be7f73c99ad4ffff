"""The relay with real sockets. Bounds on time are generous upwards and exact downwards: a
crowded machine may be late, but nothing may ever be early."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from statistics import median

import pytest
from dsm_netem import ConfigError, LinkConfig, Relay, RelayError, RelayServer

RTT_S = 0.05
LATE_S = 0.5  # what a crowded machine may add


class Target:
    """A server of threads: echoes, or swallows what follows a first byte of `s` and reports it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            swallow = end.recv(1, socket.MSG_PEEK) == b"s"
            total = 0
            while data := end.recv(1 << 16):
                total += len(data)
                if not swallow:
                    end.sendall(data)
            if swallow:
                end.sendall(b"%d" % total)


@pytest.fixture
def target():
    server = Target()
    yield server
    server.close()


def connect(relay: Relay) -> socket.socket:
    end = socket.create_connection((relay.host, relay.port), timeout=20)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def ask(end: socket.socket, request: bytes = b"ping") -> float:
    """Seconds until the echo was there, whole."""
    began = time.perf_counter()
    end.sendall(request)
    answer = b""
    while len(answer) < len(request):
        answer += end.recv(1 << 16)
    assert answer == request
    return time.perf_counter() - began


def swallow(end: socket.socket, size_bytes: int) -> float:
    """Seconds until so many bytes were received and that was said."""
    began = time.perf_counter()
    end.sendall(b"s" * size_bytes)
    end.shutdown(socket.SHUT_WR)
    answer = b""
    while data := end.recv(100):
        answer += data
    assert answer == b"%d" % size_bytes
    return time.perf_counter() - began


def test_a_request_takes_one_round_trip_and_a_new_connection_two(target):
    with Relay("127.0.0.1", target.port, rtt_s=RTT_S) as relay, connect(relay) as end:
        first_s = ask(end)
        times_s = [ask(end) for _ in range(11)]
    assert 2 * RTT_S <= first_s < 2 * RTT_S + LATE_S
    assert all(time_s >= RTT_S for time_s in times_s)
    assert median(times_s) < RTT_S + 0.02


def test_all_connections_share_one_rate_fairly(target):
    size_bytes = 1_000_000
    with Relay("127.0.0.1", target.port, rate_bps=40e6, rtt_s=0.01) as relay:
        took_s = [0.0, 0.0]
        ends = [connect(relay) for _ in took_s]

        def run(number: int) -> None:
            took_s[number] = swallow(ends[number], size_bytes)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statistics = relay.statistics()
    wire_s = 2 * size_bytes * 8 / 40e6
    assert wire_s < max(took_s) < wire_s + LATE_S
    assert min(took_s) > 0.7 * wire_s  # neither got ahead of the other
    assert statistics["forward"]["bytes_in"] == statistics["forward"]["bytes_out"] == 2 * size_bytes
    assert statistics["connections_total"] == 2


def test_a_sender_is_held_back_by_a_bounded_pipe(target):
    with Relay("127.0.0.1", target.port, rate_bps=10e6, rtt_s=0.2, queue_bytes=50_000) as relay:
        end = connect(relay)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        end.settimeout(0.02)
        sender_ends = time.monotonic() + 1.0
        while time.monotonic() < sender_ends:
            with contextlib.suppress(TimeoutError):
                end.send(b"s" * 65536)
        statistics = relay.statistics()["forward"]
    assert statistics["queue_peak_bytes"] <= 50_000
    under_way_bytes = statistics["bytes_in"] - statistics["bytes_out"]
    assert under_way_bytes <= 10e6 / 8 * 0.1 + 50_000 + 1448


def test_a_reader_that_stalls_stops_its_sender_and_nobody_else():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Relay("127.0.0.1", port, rtt_s=0.002) as relay:
            stuck, lively = connect(relay), connect(relay)
            stuck.sendall(b"1")
            lively.sendall(b"2")
            ends = [listener.accept()[0] for _ in range(2)]
            by_first = {end.recv(1): end for end in ends}
            stuck.setblocking(False)
            total, quiet_since = 0, time.monotonic()
            while time.monotonic() - quiet_since < 0.3:
                with contextlib.suppress(BlockingIOError):
                    total += stuck.send(b"x" * 65536)
                    quiet_since = time.monotonic()
            assert total < 64 << 20  # kernel buffers and a bounded part of the relay
            lively.sendall(b"still there?")
            by_first[b"2"].settimeout(5)
            assert by_first[b"2"].recv(100) == b"still there?"
            received = 0
            by_first[b"1"].settimeout(5)
            while received < total:
                received += len(by_first[b"1"].recv(1 << 20))
            for end in (*ends, stuck, lively):
                end.close()


def test_half_close_passes_and_the_other_way_stays_open(target):
    with Relay("127.0.0.1", target.port, rtt_s=0.02) as relay, connect(relay) as end:
        assert swallow(end, 300_000) >= 0.04
        deadline = time.monotonic() + 5
        while relay.statistics()["connections"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert relay.statistics()["connections"] == 0


def test_a_reset_passes_as_a_reset():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Relay("127.0.0.1", listener.getsockname()[1], rtt_s=0.02) as relay,
        connect(relay) as client,
    ):
        client.sendall(b"x")
        end, _ = listener.accept()
        assert end.recv(10) == b"x"
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_a_target_that_refuses_resets_the_client_after_the_round_trip():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Relay("127.0.0.1", port, rtt_s=RTT_S) as relay, connect(relay) as end:
        began = time.perf_counter()
        with pytest.raises(ConnectionResetError):
            end.recv(10)
        assert time.perf_counter() - began >= RTT_S


def test_rate_and_round_trip_change_while_running(target):
    with Relay("127.0.0.1", target.port, rate_bps=100e6, rtt_s=0.002) as relay:
        with connect(relay) as end:
            ask(end)
            relay.set_rtt(0.1)
            assert ask(end) >= 0.1
            relay.set_rtt(0.0)
            assert min(ask(end) for _ in range(5)) < 0.1
        relay.set_rate(8e6)
        with connect(relay) as end:
            assert 1.0 <= swallow(end, 1_000_000) < 1.0 + LATE_S
        with pytest.raises(ConfigError, match="rate"):
            relay.set_rate(-1)
        with pytest.raises(ConfigError, match="loss"):
            relay.change({"loss": 0.1})


def test_an_outage_holds_bytes_and_lets_them_go_on(target):
    with Relay("127.0.0.1", target.port, rtt_s=0.01) as relay, connect(relay) as end:
        ask(end)
        relay.hold("backward")
        threading.Timer(0.4, relay.resume).start()
        assert ask(end) >= 0.35


def test_cut_resets_everything_and_new_connections_work(target):
    with Relay("127.0.0.1", target.port, rtt_s=0.01) as relay:
        with connect(relay) as one, connect(relay) as two:
            ask(one)
            ask(two)
            assert relay.cut() == 2
            for end in (one, two):
                with pytest.raises(ConnectionResetError):
                    end.recv(10)
        with connect(relay) as end:
            ask(end)


def test_many_connections_at_once(target):
    count = 300
    with Relay("127.0.0.1", target.port, rate_bps=100e6, rtt_s=0.01) as relay:
        ends = [connect(relay) for _ in range(count)]
        for number, end in enumerate(ends):
            end.sendall(b"e%d" % number)
        for number, end in enumerate(ends):
            assert end.recv(100) == b"e%d" % number
        assert relay.statistics()["connections"] == count
        for end in ends:
            end.close()


def test_running_out_of_descriptors_pauses_and_goes_on(target):
    async def run() -> None:
        link = LinkConfig(delay_s=0.001)
        server = RelayServer("127.0.0.1", target.port, link, link)
        port = await server.start()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.create_connection(("127.0.0.1", port))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))  # what is open stays open
        try:
            await asyncio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert server.statistics()["connections_total"] == 0
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(10), 10) == b"x"
        writer.close()
        server.close()

    asyncio.run(run())


def test_async_context_manager_and_a_server_in_this_loop(target):
    async def run() -> None:
        link = LinkConfig(delay_s=0.01)
        server = RelayServer("127.0.0.1", target.port, link, link)
        port = await server.start()
        async with Relay("127.0.0.1", port, rtt_s=0.01) as relay:
            reader, writer = await asyncio.open_connection(relay.host, relay.port)
            began = time.perf_counter()
            writer.write(b"x")
            assert await reader.read(10) == b"x"
            assert time.perf_counter() - began >= 0.05
            writer.close()
        server.close()

    asyncio.run(run())


def test_errors_name_what_is_wrong(target):
    with pytest.raises(RelayError, match="relay to"):
        Relay("no.such.host.invalid", 1).start()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(RelayError, match="in use"),
    ):
        Relay("127.0.0.1", target.port, listen_port=taken.getsockname()[1]).start()
    with pytest.raises(ConfigError):
        Relay("127.0.0.1", 1, rtt_s=-1)
    with pytest.raises(RelayError, match="not running"):
        Relay("127.0.0.1", 1).cut()
    with pytest.raises(RelayError, match="no loss"):
        Relay("127.0.0.1", target.port, forward=LinkConfig(loss=0.1)).start()


def test_the_process_ends_with_its_killed_parent():
    script = (
        "import time; from dsm_netem import Relay\n"
        "relay = Relay('127.0.0.1', 1).start(); print(relay.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert select.select([child], [], [], 10)[0] == [child]
        os.close(child)
