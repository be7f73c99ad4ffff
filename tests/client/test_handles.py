"""Handles: from any thread, over forks and pickles, and what they handed out outlives them."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dsm_client import Session

from dsm.errors import Closed, OutOfRange, SegmentNotFound
from dsm.segment import create_region, create_ring
from tests.nodes import NodeProcess
from tests.segment.content import block as content
from tests.segment.processes import fork, wait

Dial = Callable[..., Session]
BLOCKS = 500
SIZE = 1 << 18
MAP_LOCAL = pytest.mark.parametrize("local", [True, False], ids=["mapped", "remote"])


@pytest.fixture
def names(shared_node: NodeProcess, name: str) -> Iterator[tuple[str, str]]:
    with (
        create_ring(shared_node.root, f"{name}/r", capacity_bytes=1 << 20, header_bytes=8) as ring,
        create_region(shared_node.root, f"{name}/m", size_bytes=SIZE) as region,
    ):
        ring.append_many([content(seq) for seq in range(BLOCKS)])
        with region.write() as view:
            view[:] = b"m" * SIZE
        del view
        yield f"{name}/r", f"{name}/m"


def check(ring: Any, region: Any, seqs: range = range(0, BLOCKS, 7)) -> None:
    for seq in seqs:
        assert bytes(ring.read(seq).data) == content(seq)
    assert region.read(5, 1000) == b"m" * 1000


def _check_pickled(handles: bytes) -> None:
    ring, region = pickle.loads(handles)
    check(ring, region)


@MAP_LOCAL
def test_pickled_to_another_process(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str], local: bool
) -> None:
    session = dial(shared_node, map_local=local)
    ring, region = session.open(names[0], access="hybrid"), session.open(names[1])
    handles = pickle.dumps((ring, region))
    assert len(handles) < 1000
    process = multiprocessing.get_context("spawn").Process(target=_check_pickled, args=(handles,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    again, _ = pickle.loads(handles)
    assert again.access is ring.access
    assert again.is_mapped == local
    assert again._core is not session._core
    check(again, region)


@MAP_LOCAL
@pytest.mark.parametrize("method", ["auto", "hybrid", "zero_copy"])
def test_forked_while_another_thread_reads(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str], local: bool, method: str
) -> None:
    session = dial(shared_node, map_local=local)
    ring, region = (session.open(name, access=method) for name in names)
    check(ring, region, range(3))
    over, errors = threading.Event(), []

    def read() -> None:
        try:
            while not over.is_set():
                check(ring, region, range(0, BLOCKS, 50))
                session.open(names[1], access=method).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert wait(fork(lambda: check(ring, region))) == 0
            check(ring, region)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors


def test_a_child_may_fork_and_open_and_close(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str]
) -> None:
    session = dial(shared_node)
    ring, region = (session.open(name) for name in names)
    check(ring, region)

    def child() -> None:
        check(ring, region)
        assert wait(fork(lambda: check(ring, region))) == 0
        assert bytes(session.open(names[0]).read(1).data) == content(1)
        session.close()
        with pytest.raises(Closed):
            ring.read(2)

    assert wait(fork(child)) == 0
    check(ring, region, range(BLOCKS))


def _check_inherited(ring: Any, region: Any) -> None:
    check(ring, region)


def test_multiprocessing_by_fork(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str]
) -> None:
    session = dial(shared_node)
    ring, region = (session.open(name) for name in names)
    check(ring, region, range(3))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_check_inherited, args=(ring, region)) for _ in range(3)]
    for process in processes:
        process.start()
    check(ring, region)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]


@MAP_LOCAL
def test_one_handle_from_eight_threads(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str], local: bool
) -> None:
    session = dial(shared_node, map_local=local)
    ring, region = session.open(names[0], access="hybrid"), session.open(names[1])
    errors: list[BaseException] = []

    def read(first: int) -> None:
        try:
            check(ring, region, range(first, BLOCKS, 3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@MAP_LOCAL
def test_views_outlive_everything(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str], local: bool
) -> None:
    session = dial(shared_node, map_local=local)
    ring, region = (session.open(name) for name in names)
    block, view = ring.read(3), region.read(0, 100)
    payload = block.payload
    ring.close()
    region.close()
    session.close()
    del ring, region, session
    gc.collect()
    assert bytes(block.data) == content(3)
    assert bytes(payload) == content(3)[8:]
    assert view == b"m" * 100


@MAP_LOCAL
def test_closing(shared_node: NodeProcess, dial: Dial, names: tuple[str, str], local: bool) -> None:
    session = dial(shared_node, map_local=local)
    ring, region = (session.open(name) for name in names)
    with ring:
        ring.read(0)
    ring.close()
    for call in (lambda: ring.read(0), lambda: ring.position, lambda: next(ring.blocks())):
        with pytest.raises(Closed):
            call()
    assert "closed" in repr(ring)
    region.read(0, 1)
    session.close()
    session.close()
    with pytest.raises(Closed):
        session.open(names[0])
    with pytest.raises(Closed):
        session.ping()
    if not local:
        with pytest.raises(Closed):
            region.read(SIZE - 1, 1)


def test_closing_wakes_who_waits(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str]
) -> None:
    session = dial(shared_node)
    ring = session.open(names[0])
    raised: list[BaseException] = []

    def follow() -> None:
        try:
            next(ring.follow())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    while not ring.stats()["waits"]:
        time.sleep(0.001)
    ring.close()
    thread.join(5)
    assert [type(error) for error in raised] == [Closed]


def test_many_handles_are_opened_and_closed(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str]
) -> None:
    session = dial(shared_node)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        ring = session.open(names[0])
        ring.read(1)
        ring.close()
    session.ping()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 20


def test_wrong_calls_say_what_is_wrong(
    shared_node: NodeProcess, dial: Dial, names: tuple[str, str]
) -> None:
    session = dial(shared_node)
    ring, region = (session.open(name) for name in names)
    with pytest.raises(OutOfRange, match=str(BLOCKS)):
        ring.read(BLOCKS)
    with pytest.raises(OutOfRange, match="500 blocks"):
        ring.read(-BLOCKS - 1)
    for offset, length in ((-1, 1), (0, SIZE + 1), (SIZE, 1), (0, -1)):
        with pytest.raises(OutOfRange, match=str(SIZE)):
            region.read(offset, length)
    with pytest.raises(SegmentNotFound):
        session.open("no/such")


EXIT = """
import sys, threading
from dsm_client import connect
session = connect(sys.argv[1], map_local=False, cache=sys.argv[3])
ring = session.open(sys.argv[2])
ring.read(0)
threading.Thread(target=lambda: next(ring.follow()), daemon=True).start()
"""


def test_a_program_may_end_without_closing(
    shared_node: NodeProcess, names: tuple[str, str], tmp_path: Any
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT, shared_node.url, names[0], str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
