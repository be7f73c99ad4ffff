"""A node as a process of its own, and a node that lies: what the tests of client and server use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

START_S = 20.0


class NodeProcess:
    """`dsm-node` over `root`; keeps its port over restarts."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.address = "127.0.0.1:0"

    def start(self) -> Self:
        command = [sys.executable, "-m", "dsm_server.daemon", "--listen", self.address]
        self._process = subprocess.Popen(
            [*command, "--root", str(self.root), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_S, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if " at " not in line:
            _, errors = self._process.communicate()
            raise AssertionError(f"the node did not start: {line!r} {errors}")
        self.address = line.split()[-1]
        return self

    @property
    def url(self) -> str:
        return f"dsm://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it; returns its exit code and what it logged."""
        process, self._process = self._process, None
        if process is None:
            return 0, ""
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f"the node did not end on {number.name}") from None
        return process.returncode, errors

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)
