"""Cutting and flipping super-packets, checked by sums that are made from scratch."""

from __future__ import annotations

import ipaddress
import struct
from itertools import pairwise

import pytest
from dsm_netem import superpacket
from hypothesis import given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None)  # a crowded machine is no failure
FIN_PSH_ACK, CWR = 0x19, 0x80
SEQUENCE = 0xFFFFF000  # wraps around within the packet


def words_sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: bytes, start: int) -> bytes:
    ends = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    return ends + struct.pack("!HH", protocol, len(packet) - start)


def tcp_frame(payload: bytes, gso_size: int, *, six: bool = False, partial: bool = True) -> bytes:
    tcp = bytearray(struct.pack("!HHIIBBHHH", 1, 2, SEQUENCE, 7, 8 << 4, FIN_PSH_ACK, 9, 0, 0))
    tcp += bytes(12)  # options
    tcp[13] |= CWR
    if six:
        ends = ipaddress.IPv6Address("fd99::1").packed + ipaddress.IPv6Address("fd99::2").packed
        ip = struct.pack("!IHBB", 6 << 28, len(tcp) + len(payload), 6, 64) + ends
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp) + len(payload), 5, 0, 64, 6, 0)
        ip = head + bytes([10, 99, 0, 1, 10, 99, 0, 2])
        ip = ip[:10] + struct.pack("!H", ~words_sum(ip) & 0xFFFF) + ip[12:]
    start = len(ip)
    packet = bytearray(ip + tcp + payload)
    checksum = words_sum(pseudo_header(packet, start))
    if not partial:
        checksum = ~words_sum(pseudo_header(packet, start) + packet[start:]) & 0xFFFF
    struct.pack_into("!H", packet, start + 16, checksum)
    segments = -(-len(payload) // gso_size)
    gso = (4 if six else 1, 52, gso_size) if segments > 1 else (0, 0, 0)
    return struct.pack("=BBHHHH", partial, *gso, start, 16) + packet


def parts(frame: bytes) -> tuple[bytes, int, bytes]:
    """(packet, where TCP starts, payload)."""
    packet = frame[10:]
    start = 20 if packet[0] >> 4 == 4 else 40
    return packet, start, packet[start + 32 :]


payloads = st.integers(1, 20_000).map(lambda size: bytes(i * 7 % 251 for i in range(size)))


@STEADY
@given(payloads, st.integers(500, 1448), st.booleans(), st.data())
def test_cuts_of_a_super_packet_are_packets_and_make_it_whole(payload, gso_size, six, data):
    frame = tcp_frame(payload, gso_size, six=six)
    shape = superpacket.shape_of(frame)
    assert shape.segments == -(-len(payload) // gso_size)
    total = (shape.segments - 1) * shape.segment_bytes + shape.last_bytes
    headers = (40 if six else 20) + 32
    assert total == len(payload) + shape.segments * headers

    places = data.draw(st.lists(st.integers(0, shape.segments), max_size=5))
    edges = sorted({0, shape.segments, *places})
    rebuilt = b""
    for first, end in pairwise(edges):
        part = superpacket.cut(frame, first, end)
        packet, start, piece = parts(part)
        assert struct.unpack_from("!I", packet, start + 4)[0] == (SEQUENCE + len(rebuilt)) % 2**32
        if six:
            assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
        else:
            assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
            assert struct.unpack_from("!H", packet, 4)[0] == 5 + first
            assert words_sum(packet[:20]) == 0xFFFF
        # Partial: the field holds the pseudo-header's sum, which the kernel goes on from.
        assert struct.unpack_from("!H", packet, start + 16)[0] == words_sum(
            pseudo_header(packet, start)
        )
        flags = packet[start + 13]
        assert bool(flags & 0x09) == (end == shape.segments)  # FIN, PSH on the last only
        assert bool(flags & CWR) == (first == 0)
        assert superpacket.shape_of(part).segments == end - first
        rebuilt += piece
    assert rebuilt == payload


def checksum_good(frame: bytes) -> bool:
    packet, start, _ = parts(frame)
    return words_sum(pseudo_header(packet, start) + packet[start:]) == 0xFFFF


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("size", [1, 999, 1448])
@pytest.mark.parametrize("choice", [0.0, 0.5, 0.999])
def test_a_flip_is_noticed_and_a_silent_one_is_not(six, partial, size, choice):
    payload = bytes(range(256)) * 6
    frame = tcp_frame(payload[:size], 1448, six=six, partial=partial)
    noticed = superpacket.flip(frame, "flip", choice)
    silent = superpacket.flip(frame, "silent", choice)
    for flipped in (noticed, silent):
        changed = [a ^ b for a, b in zip(parts(frame)[2], parts(flipped)[2], strict=True)]
        assert sorted(changed)[-1] == 1
        assert sum(changed) == 1
    assert noticed[0] == 0  # nobody fills the checksum in any more
    assert not checksum_good(noticed)
    if partial:
        assert silent[0] == 1  # still to be filled in: the receiver trusts it
    else:
        assert checksum_good(silent)


def test_a_packet_without_payload_can_only_be_flipped_noticeably():
    frame = tcp_frame(b"", 1448)
    assert superpacket.flip(frame, "silent", 0.5) == frame
    assert not checksum_good(superpacket.flip(frame, "flip", 0.5))
