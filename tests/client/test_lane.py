"""Lanes to a node that is not there: they end when told to, and pause between attempts."""

from __future__ import annotations

import random
import socket
import threading
import time

import pytest
from dsm_client import connect
from dsm_client.loop import background

from dsm.errors import NodeUnavailable

ATTEMPTS, THREADS = 5, 8


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_giving_up_ends_however_its_moment_falls(nowhere: str) -> None:
    """gRPC may swallow the cancellation of a task whose call fails at the same moment."""
    failures: list[NodeUnavailable] = []

    def attempt() -> None:
        for _ in range(ATTEMPTS):
            try:
                connect(nowhere, retry_s=random.random() * 0.4)
            except NodeUnavailable as error:
                failures.append(error)

    threads = [threading.Thread(target=attempt, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(failures) == ATTEMPTS * THREADS


def test_a_refused_lane_pauses_between_attempts(nowhere: str) -> None:
    background()
    used, started = time.process_time(), time.monotonic()
    with pytest.raises(NodeUnavailable):
        connect(nowhere, retry_s=1.0)
    elapsed_s = time.monotonic() - started
    assert time.process_time() - used < 0.4 * elapsed_s
