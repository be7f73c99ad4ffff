"""Nothing may be left behind: no process, no device, no namespace.

A namespace without a name is kept by a process that is in it or holds it open, or by a mount. So it
is enough that no process is left, whoever its parent is by now: all that the tests start inherit a
mark in their environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MARK = "DSM_NETEM_TESTS"
OURS = ("wan", "to-")
END_S = 5.0  # what was killed takes a moment to be gone


def devices() -> set[str]:
    """Those that are called like ours, outside of any emulated host."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines if line.strip().startswith(OURS)}


def kept_namespaces() -> set[str]:
    """What would keep a namespace without a process: names, and other mounts."""
    folder = Path("/run/netns")
    names = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return names | {mount for mount in mounts if " - nsfs " in mount}


def marked_processes(mark: str) -> list[str]:
    """Process ids and command lines."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(f"{folder.name}: {(folder / 'cmdline').read_text()}")
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = devices(), kept_namespaces()
    os.environ[MARK] = str(os.getpid())
    yield
    mark = f"{MARK}={os.environ.pop(MARK)}"
    deadline = time.monotonic() + END_S
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert (devices(), kept_namespaces()) == before
