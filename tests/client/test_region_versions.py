"""A region that its producer commits to: what a new version costs, and that versions never mix."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session
from dsm_client.loop import background

from dsm.core.reads import ReadPages
from dsm.errors import BudgetExceeded, VersionGone
from dsm.model import Extent
from dsm.segment import RegionWriter, create_region
from tests.client.test_methods import METHODS, NOISE, Wire
from tests.nodes import NodeProcess

PAGE = 4096
PAGES = 64
SIZE = PAGE * PAGES

Dial = Callable[..., Session]


@pytest.fixture
def writer(shared_node: NodeProcess, name: str) -> Iterator[RegionWriter]:
    with create_region(shared_node.root, name, size_bytes=SIZE) as writer:
        commit(writer, 0, NOISE[:SIZE])
        yield writer


def commit(writer: RegionWriter, offset: int, data: bytes) -> int:
    with writer.write(offset, len(data)) as view:
        view[:] = data
    del view
    return writer.version


def until(happened: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@pytest.mark.parametrize("method", ["copy_once", "prefetch", "auto"])
def test_a_new_version_costs_its_changed_pages(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str, method: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(name, access=method)
    assert handle.read() == NOISE[:SIZE]
    wire = Wire(session)
    version = commit(writer, 5 * PAGE + 100, b"changed")
    until(lambda: handle.version == version)
    data = bytearray(NOISE[:SIZE])
    data[5 * PAGE + 100 : 5 * PAGE + 107] = b"changed"
    assert handle.read() == data
    moved = wire()
    assert PAGE < moved["bytes_received"] < 2 * PAGE
    assert handle.read() == data
    assert wire()["bytes_received"] == 0


def test_a_view_stays_as_it_is(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str
) -> None:
    handle = dial(shared_node).open(name, access="copy_once")
    with handle.snapshot() as old:
        version = commit(writer, 0, bytes(SIZE))
        until(lambda: handle.version == version)
        assert handle.read() == bytes(SIZE)
        assert old == NOISE[:SIZE]


def test_what_is_dropped_while_it_is_read_is_fetched_again(
    shared_node: NodeProcess,
    dial: Dial,
    writer: RegionWriter,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = dial(shared_node).open(name, access="copy_once")
    handle.read()
    shadow = handle._source.replica.shadow  # type: ignore[attr-defined]
    lend = shadow._leases.view

    def late(index: int) -> memoryview:
        monkeypatch.undo()
        assert shadow.drop(Extent(0, 1))
        return lend(index)

    for read in (lambda: handle.read(5, 10), lambda: handle.read_many([(5, 10)])[0]):
        monkeypatch.setattr(shadow._leases, "view", late)
        assert read() == NOISE[5:15]


def test_a_remote_event_says_the_version(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str
) -> None:
    handle = dial(shared_node).open(name, access="copy_once")
    for _ in range(5):
        version = commit(writer, 0, b"x" * 10)
        until(lambda version=version: handle.version == version)  # type: ignore[misc]


class Committer:
    """Fills the whole region with its version's number, as fast as it can."""

    def __init__(self, writer: RegionWriter, pause_s: float = 0.0) -> None:
        self._writer, self._pause_s = writer, pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.commits = 0

    def _run(self) -> None:
        while not self._over.wait(self._pause_s) if self._pause_s else not self._over.is_set():
            number = self._writer.version + 1
            with self._writer.write() as view:
                view[:] = number.to_bytes(8, "little") * (SIZE // 8)
            del view
            self.commits += 1

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def check_whole(view: memoryview, offset: int = 0) -> int:
    number = bytes(view[:8])
    assert view == number * (len(view) // 8), f"versions mixed in bytes from {offset}"
    return int.from_bytes(number, "little")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pause_s", [0.0, 0.002])
def test_versions_never_mix_across_the_network(
    shared_node: NodeProcess,
    dial: Dial,
    writer: RegionWriter,
    name: str,
    method: str,
    pause_s: float,
) -> None:
    commit(writer, 0, (writer.version + 1).to_bytes(8, "little") * (SIZE // 8))
    handle = dial(shared_node).open(name, access=method)
    with Committer(writer, pause_s) as committer:
        seen: list[int] = []
        held: list[tuple[int, memoryview]] = []
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            try:
                view = handle.read(8 * PAGE, 16 * PAGE) if len(seen) % 2 else handle.read()
            except BudgetExceeded:  # views of all buffers are held: as it says, let go of them
                held.clear()
                continue
            seen.append(check_whole(view))
            held.append((seen[-1], view))
            for number, old in held:
                assert check_whole(old) == number
            held = held[-2:]
            del view, old
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    print(f"{method}, pause {pause_s} s: {len(seen)} reads, {committer.commits} commits")


def test_versions_never_mix_in_a_mapped_region(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str
) -> None:
    commit(writer, 0, (writer.version + 1).to_bytes(8, "little") * (SIZE // 8))
    handle = dial(shared_node, map_local=True).open(name)
    assert handle.is_mapped
    with Committer(writer):
        seen = []
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            with handle.snapshot() as view:
                number = check_whole(view)
                seen.append(check_whole(handle.read()))
                assert check_whole(view) == number
            del view
            time.sleep(0.0005)  # lets the committing thread have the interpreter
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_two_readers_of_one_handle(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str
) -> None:
    """Reads of different extents at the same time, while versions go by."""
    commit(writer, 0, (writer.version + 1).to_bytes(8, "little") * (SIZE // 8))
    handle = dial(shared_node).open(name, access="copy_once")
    errors: list[BaseException] = []

    def read(first: int) -> None:
        try:
            for _ in range(60):
                check_whole(handle.read(first * PAGE, 16 * PAGE))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(n * 16,)) for n in range(4)]
    with Committer(writer, 0.003):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


def test_an_old_version_is_refused_with_its_number(
    shared_node: NodeProcess, dial: Dial, writer: RegionWriter, name: str
) -> None:
    session = dial(shared_node)
    handle: Any = session.open(name, access="copy_once")
    old = writer.version
    for _ in range(3):
        commit(writer, 0, bytes(SIZE))
    transport = handle.opened().replica.transport
    work = transport.read(
        name, handle.info.epoch, ReadPages(old, 0, (Extent(0, 1),)), bytes_expected=PAGE
    )
    with pytest.raises(VersionGone, match=f"version {old} is not held"):
        background().run(asyncio.wait_for(work, 10))
