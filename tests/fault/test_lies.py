"""A node that sends what cannot be: its client gets a clear error or right bytes, in time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dsm_client import Session
from dsm_server import Node
from dsm_server.pull import PullStream

from dsm.errors import DsmError, MalformedMessage
from dsm.wire.frame import decode_frame, encode_frame
from dsm.wire.v1 import wire_pb2 as pb
from tests.client.test_methods import NOISE

Dial = Callable[..., Session]
Lie = Callable[[bytes], bytes]
BLOCKS = 50
SIZE = 64 << 10


def content(seq: int) -> bytes:
    return NOISE[seq * 1000 : seq * 1000 + 900]


@pytest.fixture
def node(root: Path) -> Iterator[Node]:
    with (
        Node("127.0.0.1:0", root) as node,
        node.create_ring("ring", capacity_bytes=1 << 20, header_bytes=16) as ring,
        node.create_region("region", size_bytes=SIZE) as region,
    ):
        ring.append_many([content(seq) for seq in range(BLOCKS)])
        with region.write() as view:
            view[:] = NOISE[:SIZE]
        del view
        yield node


@pytest.fixture
def lies(monkeypatch: pytest.MonkeyPatch) -> Callable[[Lie, int], None]:
    """Has the node apply a lie to its next frames."""

    def tell(lie: Lie, count: int) -> None:
        honest = PullStream._next_frame
        left = [count]

        def next_frame(self: Any, serve: Any) -> bytes | None:
            frame = honest(self, serve)
            if frame is None or not left[0]:
                return frame
            left[0] -= 1
            return lie(frame)

        monkeypatch.setattr(PullStream, "_next_frame", next_frame)

    return tell


def headed(change: Callable[[pb.FrameHeader], None], cut: int = 0) -> Lie:
    """A frame whose checksum is right and whose header is not."""

    def lie(frame: bytes) -> bytes:
        header, payload = decode_frame(frame, 1 << 20)
        header.codec = pb.RAW
        change(header)
        return encode_frame(header, (bytes(payload)[cut:],))

    return lie


def _set(**fields: Any) -> Callable[[pb.FrameHeader], None]:
    def change(header: pb.FrameHeader) -> None:
        for name, value in fields.items():
            if name == "position":
                header.position.CopyFrom(value)
            elif name == "status":
                header.status.CopyFrom(value)
            elif name == "changed":
                header.changed.extend(value)
            elif name == "runs":
                header.ClearField("runs")
                header.runs.extend(pb.Run(first=first, count=count) for first, count in value)
            else:
                setattr(header, name, value)

    return change


HUGE = 2**64 - 1
LIES: dict[str, Lie] = {
    "garbage": lambda frame: random.Random(1).randbytes(200),
    "empty": lambda frame: b"",
    "truncated": lambda frame: frame[: len(frame) // 2],
    "flipped bit": lambda frame: frame[:-9] + bytes([frame[-9] ^ 4]) + frame[-8:],
    "oversize": lambda frame: encode_frame(pb.FrameHeader(id=1), (bytes(3 << 20),)),
    "agreed size exceeded": lambda frame: encode_frame(pb.FrameHeader(id=1), (bytes(1200 << 10),)),
    "unknown id": headed(_set(id=HUGE)),
    "another epoch": headed(_set(epoch=77)),
    "first": headed(_set(first=HUGE)),
    "count": headed(_set(count=HUGE)),
    "no count": headed(_set(count=0)),
    "rows": headed(_set(rows_bytes=7)),
    "no rows": headed(_set(rows_bytes=0)),
    "part": headed(_set(part=9)),
    "offset": headed(_set(offset=HUGE)),
    "version": headed(_set(version=HUGE)),
    "no runs": headed(_set(runs=[])),
    "runs elsewhere": headed(_set(runs=[(HUGE, 1)])),
    "too long a run": headed(_set(runs=[(0, HUGE)])),
    "an empty run": headed(_set(runs=[(7, 0)])),
    "tail beyond head": headed(_set(position=pb.Position(head=3, tail=9))),
    "huge position": headed(_set(position=pb.Position(head=HUGE, tail=HUGE - 1, version=HUGE))),
    "changed": headed(_set(changed=[pb.Run(first=HUGE, count=HUGE)])),
    "payload is short": headed(_set(), cut=5),
    "a status for no reason": headed(_set(last=True, status=pb.Status(code=pb.INTERNAL))),
    "an overrun of nothing": headed(
        _set(last=True, count=0, status=pb.Status(code=pb.OVERRUN, gap=pb.Run()))
    ),
    "an overrun of everything": headed(
        _set(last=True, status=pb.Status(code=pb.OVERRUN, gap=pb.Run(first=HUGE, count=HUGE)))
    ),
    "a later code": headed(_set(last=True, status=pb.Status(code=88))),  # type: ignore[arg-type]
}


PAGE_LIES: dict[str, list[tuple[int, int]]] = {
    "out of order": [(14, 1), (9, 1)],
    "twice": [(9, 1), (9, 1)],
    "overlapping": [(9, 2), (10, 1)],
    "beyond the end": [(9, 1), (SIZE // 4096, 1)],
    "huge": [(9, 1), (HUGE, HUGE)],
    "an empty run": [(9, 2), (14, 0)],
    "a run too few": [(9, 1)],
    "a run too many": [(9, 1), (14, 1), (15, 1)],
    "longer than its rows": [(9, 3)],
    "none": [],
    "more than a message may hold": [(9, 1)] * 100_000,
}


def in_time(call: Callable[[], Any], timeout_s: float = 6.0) -> Any:
    """What it returns, or the error that it raised; a hang fails."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    assert outcome, "it hangs"
    return outcome[0]


