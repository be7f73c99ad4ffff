"""Frames that a node compresses: with what, and that they come back as they were."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dsm_client import Session
from dsm_netem import Relay
from dsm_server import Node
from dsm_server.compression import SIZE_MIN, Compressor
from dsm_server.exports import Exported

from dsm.core.compression import Codec
from dsm.segment import create_region, open_segment
from dsm.wire.address import split_host_port
from dsm.wire.frame import CODECS_BACK, decode_frame
from dsm.wire.v1 import wire_pb2 as pb
from tests.nodes import NodeProcess

FLOATS = struct.pack("<65536f", *(300 * math.sin(n / 1000) for n in range(65536)))
CHANCE = random.Random(1)
WORDS = [CHANCE.randbytes(CHANCE.randrange(2, 12)) for _ in range(200)]
TEXT = b"".join(CHANCE.choices(WORDS, k=40_000))
NOISE = CHANCE.randbytes(1 << 18)
BOTH = (Codec.BLOSC, Codec.LZ4)
SLOW, FAST = 1e6, 1e12


@pytest.fixture
def exported(tmp_path: Path) -> Iterator[Callable[[str], Exported]]:
    readers = []

    def made(dtype: str) -> Exported:
        create_region(tmp_path, f"r{len(readers)}", size_bytes=4096, dtype=dtype).close()
        readers.append(open_segment(tmp_path, f"r{len(readers)}"))
        return Exported(readers[-1])

    yield made
    for reader in readers:
        reader.close()


def used(
    exported: Exported,
    data: bytes,
    codecs: Sequence[Codec] = BOTH,
    rate: float = SLOW,
    part: pb.Part.ValueType = pb.WHOLE,
) -> Codec:
    """Of the tenth frame, the first nine being alike."""
    compressor = Compressor()
    pieces = (data[:100], memoryview(data)[100:])
    for _ in range(10):
        header = pb.FrameHeader(id=1, part=part)
        message = compressor.encode(exported, header, pieces, codecs, rate)
        decoded, payload = decode_frame(message, 1 << 20)
        assert payload == data
    return CODECS_BACK[decoded.codec]


@pytest.mark.parametrize(
    ("dtype", "data", "codec"),
    [
        ("<f4", FLOATS, Codec.BLOSC),
        ("", FLOATS, Codec.RAW),
        ("u1", FLOATS, Codec.RAW),
        ("", TEXT, Codec.LZ4),
        ("<f4", TEXT, Codec.LZ4),
        ("<f4", NOISE, Codec.RAW),
        ("", TEXT[: SIZE_MIN - 1], Codec.RAW),
    ],
)
def test_what_is_used(
    exported: Callable[[str], Exported], dtype: str, data: bytes, codec: Codec
) -> None:
    assert used(exported(dtype), data) is codec


def test_only_what_the_client_accepts_and_what_pays(exported: Callable[[str], Exported]) -> None:
    floats = exported("<f4")
    assert used(floats, FLOATS, (Codec.LZ4,)) is Codec.RAW
    assert used(floats, TEXT, ()) is Codec.RAW
    assert used(floats, FLOATS, rate=FAST) is Codec.RAW
    assert used(floats, FLOATS, rate=0) is Codec.BLOSC
    assert used(floats, FLOATS, part=pb.HEADER) is Codec.RAW, "headers hold other things"
    assert used(floats, FLOATS, part=pb.PAYLOAD) is Codec.BLOSC


def test_a_node_without_blosc(
    exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsm_server.compression.AVAILABLE", (Codec.LZ4,))
    assert used(exported("<f4"), FLOATS) is Codec.RAW
    assert used(exported("<f4"), TEXT) is Codec.LZ4


def test_the_node_is_told_what_the_path_carries(
    root: Path,
    dial: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = []
    encode = Compressor.encode

    def noted(self: Compressor, *args: Any) -> bytes:
        rates.append(args[-1])
        return encode(self, *args)

    monkeypatch.setattr(Compressor, "encode", noted)
    with (
        Node(listen="127.0.0.1:0", root=str(root)) as node,
        node.create_region("r", size_bytes=4 << 20) as region,
    ):
        with region.write() as view:
            view[:] = NOISE * 16
        host, port = split_host_port(node.address)
        with Relay(host, port, rate_bps=100e6, rtt_s=0.01) as relay:
            handle = dial(relay).open("r", access="prefetch")
            for offset in range(0, 4 << 20, 1 << 16):
                handle.read(offset, 1 << 16)
    assert rates[0] == 0, "not known yet"
    assert 0.2 * 12.5e6 <= rates[-1] <= 2 * 12.5e6, "a busy machine takes less"


@pytest.mark.parametrize("has_blosc", [True, False])
def test_floats_across_the_network(
    shared_node: NodeProcess,
    dial: Callable[..., Session],
    relayed: Callable[..., Any],
    name: str,
    has_blosc: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_blosc:
        monkeypatch.setattr("dsm_client.session.AVAILABLE", (Codec.LZ4,))
    with create_region(shared_node.root, name, dtype="<f4", shape=(4, 65536)) as region:
        with region.write() as view:
            view[:] = FLOATS * 4
        session = dial(relayed(shared_node, rate_bps=200e6, rtt_s=0.01))
        handle = session.open(name, access="copy_once")
        assert handle.read() == FLOATS * 4
        stats, text = handle.stats(), handle.explain()
    assert stats["codec"] == ("blosc" if has_blosc else "raw")
    if has_blosc:
        assert stats["wire_ratio"] < 0.8
        assert f"compressed with blosc to {stats['wire_ratio']:.0%} on the wire" in text
    else:
        assert stats["wire_ratio"] > 0.99
        assert "not compressed" in text
