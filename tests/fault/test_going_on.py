"""Connections and nodes come and go; readers go on where they were and fetch nothing twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dsm_client import Session

from dsm.errors import NodeUnavailable
from dsm.segment import RingWriter, create_region, create_ring
from tests.client.test_methods import NOISE, Wire
from tests.nodes import NodeProcess

Dial = Callable[..., Session]
Relayed = Callable[..., Any]
BLOCK = 10_000
BLOCKS = 400
ALL_BYTES = BLOCKS * (BLOCK + 40)


def content(seq: int) -> bytes:
    start = seq * 4099 % (len(NOISE) - BLOCK)
    return NOISE[start : start + BLOCK]


@pytest.fixture
def ring(root: Path) -> Iterator[RingWriter]:
    with create_ring(root, "ring", capacity_bytes=8 << 20, slots=1024) as writer:
        writer.append_many([content(seq) for seq in range(BLOCKS)])
        yield writer


Trouble = Callable[[NodeProcess, Any], None]


def _cut(node: NodeProcess, relay: Any) -> None:
    assert relay.cut() > 0


def _hold(node: NodeProcess, relay: Any) -> None:
    relay.hold()
    time.sleep(0.5)
    relay.resume()


def _terminate(node: NodeProcess, relay: Any) -> None:
    code, log = node.stop(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in log
    node.start()


def _kill(node: NodeProcess, relay: Any) -> None:
    node.stop(signal.SIGKILL)
    node.start()


TROUBLES = pytest.mark.parametrize(
    "trouble", [_cut, _hold, _terminate, _kill], ids=["cut", "hold", "sigterm", "sigkill"]
)


@TROUBLES
def test_a_read_goes_on(
    node: NodeProcess, ring: RingWriter, dial: Dial, relayed: Relayed, trouble: Trouble
) -> None:
    relay = relayed(node, rate_bps=60e6, rtt_s=0.02)
    session = dial(relay, compress=False)
    handle = session.open("ring", access="copy_once")
    epoch = handle.info.epoch
    wire = Wire(session)
    for block in handle.blocks():
        assert bytes(block.data) == content(block.seq)
        if block.seq == BLOCKS // 2:
            trouble(node, relay)
    moved = wire()
    print(f"moved {moved['bytes_received'] / ALL_BYTES:.3f} times what was read; {moved}")
    assert moved["bytes_received"] < ALL_BYTES + (1 << 20), "fetched again what had arrived"
    assert handle.info.epoch == epoch == session.describe("ring").info.epoch
    list(handle.blocks())
    assert wire()["requests"] == 0


@TROUBLES
def test_following_goes_on(
    node: NodeProcess, ring: RingWriter, dial: Dial, relayed: Relayed, trouble: Trouble
) -> None:
    relay = relayed(node, rtt_s=0.01)
    blocks = dial(relay).open("ring").follow(start=BLOCKS, timeout_s=15)
    over = threading.Event()

    def produce() -> None:
        while not over.wait(0.002):
            ring.append(content(ring.head))

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for seq in range(BLOCKS, BLOCKS + 100):
            block = next(blocks)
            assert (block.seq, bytes(block.data)) == (seq, content(seq))
            if seq == BLOCKS + 30:
                trouble(node, relay)
    finally:
        over.set()
        producer.join()


@pytest.mark.parametrize("trouble", [_terminate, _kill], ids=["sigterm", "sigkill"])
def test_events_come_again(
    node: NodeProcess, root: Path, dial: Dial, relayed: Relayed, trouble: Trouble
) -> None:
    """What changed while the node was away is told, and only that is fetched."""
    relay = relayed(node)
    with create_region(root, "region", size_bytes=1 << 18) as writer:
        session = dial(relay, compress=False)
        region = session.open("region", access="copy_once")
        region.read()
        wire = Wire(session)
        trouble(node, relay)
        with writer.write(0, 3) as view:
            view[:] = b"new"
        del view
        deadline = time.monotonic() + 15
        while region.read(0, 3) != b"new":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        region.read()
        assert wire()["bytes_received"] < 20_000


READER = """
import sys
from dsm_client import connect
with connect(sys.argv[1], map_local=False, cache=sys.argv[2], compress=False) as session:
    ring = session.open("ring", access="copy_once")
    before = session.stats()["bytes_received"]
    assert sum(len(block.data) for block in ring.blocks()) == int(sys.argv[3])
    region = session.open("region", access="copy_once")
    assert len(region.read()) == 1 << 18
    print(session.stats()["bytes_received"] - before, flush=True)
    if sys.argv[4] == "die":
        import os
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["close", "die"])
def test_a_client_that_starts_again_has_its_shadow(
    node: NodeProcess, ring: RingWriter, root: Path, cache: Path, end: str
) -> None:
    with create_region(root, "region", size_bytes=1 << 18):
        moved = []
        for _ in range(2):
            arguments = [node.url, str(cache), str(BLOCKS * BLOCK), end]
            done = subprocess.run(
                [sys.executable, "-c", READER, *arguments],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.stdout, done.stderr
            moved.append(int(done.stdout))
    assert moved[0] > ALL_BYTES
    assert moved[1] == 0


def test_a_node_that_stays_away_is_named(node: NodeProcess, ring: RingWriter, dial: Dial) -> None:
    session = dial(node, retry_s=0.7)
    handle = session.open("ring", access="copy_once")
    assert bytes(handle.read(3).data) == content(3)
    node.stop(signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(NodeUnavailable, match=r"tried for 0\.7 s") as raised:
        handle.read(9)
    assert 0.4 < time.monotonic() - started < 5
    assert node.address in str(raised.value)
    assert bytes(handle.read(3).data) == content(3), "what is here stays readable"
    node.start()
    assert bytes(handle.read(9).data) == content(9), "and the session goes on when it is back"


def test_a_node_that_was_never_there(dial: Dial) -> None:
    started = time.monotonic()
    with pytest.raises(NodeUnavailable, match=r"127\.0\.0\.1:9.*tried for 0\.5 s"):
        dial("dsm://127.0.0.1:9", retry_s=0.5)
    assert time.monotonic() - started < 5


def test_a_node_that_shuts_down_says_come_back(node: NodeProcess, ring: RingWriter) -> None:
    import grpc

    from dsm.wire.protocol import GOING_AWAY
    from dsm.wire.v1 import wire_pb2 as pb
    from dsm.wire.v1.wire_pb2_grpc import ControlStub

    with grpc.insecure_channel(node.address) as channel:
        stub: Any = ControlStub(channel)
        asked = iter([pb.WatchRequest(segment="ring", subscribe=True)])
        hang = threading.Event()

        def requests() -> Iterator[pb.WatchRequest]:
            yield from asked
            hang.wait(20)

        events = stub.Watch(requests())
        assert next(events).segment == "ring"
        threading.Timer(0.05, node.send_signal, (signal.SIGTERM,)).start()
        with pytest.raises(grpc.RpcError) as raised:
            next(events)
        hang.set()
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == GOING_AWAY