@pytest.mark.parametrize("method", ["copy_once", "zero_copy", "hybrid"])
@pytest.mark.parametrize("name", LIES)
def test_lies_for_ever(
    node: Node, dial: Dial, lies: Callable[[Lie, int], None], name: str, method: str
) -> None:
    session = dial(node, retry_s=0.8)
    ring, region = session.open("ring", access=method), session.open("region", access=method)
    lies(LIES[name], 10**9)
    for call, right in (
        (lambda: bytes(ring.read(7).data), content(7)),
        (lambda: bytes(region.read(5000, 100)), NOISE[5000:5100]),
    ):
        outcome = in_time(call)
        assert outcome == right or isinstance(outcome, DsmError), repr(outcome)
        if isinstance(outcome, DsmError):
            assert str(outcome)
    assert isinstance(session.ping(), float)


@pytest.mark.parametrize("name", [*PAGE_LIES, "a byte too few"])
def test_lies_of_several_runs(
    node: Node, dial: Dial, lies: Callable[[Lie, int], None], name: str
) -> None:
    """Two pages come in one frame; no other than these are believed to be here afterwards."""
    region = dial(node).open("region", access="copy_once")
    wrong = {"runs": PAGE_LIES[name]} if name in PAGE_LIES else {}
    lies(headed(_set(**wrong), cut=not wrong), 1)
    ranges = [(page * 4096, 10) for page in (9, 14)]  # beyond what the description brings
    with pytest.raises(MalformedMessage, match=r"lies: .*(pages|runs)"):
        region.read_many(ranges)
    for _ in range(2):
        views = in_time(lambda: region.read_many(ranges))
        assert [bytes(view) for view in views] == [NOISE[at : at + 10] for at, _ in ranges]
    assert in_time(lambda: bytes(region.read())) == NOISE[:SIZE]


@pytest.mark.parametrize("method", ["copy_once", "zero_copy"])
@pytest.mark.parametrize("name", ["garbage", "flipped bit", "truncated"])
def test_damage_on_the_way_is_fetched_again(
    node: Node, dial: Dial, lies: Callable[[Lie, int], None], name: str, method: str
) -> None:
    session = dial(node)
    ring, region = session.open("ring", access=method), session.open("region", access=method)
    lies(LIES[name], 1)
    assert in_time(lambda: bytes(ring.read(7).data)) == content(7)
    lies(LIES[name], 1)
    assert in_time(lambda: bytes(region.read(5000, 100))) == NOISE[5000:5100]


def test_a_lane_that_is_lied_to_does_not_spin(
    node: Node, dial: Dial, lies: Callable[[Lie, int], None]
) -> None:
    session = dial(node, retry_s=1.0)
    ring = session.open("ring", access="copy_once")
    lies(LIES["garbage"], 10**9)
    in_time(lambda: ring.read(7))
    before = session.stats()["frames"]
    time.sleep(1.0)
    assert session.stats()["frames"] - before < 300, "nine lanes that try a few times a second"
