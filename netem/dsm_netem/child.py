"""A process of ours, started and commanded: the parent's side of `commands`.

Links run in processes of their own, so that the program under test does not slow them down. They
are spoken to in JSON, one object per line, one command at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

from .config import ConfigError

START_TIMEOUT_S = 20.0  # a crowded machine takes seconds to start an interpreter
CLOSE_TIMEOUT_S = 5.0


class ChildError(RuntimeError):
    """The process could not be started, or has ended: says why, and of what kind that is."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """`python -m MODULE`, running. All methods may be called from any thread."""

    def __init__(self, module: str, setup: dict[str, Any]) -> None:
        """Starts it; `answer` is what it said to its setup. Raises `ChildError`."""
        self._lock = threading.Lock()
        self._commands = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],  # -P: nothing from the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children
        )
        self.pid = self._process.pid
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self.answer = self._exchange({"parent_pid": os.getpid(), **setup})
        except BaseException:  # Ctrl-C, too, leaves no process
            self.close()
            raise
        finally:
            watchdog.cancel()
        if "error" in self.answer:
            self.close()
            raise ChildError(self.answer["error"], self.answer.get("kind", ""))

    def command(self, verb: str, **arguments: Any) -> Any:
        """Raises `ConfigError` if it was refused, `ChildError` if the process is gone."""
        with self._lock:
            self._commands += 1
            answer = self._exchange({"id": self._commands, "do": verb, "with": arguments})
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process; may be called twice."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(timeout=CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise ChildError(f"the link's process is gone: {error}") from error
        if not line:
            raise ChildError("the link's process ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer
