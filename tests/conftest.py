"""Nodes, sessions and links for the tests, and a look at what they leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dsm_client import Session, connect

from tests.nodes import NodeProcess

SHARED = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> Iterator[None]:
    """No process and no file of these tests is left when they are over."""
    yield
    left = [
        child
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(_command(child))  # multiprocessing's, ends with us
    ]
    assert not left, f"processes left: {[_command(child) for child in left]}"
    assert not list(SHARED.glob(f"{_prefix()}*")), "directories left in shared memory"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _prefix() -> str:
    return f"dsm-test-{os.getpid()}-"


@contextlib.contextmanager
def shared_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=SHARED))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory of its own in shared memory."""
    with shared_directory() as path:
        yield path


@pytest.fixture
def cache() -> Iterator[Path]:
    """A directory for shadows."""
    with shared_directory() as path:
        yield path


@pytest.fixture(scope="session")
def shared_node() -> Iterator[NodeProcess]:
    """One node process for all tests that do it no harm; they name segments after themselves."""
    with shared_directory() as path:
        with NodeProcess(path) as node:
            yield node
            code, log = node.stop()
        assert code == 0
        assert "Traceback" not in log, log
        left = [p.name for p in path.iterdir() if p.suffix != ".dsm"]
        assert not left, f"the node left {left}"


@pytest.fixture
def node(root: Path) -> Iterator[NodeProcess]:
    """A node process of the test's own, to be killed and restarted."""
    with NodeProcess(root) as process:
        yield process


Connect = Callable[..., Session]


@pytest.fixture
def dial(cache: Path) -> Iterator[Connect]:
    """`connect` to a URL or node as from another host, with a cache of the test's own."""
    with contextlib.ExitStack() as stack:

        def dialled(target: Any, **options: Any) -> Session:
            url = target if isinstance(target, str) else f"dsm://{target.address}"
            options = {"map_local": False, "cache": str(cache), "retry_s": 10.0} | options
            return stack.enter_context(connect(url, **options))

        yield dialled


@pytest.fixture
def relayed() -> Iterator[Callable[..., Any]]:
    """A link of given rate and round-trip time to a node."""
    from dsm_netem import Relay

    with contextlib.ExitStack() as stack:

        def made(target: NodeProcess, **link: Any) -> Relay:
            return stack.enter_context(Relay("127.0.0.1", target.port, **link))

        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A segment name that no other test uses."""
    text = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return f"t{abs(hash(request.node.nodeid)) % 10**8}/{text[:100]}"
