"""A host of an emulated WAN, as its user sees it: where to start programs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import namespaces, sweep

T = TypeVar("T")
TERMINATE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace (`namespace` is its path), or this machine itself where it is `None`.

    `settings` is what was read back from it: congestion control, socket limits, offloads.
    """

    name: str
    ipv4: str
    ipv6: str
    namespace: str | None
    settings: dict[str, Any]
    marker: str = ""

    def command(self, args: Sequence[str]) -> list[str]:
        """The command line that runs `args` on this host."""
        if self.namespace is None:
            return list(args)
        return [sys.executable, "-P", "-m", "dsm_netem.enter", self.namespace, *args]

    def popen(self, args: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a program on this host, as `subprocess.Popen` does; to be ended by the caller."""
        environment = dict(options.pop("env", None) or os.environ)
        if self.marker:
            environment[sweep.VARIABLE] = self.marker
        return subprocess.Popen(self.command(args), env=environment, **options)

    def run(
        self, args: Sequence[str], *, timeout_s: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Runs a program on this host to its end. Raises as `subprocess.run` does."""
        with self.popen(args, **options) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    @contextlib.contextmanager
    def running(self, args: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
        """A program that runs meanwhile on this host, and is terminated afterwards."""
        process = self.popen(args, **options)
        try:
            yield process
        finally:
            end(process)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function in a thread that is on this host: sockets that it makes stay there."""
        if self.namespace is None:
            return function(*args)
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                assert self.namespace is not None
                with Path(self.namespace).open("rb") as namespace:
                    namespaces.enter(namespace.fileno())
                results.append(function(*args))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=inside, name=f"on-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def end(process: subprocess.Popen[Any]) -> None:
    """Terminates a program, and kills it if it does not mind."""
    process.terminate()
    try:
        process.wait(TERMINATE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
