"""From what was typed to a session: addresses, options that all commands share, scratch shadows."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import quote

from dsm.errors import UsageError
from dsm.model import validate_name
from dsm.wire.address import parse_url
from dsm_client import Session, connect
from dsm_client.cache import default_root
from dsm_client.command import complain

QUIET_S = 2.0
"""A node that has not answered after this is worth a word to whoever waits."""

RESUMABLE_S = 24 * 3600.0
"""An interrupted pull is not kept in memory for ever."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which node, and how."""

    address: str
    map_local: bool = True
    wait_s: float = 5.0
    ca: str = ""
    tls: bool = False
    insecure: bool = False

    @contextmanager
    def session(self, cache: Path | None = None, **options: Any) -> Iterator[Session]:
        """A session; its shadows are in `cache`, or go when it ends."""
        with scratch() if cache is None else _kept(cache) as root:
            options = {"map_local": self.map_local, **options}
            waiting = Timer(QUIET_S, self._say_that_it_waits)
            waiting.daemon = True
            if self.wait_s > QUIET_S:
                waiting.start()
            try:
                session = connect(
                    f"dsm://{self.address}",
                    ca=self.ca,
                    tls=self.tls,
                    insecure=self.insecure,
                    retry_s=self.wait_s,
                    cache=str(root),
                    **options,
                )
            finally:
                waiting.cancel()
            with session:
                yield session

    def _say_that_it_waits(self) -> None:
        complain(f"node {self.address} does not answer yet; trying for {self.wait_s:g} s")


def split_target(url: str, segment: str | None) -> tuple[str, str]:
    """Address and segment of `URL/SEGMENT`, or of `URL SEGMENT`. Raises `UsageError`."""
    address, named = parse_url(url)
    if named and segment:
        raise UsageError(f"two segments: {named!r} in the URL, and {segment!r} after it")
    name = named or segment
    if not name:
        raise UsageError(f"which segment? {url.rstrip('/')}/NAME; 'dsm ls {url}' lists them")
    return address, validate_name(name)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for shadows that nobody will want again."""
    with tempfile.TemporaryDirectory(prefix="dsm-command-", dir=default_root().parent) as name:
        yield Path(name)


@contextmanager
def _kept(directory: Path) -> Iterator[Path]:
    yield directory


@contextmanager
def resumable(address: str, segment: str) -> Iterator[Path]:
    """A directory for the shadow of a pull: an interrupted one stays there for the next attempt, a
    complete one goes (a file has its bytes now, and a shadow takes memory)."""
    shadows = default_root()
    root = shadows.with_name(f"{shadows.name}-pull")
    _remove_old(root)
    directory = root / quote(f"{address}/{segment}", safe="")
    complete = False
    try:
        yield directory
        complete = True
    finally:
        if complete or not any(directory.rglob("*.dsm")):
            shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):
            root.rmdir()  # if it is empty


def _remove_old(root: Path) -> None:
    """Nobody goes on with pulls that were begun so long ago."""
    for directory in root.iterdir() if root.is_dir() else ():
        with suppress(OSError):
            if time.time() - directory.stat().st_mtime > RESUMABLE_S:
                shutil.rmtree(directory, ignore_errors=True)
