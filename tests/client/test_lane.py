"""Lanes that come and go, lanes to a node that is not there, and lanes that meet a bug."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dsm_client import Session, connect, lane
from dsm_client.loop import background
from dsm_client.security import Security
from dsm_client.transport import ADJUST_S, Transport

from dsm.errors import DsmError, NodeUnavailable
from dsm.segment import create_region
from tests.nodes import NodeProcess


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


def test_lanes_are_adjusted_once_for_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        transport = Transport("nowhere", Security(None), lanes=1, retry_s=1.0, codecs=())
        monkeypatch.setattr(transport, "_lanes", {0: None})
        adjusted: asyncio.Queue[float] = asyncio.Queue()
        monkeypatch.setattr(
            transport, "_adjust_lanes", lambda: adjusted.put_nowait(transport.now())
        )
        for _ in range(2):
            started = transport.now()
            for _ in range(1000):
                transport._adjust_soon(started)
            assert await asyncio.wait_for(adjusted.get(), 5) - started > 0.9 * ADJUST_S
            assert adjusted.empty()
        monkeypatch.setattr(transport, "_lanes", {})
        transport._adjust_now()
        assert adjusted.empty(), "it is closing"

    asyncio.run(run())


def test_a_refused_lane_pauses_between_attempts(nowhere: str) -> None:
    background()
    used, started = time.process_time(), time.monotonic()
    with pytest.raises(NodeUnavailable):
        connect(nowhere, retry_s=1.0)
    elapsed_s = time.monotonic() - started
    assert time.process_time() - used < 0.4 * elapsed_s


def test_lanes_come_and_go_under_load(
    node: NodeProcess,
    root: Path,
    dial: Callable[..., Session],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More, then fewer, at any moment: their numbers have no gaps, and nothing is lost."""
    monkeypatch.setattr("dsm_client.transport.ADJUST_S", 0.0)
    content, random = os.urandom(1 << 20) * 32, Random(1)
    with create_region(root, "region", size_bytes=len(content)) as writer:
        with writer.write() as view:
            view[:] = content
        session = dial(node)
        transport = session._core.transport
        assert transport is not None
        numbers: set[tuple[int, ...]] = set()

        def wanted(*_: Any, **__: Any) -> int:
            numbers.add(tuple(sorted(transport._lanes)))
            transport._lane_count.used = random.randint(1, 8)  # the others idle, and are closed
            return transport._lane_count.used

        transport._lane_count.wanted = wanted  # type: ignore[method-assign]
        region = session.open("region", access="prefetch")
        for offset in range(0, len(content), 1 << 16):
            assert region.read(offset, 1 << 16) == content[offset : offset + (1 << 16)]
        assert len(numbers) > 3
        assert all(found == tuple(range(len(found))) for found in numbers), numbers


def test_a_bug_is_told_to_the_reader_and_not_waited_for(
    node: NodeProcess, root: Path, dial: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    with create_region(root, "region", size_bytes=1 << 20):
        region = dial(node).open("region", access="copy_once")
        replica = region.opened().replica

        def broken(*_: Any) -> None:
            raise KeyError(9)

        with monkeypatch.context() as patch:
            patch.setattr(replica, "frame", broken)
            with pytest.raises(DsmError, match=r"internal error: KeyError\(9\)"):
                region.read(1 << 19, 1000)
        assert bytes(region.read(1 << 19, 1000)) == bytes(1000)
