"""Lanes to a node that is not there: they end when told to, and pause between attempts."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress

import pytest
from dsm_client import connect, lane
from dsm_client.loop import background

from dsm.errors import NodeUnavailable


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_task_that_loses_a_cancellation_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As gRPC does where a call fails at the very moment at which its task is cancelled."""
    monkeypatch.setattr(lane, "END_S", 0.02)

    async def stubborn() -> None:
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(lane.end((task,)), 5)
        assert task.cancelled()

    asyncio.run(run())


def test_a_refused_lane_pauses_between_attempts(nowhere: str) -> None:
    background()
    used, started = time.process_time(), time.monotonic()
    with pytest.raises(NodeUnavailable):
        connect(nowhere, retry_s=1.0)
    elapsed_s = time.monotonic() - started
    assert time.process_time() - used < 0.4 * elapsed_s
