"""Frames: what comes out is what went in, and whatever was damaged is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.wire.frame import BadFrame, compress, decode_frame, encode_frame
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
    pages=st.lists(runs, max_size=3),
)
payloads = st.lists(st.binary(max_size=300), max_size=4)


@given(headers, payloads)
def test_what_was_encoded_is_decoded(header: pb.FrameHeader, pieces: list[bytes]) -> None:
    decoded, payload = decode_frame(encode_frame(header, pieces), MAX)
    assert bytes(payload) == b"".join(pieces)
    assert decoded == header


@given(headers, st.binary(min_size=1, max_size=50).map(lambda b: b * 40))
def test_lz4_is_undone(header: pb.FrameHeader, payload: bytes) -> None:
    header.codec, header.decoded_bytes = pb.LZ4, len(payload)
    message = encode_frame(header, (compress((payload[:7], payload[7:])),))
    assert bytes(decode_frame(message, MAX)[1]) == payload


@given(headers, payloads)
def test_generated_code_reads_the_same(header: pb.FrameHeader, pieces: list[bytes]) -> None:
    parsed = pb.PullFrame.FromString(encode_frame(header, pieces))
    assert parsed.header == header
    assert parsed.payload == b"".join(pieces)


def _message(codec: pb.Codec.ValueType) -> bytes:
    payload = b"block " * 20
    header = pb.FrameHeader(id=7, epoch=9, first=100, count=3, rows_bytes=40, last=True)
    header.position.CopyFrom(pb.Position(head=200, tail=3))
    if codec == pb.LZ4:
        header.codec, header.decoded_bytes = codec, len(payload)
        return encode_frame(header, (compress((payload,)),))
    return encode_frame(header, (payload,))


@pytest.mark.parametrize("codec", [pb.RAW, pb.LZ4])
def test_every_truncation_is_refused(codec: pb.Codec.ValueType) -> None:
    message = _message(codec)
    for length in range(len(message)):
        with pytest.raises(BadFrame):
            decode_frame(message[:length], MAX)


@pytest.mark.parametrize("codec", [pb.RAW, pb.LZ4])
def test_every_flipped_bit_is_refused(codec: pb.Codec.ValueType) -> None:
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


@given(headers, st.binary(max_size=100), u64, st.integers(0, 2**32 - 1), st.integers(0, 3))
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
    bomb = pb.FrameHeader(id=1, codec=pb.LZ4, decoded_bytes=1 << 31)
    with pytest.raises(BadFrame, match="were agreed"):
        decode_frame(encode_frame(bomb, (compress((bytes(1000),)),)), MAX)
