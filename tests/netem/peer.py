"""Programs for emulated hosts: `python peer.py VERB ...`, each prints what it found as JSON.

They are programs, not functions, because a test process cannot be on two hosts at a time.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import time

PORT = 5555
SEED = 42
TOTAL_RETRANS = 100  # where tcpi_total_retrans is in struct tcp_info
SO_RCVBUFFORCE = 33  # Linux; the module does not name it


def pattern(size_bytes: int) -> bytes:
    return random.Random(SEED).randbytes(size_bytes)


def receive_stream(address: str) -> None:
    """Takes one TCP stream and says what it was."""
    with socket.create_server((address, PORT)) as listener:
        print("ready", flush=True)
        end, _ = listener.accept()
        data = bytearray()
        while part := end.recv(1 << 16):
            data += part
            last = time.monotonic()
        end.sendall(b"done")
    expected = pattern(len(data))
    wrong = sum(a != b for a, b in zip(data, expected, strict=True)) if data != expected else 0
    print(json.dumps({"bytes": len(data), "wrong": wrong, "last": last}))


def send_stream(address: str, size_bytes: str, congestion: str = "") -> None:
    """Sends the pattern; says how long it took until the other side had it."""
    data = pattern(int(size_bytes))
    with socket.socket() as end:
        if congestion:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        end.connect((address, PORT))
        began = time.monotonic()
        end.sendall(data)
        end.shutdown(socket.SHUT_WR)
        assert end.recv(10) == b"done"
        took_s = time.monotonic() - began
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    (retransmitted,) = struct.unpack_from("=I", info, TOTAL_RETRANS)
    print(json.dumps({"seconds": took_s, "retransmitted": retransmitted}))


def receive_datagrams(address: str, until_s: str) -> None:
    """Numbers of the datagrams that came, and when, on the clock that all processes share."""
    with socket.socket(type=socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        end.bind((address, PORT))
        print("ready", flush=True)
        numbers, times = [], []
        end.settimeout(10.0)
        while True:
            try:
                data = end.recv(2048)
            except TimeoutError:
                break
            times.append(time.monotonic())
            numbers.append(int.from_bytes(data[:4], "big"))
            end.settimeout(float(until_s))
    print(json.dumps({"numbers": numbers, "times": times}))


def send_datagrams(address: str, size_bytes: str, bursts: str) -> None:
    """`bursts` is [[seconds, how many], ...] as JSON; says when it began."""
    number, errors = 0, 0
    with socket.socket(type=socket.SOCK_DGRAM) as end:
        began = time.monotonic()
        for at_s, count in json.loads(bursts):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            for _ in range(count):
                try:
                    end.sendto(
                        number.to_bytes(4, "big") + bytes(int(size_bytes) - 4), (address, PORT)
                    )
                except OSError:
                    errors += 1
                number += 1
    print(json.dumps({"began": began, "sent": number, "errors": errors}))


def ping(address: str, count: str) -> None:
    """Round trips of ICMP echoes, in seconds."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as end:
        end.settimeout(5.0)
        for number in range(int(count)):
            body = b"\x08\x00\x00\x00\x12\x34" + number.to_bytes(2, "big")
            total = sum(int.from_bytes(body[i : i + 2], "big") for i in range(0, 8, 2))
            checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
            body = body[:2] + checksum.to_bytes(2, "big") + body[4:]
            began = time.monotonic()
            end.sendto(body, (address, 0))
            while (answer := end.recv(200))[20:21] != b"\0" or answer[26:28] != body[6:8]:
                pass
            times.append(time.monotonic() - began)
    print(json.dumps({"times": times}))


if __name__ == "__main__":
    verbs = {
        "receive-stream": receive_stream,
        "send-stream": send_stream,
        "receive-datagrams": receive_datagrams,
        "send-datagrams": send_datagrams,
        "ping": ping,
    }
    verbs[sys.argv[1]](*sys.argv[2:])
