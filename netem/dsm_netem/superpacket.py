"""TSO super-packets: what a TUN device with offloads hands out, and how to cut them.

With `IFF_VNET_HDR` every frame begins with a `virtio_net_hdr`. A TCP frame may then hold some 45
segments behind one header, of which the receiving kernel makes packets again:

    [virtio 10][IP][TCP][ payload: gso_size │ gso_size │ ... │ rest ]
                         segment 0            1              n-1

Mostly a checksum is still to be filled in (`NEEDS_CSUM`): its field holds the sum over the
pseudo-header only, and the receiving kernel trusts the rest. A bit flipped in such a payload
therefore passes TCP: that is the silent flip. For the other kind the checksum is completed first.
"""

from __future__ import annotations

import struct
import sys
from typing import Literal, NamedTuple

VNET_BYTES = 10
_VNET = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_NEEDS_CSUM = 1
_GSO_NONE = 0
_TCP, _UDP = 6, 17
_TCP_CHECKSUM, _UDP_CHECKSUM = 16, 6  # offsets in their headers
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


class Shape(NamedTuple):
    """How many wire packets a frame is, and their sizes from the IP header on."""

    segments: int
    segment_bytes: int
    last_bytes: int


def shape_of(frame: bytes) -> Shape:
    _, gso_type, _, gso_size, start, _ = _VNET.unpack_from(frame)
    if gso_type == _GSO_NONE or gso_size == 0:
        size_bytes = len(frame) - VNET_BYTES
        return Shape(1, size_bytes, size_bytes)
    header_bytes = start + _tcp_header_bytes(frame, start)
    payload_bytes = len(frame) - VNET_BYTES - header_bytes
    segments = max(1, -(-payload_bytes // gso_size))
    last_bytes = header_bytes + payload_bytes - (segments - 1) * gso_size
    return Shape(segments, header_bytes + gso_size, last_bytes)


def addresses(frame: bytes) -> tuple[bytes, bytes]:
    """(source, destination), packed, of IPv4 or IPv6."""
    if frame[VNET_BYTES] >> 4 == 4:
        return frame[VNET_BYTES + 12 : VNET_BYTES + 16], frame[VNET_BYTES + 16 : VNET_BYTES + 20]
    return frame[VNET_BYTES + 8 : VNET_BYTES + 24], frame[VNET_BYTES + 24 : VNET_BYTES + 40]


def cut(frame: bytes, first: int, end: int) -> bytes:
    """Segments [first, end) of a super-packet as a frame of their own."""
    flags, gso_type, header_bytes, gso_size, start, offset = _VNET.unpack_from(frame)
    shape = shape_of(frame)
    if first == 0 and end == shape.segments:
        return frame
    payload_at = VNET_BYTES + start + _tcp_header_bytes(frame, start)
    header = bytearray(frame[VNET_BYTES:payload_at])
    payload = frame[payload_at + first * gso_size : payload_at + end * gso_size]
    (sequence,) = struct.unpack_from("!I", header, start + 4)
    struct.pack_into("!I", header, start + 4, (sequence + first * gso_size) & 0xFFFFFFFF)
    if end < shape.segments:
        header[start + 13] &= ~(_FIN | _PSH) & 0xFF
    if first > 0:
        header[start + 13] &= ~_CWR & 0xFF
    _set_length(header, start, len(payload), identification_step=first)
    struct.pack_into(
        "!H", header, start + offset, _fold(_pseudo_sum(header, start, len(payload), _TCP))
    )
    if end - first == 1:
        gso_type = gso_size = 0
    return _VNET.pack(flags, gso_type, header_bytes, gso_size, start, offset) + header + payload


def flip(frame: bytes, flaw: Literal["flip", "silent"], choice: float) -> bytes:
    """One bit of a single packet flipped, at a place given by `choice` in [0, 1).

    `"flip"` is noticed by the transport's checksum, `"silent"` is not. A packet that has no
    transport checksum or nothing to flip comes back as it was.
    """
    found = _transport(frame)
    if found is None:
        return frame
    protocol, start, offset = found
    packet = bytearray(frame[VNET_BYTES:])
    header_bytes = 8 if protocol == _UDP else _tcp_header_bytes(frame, start)
    payload_at = start + header_bytes
    partial = frame[0] & _NEEDS_CSUM
    if len(packet) == payload_at and flaw == "silent":
        return frame
    at = payload_at + int(choice * (len(packet) - payload_at))
    if len(packet) == payload_at:
        at = start + 8  # in the acknowledged sequence number
    if flaw == "silent":
        packet[at] ^= 1
        if partial:
            return frame[:VNET_BYTES] + packet
        _complete_checksum(packet, protocol, start, offset)
        return frame[:VNET_BYTES] + packet
    if partial:
        _complete_checksum(packet, protocol, start, offset)
    packet[at] ^= 1
    return _VNET.pack(0, 0, 0, 0, 0, 0) + packet


def _tcp_header_bytes(frame: bytes, start: int) -> int:
    return (frame[VNET_BYTES + start + 12] >> 4) * 4


def _transport(frame: bytes) -> tuple[int, int, int] | None:
    """(protocol, where its header starts in the packet, offset of its checksum), if known."""
    if frame[VNET_BYTES] >> 4 == 4:
        protocol, start = frame[VNET_BYTES + 9], (frame[VNET_BYTES] & 15) * 4
        if struct.unpack_from("!H", frame, VNET_BYTES + 6)[0] & 0x3FFF:
            return None  # a fragment
    else:
        protocol, start = frame[VNET_BYTES + 6], 40
    if protocol == _TCP:
        return _TCP, start, _TCP_CHECKSUM
    if protocol == _UDP:
        return _UDP, start, _UDP_CHECKSUM
    return None


def _set_length(
    header: bytearray, start: int, payload_bytes: int, *, identification_step: int
) -> None:
    """Makes the IP header one of a packet with this header and so much payload."""
    if header[0] >> 4 == 6:
        struct.pack_into("!H", header, 4, len(header) - 40 + payload_bytes)
        return
    (identification,) = struct.unpack_from("!H", header, 4)
    struct.pack_into("!H", header, 2, len(header) + payload_bytes)
    struct.pack_into("!H", header, 4, (identification + identification_step) & 0xFFFF)
    struct.pack_into("!H", header, 10, 0)
    struct.pack_into("!H", header, 10, ~_fold(_sum(header[: (header[0] & 15) * 4])) & 0xFFFF)


def _complete_checksum(packet: bytearray, protocol: int, start: int, offset: int) -> None:
    struct.pack_into("!H", packet, start + offset, 0)
    total = _pseudo_sum(packet, start, 0, protocol) + _sum(packet[start:])
    checksum = ~_fold(total) & 0xFFFF
    if protocol == _UDP and checksum == 0:
        checksum = 0xFFFF  # 0 would say that there is none
    struct.pack_into("!H", packet, start + offset, checksum)


def _pseudo_sum(packet: bytearray, start: int, more_bytes: int, protocol: int) -> int:
    """Over addresses, protocol and length of a packet that `more_bytes` will be added to."""
    length = len(packet) - start + more_bytes
    source_at = 12 if packet[0] >> 4 == 4 else 8
    return _sum(packet[source_at:start][: 8 if source_at == 12 else 32]) + protocol + length


def _sum(data: bytes | bytearray) -> int:
    """The sum of big-endian 16-bit words, not folded."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    words = memoryview(bytes(data)).cast("H")
    total = sum(words)
    if sys.byteorder == "little":  # a sum of swapped words is the swapped sum (RFC 1071)
        total = int.from_bytes(_fold(total).to_bytes(2, "little"), "big")
    return total


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
