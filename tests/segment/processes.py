"""Child processes by `fork`: cheap enough to kill thousands of."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator


def fork(run: Callable[[], None]) -> int:
    """Run `run` in a child that exits 0, or 1 after printing what went wrong."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait(pid)


@contextlib.contextmanager
def running(run: Callable[[], None]) -> Iterator[int]:
    """A child that is killed at the end of the block."""
    pid = fork(run)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill(pid)
