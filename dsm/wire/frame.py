"""Bulk frames: protobuf on the wire, but the payload never goes through the protobuf library.

A `PullFrame` is three fields, header (1), checksum (2) and payload (15), in that order:

    0x0A │ varint │ FrameHeader │ 0x15 │ CRC-32C │ 0x7A │ varint │ payload ...
    ─────────────────────── small ─────────────────────────────── │ ── up to frame_bytes_max

The checksum covers header and payload; whatever else is damaged contradicts the message's length.

`encode_frame` joins them with one copy of the payload's pieces; `decode_frame` hands out a view of
the payload inside the message that gRPC received, without a copy. The same bytes parse with any
generated `PullFrame`, so that programs in other languages need nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence

import crc32c
from google.protobuf.message import DecodeError

from dsm.codec import Buffer, decompress
from dsm.core.compression import Codec
from dsm.wire.v1 import wire_pb2 as pb

CODECS = {Codec.RAW: pb.RAW, Codec.LZ4: pb.LZ4, Codec.BLOSC: pb.BLOSC}
CODECS_BACK = {value: codec for codec, value in CODECS.items()}

_HEADER_TAG = 0x0A
_CRC_TAG = 0x15
_CRC_BYTES = 4
_PAYLOAD_TAG = 0x7A

HEADER_BYTES_MAX = 1 << 20
"""A header lists at the most some hundred runs; a larger one is an attack or a bug."""


class BadFrame(ValueError):
    """The message is no valid `PullFrame`; says why."""


def encode_frame(header: pb.FrameHeader, pieces: Sequence[Buffer]) -> bytes:
    """Serialize a frame whose payload is `pieces`, one after the other.

    Sets `decoded_bytes`, unless the caller compressed the pieces and set it already.
    """
    size = sum(len(piece) for piece in pieces)
    if header.codec == pb.RAW:
        header.decoded_bytes = size
    head = header.SerializeToString()
    crc = crc32c.crc32c(head)
    for piece in pieces:
        crc = crc32c.crc32c(piece, crc)
    prefix = (b"\x0a", _varint(len(head)), head, b"\x15", crc.to_bytes(_CRC_BYTES, "little"))
    if not size:
        return b"".join(prefix)
    return b"".join((*prefix, b"\x7a", _varint(size), *pieces))


def decode_frame(message: bytes, frame_bytes_max: int) -> tuple[pb.FrameHeader, memoryview]:
    """Header and decompressed payload; the CRC-32C of both is checked.

    Raises `BadFrame` for whatever a correct node would not have sent.
    """
    view = memoryview(message)
    header, start, size = _split(view)
    payload = view[start : start + size]
    if header.decoded_bytes > frame_bytes_max:
        raise BadFrame(f"a payload of {header.decoded_bytes} bytes; {frame_bytes_max} were agreed")
    if (codec := CODECS_BACK.get(header.codec)) is None:
        raise BadFrame(f"unknown codec {header.codec}")
    if codec is not Codec.RAW:
        try:
            payload = decompress(codec, payload, header.decoded_bytes)
        except ValueError as error:
            raise BadFrame(f"the payload does not decompress: {error}") from None
    if len(payload) != header.decoded_bytes or header.rows_bytes > len(payload):
        raise BadFrame("the payload's length contradicts its header")
    return header, payload


def _split(view: memoryview) -> tuple[pb.FrameHeader, int, int]:
    """The header, and where the payload begins and how long it is."""
    size, start = _field_bytes(view, 0, _HEADER_TAG)
    at = start + size
    if size > HEADER_BYTES_MAX or at + 1 + _CRC_BYTES > len(view) or view[at] != _CRC_TAG:
        raise BadFrame(f"a header of {size} bytes in a message of {len(view)}")
    head = bytes(view[start:at])
    said = int.from_bytes(view[at + 1 : at + 1 + _CRC_BYTES], "little")
    at, size = at + 1 + _CRC_BYTES, 0
    if at < len(view):
        size, at = _field_bytes(view, at, _PAYLOAD_TAG)
    if at + size != len(view):
        raise BadFrame(f"a payload of {size} bytes where {len(view) - at} follow")
    if crc32c.crc32c(view[at:], crc32c.crc32c(head)) != said:
        raise BadFrame("its checksum is wrong")
    try:
        return pb.FrameHeader.FromString(head), at, size
    except DecodeError as error:
        raise BadFrame(f"the header does not parse: {error}") from None


def _field_bytes(view: memoryview, at: int, tag: int) -> tuple[int, int]:
    """Length of the field with this tag at `at`, and where its content begins."""
    if at >= len(view) or view[at] != tag:
        raise BadFrame(f"field {tag >> 3} is not where it belongs")
    return _read_varint(view, at + 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BadFrame("it is cut off, or a length is too long")
