"""Ending what a run has left behind, and never what somebody else has started.

A program started on an emulated host carries `DSM_NETEM_RUN` in its environment: the process id
and start time of the forwarder that holds its network. The forwarder kills what is in its
namespaces when it ends. Where it was killed itself, programs may remain, in a network that leads
nowhere; the next run finds them by that mark and ends them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "DSM_NETEM_RUN"
_STATE_FIELD, _PARENT_FIELD, _START_TIME_FIELD = 0, 1, 19  # of /proc/PID/stat, after the name
_DEAD = "ZX"  # a zombie that nobody has waited for yet


def marker(forwarder_pid: int) -> str:
    """Names one life of a process: ids are used again, a start time with them is not."""
    return f"{forwarder_pid}-{_start_time(forwarder_pid)}"


def sweep() -> list[int]:
    """Kills the programs of runs whose forwarder is dead; returns their process ids.

    Not those that the caller itself runs in: a shell may have outlived its network.
    """
    killed = []
    own = _ancestry()
    for pid in _pids():
        run = None if pid in own else _variable(pid)
        if run and not _alive(run):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def kill_inside(namespaces: Iterable[int]) -> list[int]:
    """Kills every process that is in one of these namespaces; returns their process ids."""
    inodes = {os.fstat(namespace).st_ino for namespace in namespaces}
    killed = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and Path(f"/proc/{pid}/ns/net").stat().st_ino in inodes:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _variable(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == VARIABLE.encode():
                return value.decode(errors="replace")
    return None


def _alive(run: str) -> bool:
    pid, _, started = run.partition("-")
    return pid.isdigit() and _start_time(int(pid)) == started


def _ancestry() -> set[int]:
    """The calling process, its parent, and so on."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        fields = _stat(pid)
        pid = int(fields[_PARENT_FIELD]) if fields else 0
    return found


def _start_time(pid: int) -> str | None:
    fields = _stat(pid)
    if not fields or fields[_STATE_FIELD] in _DEAD:
        return None
    return fields[_START_TIME_FIELD]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name; empty if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat.rpartition(")")[2].split()
