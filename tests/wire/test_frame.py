"""Frames: what comes out is what went in, and whatever was damaged is refused."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.codec import compress
from dsm.core.compression import Codec
from dsm.wire.frame import CODECS, BadFrame, decode_frame, encode_frame
from dsm.wire.v1 import wire_pb2 as pb

MAX = 1 << 20

u64 = st.integers(0, 2**64 - 1)
runs = st.builds(pb.Run, first=u64, count=u64)
headers = st.builds(
    pb.FrameHeader,
    id=u64,
    last=st.booleans(),
    epoch=u64,
    position=st.builds(pb.Position, head=u64, tail=u64, version=u64),
    first=u64,
    count=u64,
    changed=st.lists(runs, max_size=3),
    offset=u64,
    parked=st.booleans(),
    runs=st.lists(runs, max_size=3),
)
payloads = st.lists(st.binary(max_size=300), max_size=4)


@given(headers, payloads)
def test_what_was_encoded_is_decoded(header: pb.FrameHeader, pieces: list[bytes]) -> None:
    decoded, payload = decode_frame(encode_frame(header, pieces), MAX)
    assert bytes(payload) == b"".join(pieces)
    assert decoded == header


PACKED = [codec for codec in Codec if codec is not Codec.RAW]


def compressed(codec: Codec, header: pb.FrameHeader, payload: bytes, item: int = 4) -> bytes:
    header.codec, header.decoded_bytes = CODECS[codec], len(payload)
    return encode_frame(header, (compress(codec, (payload[:7], payload[7:]), item),))


@pytest.mark.parametrize("codec", PACKED)
@given(
    headers,
    st.binary(min_size=1, max_size=50).map(lambda b: b * 40) | st.binary(min_size=1),
    st.sampled_from([2, 4, 8, 16]),
)
def test_codecs_are_undone(codec: Codec, header: pb.FrameHeader, payload: bytes, item: int) -> None:
    assert bytes(decode_frame(compressed(codec, header, payload, item), MAX)[1]) == payload


@given(headers, payloads)
def test_generated_code_reads_the_same(header: pb.FrameHeader, pieces: list[bytes]) -> None:
    parsed = pb.PullFrame.FromString(encode_frame(header, pieces))
    assert parsed.header == header
    assert parsed.payload == b"".join(pieces)


def _message(codec: Codec) -> bytes:
    payload = b"block " * 20
    header = pb.FrameHeader(id=7, epoch=9, first=100, count=3, rows_bytes=40, last=True)
    header.position.CopyFrom(pb.Position(head=200, tail=3))
    if codec is Codec.RAW:
        return encode_frame(header, (payload,))
    return compressed(codec, header, payload)


@pytest.mark.parametrize("codec", Codec)
def test_every_truncation_is_refused(codec: Codec) -> None:
    message = _message(codec)
    for length in range(len(message)):
        with pytest.raises(BadFrame):
            decode_frame(message[:length], MAX)


@pytest.mark.parametrize("codec", Codec)
def test_every_flipped_bit_is_refused(codec: Codec) -> None:
    message = _message(codec)
    for bit in range(8 * len(message)):
        damaged = bytearray(message)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadFrame):
            decode_frame(bytes(damaged), MAX)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_is_raised(message: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_frame(message, MAX)


@given(headers, st.binary(max_size=100), u64, st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_headers_that_lie_are_refused_or_harmless(
    header: pb.FrameHeader, payload: bytes, first: int, size: int, codec: int
) -> None:
    """The checksum is right: the sender meant it."""
    header.codec = codec  # type: ignore[assignment]
    header.decoded_bytes, header.rows_bytes = size, size
    with contextlib.suppress(BadFrame):
        decoded, got = decode_frame(encode_frame(header, (payload,)), MAX)
        assert len(got) == decoded.decoded_bytes >= decoded.rows_bytes


def test_more_than_was_agreed_is_refused() -> None:
    message = encode_frame(pb.FrameHeader(id=1), (bytes(1000),))
    decode_frame(message, 1000)
    with pytest.raises(BadFrame, match="999 were agreed"):
        decode_frame(message, 999)
    for codec in PACKED:
        bomb = pb.FrameHeader(id=1, codec=CODECS[codec], decoded_bytes=1 << 31)
        with pytest.raises(BadFrame, match="were agreed"):
            decode_frame(encode_frame(bomb, (compress(codec, (bytes(1000),), 4),)), MAX)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"\x05"),  # a version of Blosc 2
        (2, b"\x84"),  # zstd
        (3, b"\x00"),
        (4, struct.pack("<I", 1 << 31)),  # says that it holds 2 GiB
        (4, struct.pack("<I", 3999)),
        (8, bytes(4)),
        (8, struct.pack("<I", 1 << 30)),
        (12, struct.pack("<I", 1 << 30)),
    ],
)
def test_chunks_of_blosc_that_lie_are_refused(at: int, value: bytes) -> None:
    data = bytes(range(200)) * 20
    good = compress(Codec.BLOSC, (data,), 4)
    chunk = bytearray(good)
    chunk[at : at + len(value)] = value
    header = pb.FrameHeader(id=1, codec=pb.BLOSC, decoded_bytes=4000)
    assert decode_frame(encode_frame(header, (good,)), MAX)[1] == data
    with pytest.raises(BadFrame, match="chunk"):
        decode_frame(encode_frame(header, (chunk,)), MAX)


@pytest.mark.parametrize("item", [2, 4, 8, 16])
def test_a_node_that_sends_malformed_chunks_is_refused(item: int) -> None:
    """The frame's checksum is right, and so are the lengths: what is left is for the codec."""
    chance = random.Random(item)
    for size in (64, 5000, 300_000):
        data = b"".join((n * n // 50).to_bytes(8, "little") for n in range(size // 8))
        good = compress(Codec.BLOSC, (data,), item)
        for _ in range(400):
            chunk = bytearray(good[: chance.choice([len(good), chance.randrange(len(good))])])
            for _ in range(chance.choice([1, 2, 30])):
                at = chance.randrange(min(len(chunk) or 1, chance.choice([16, 40, 1 << 30])))
                chunk[at : at + 1] = chance.randbytes(1)
            if len(chunk) >= 16:
                chunk[0], chunk[2] = 2, chunk[2] & 0x1F | 0x20
                chunk[4:8] = good[4:8]
                chunk[12:16] = struct.pack("<I", len(chunk))
            header = pb.FrameHeader(id=1, codec=pb.BLOSC, decoded_bytes=len(data))
            with contextlib.suppress(BadFrame):
                assert len(decode_frame(encode_frame(header, (chunk,)), MAX)[1]) == len(data)


def test_blosc_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = _message(Codec.BLOSC)
    monkeypatch.setattr("dsm.codec.blosc", None)
    with pytest.raises(BadFrame, match="not asked for"):
        decode_frame(message, MAX)
