"""Nothing may be left behind: no process, no device, no named namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

OURS = ("wan", "to-")


def devices() -> set[str]:
    """Those that are called like ours, outside of any emulated host."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines if line.strip().startswith(OURS)}


def named_namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def our_processes() -> list[str]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "dsm_netem" in command:
            found.append(f"{child.pid}: {command}")
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = devices(), named_namespaces()
    yield
    assert our_processes() == []
    assert (devices(), named_namespaces()) == before
