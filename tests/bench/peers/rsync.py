"""rsync daemon: whole files; nothing can be read before its end has come."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data import Extent
from .interface import Buffer, Peer, Reader, Running, register, serves

CONFIGURATION = """
use chroot = no
port = {port}
address = {host}
uid = root
gid = root
[data]
path = {root}
read only = yes
"""


@serves(name="rsync", programs=("rsync",))
def rsync(running: Running) -> Iterator[None]:
    file = running.folder / "rsyncd.conf"
    file.write_text(
        CONFIGURATION.format(port=running.port, host=running.host.ipv4, root=running.data.folder)
    )
    with running.program(["rsync", "--daemon", "--no-detach", f"--config={file}"]):
        yield


class CopyReader(Reader):
    """Copies the file with a program, then reads the copy."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._folder = tempfile.TemporaryDirectory(prefix="copy-")
        self.target = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None

    def warm(self, name: str, size: int) -> None:
        """Every run of such a program connects anew."""

    def work(self, name: str, size: int, limit_s: float) -> None:
        """So nothing is gained by it."""

    def command(self, name: str) -> list[str]:
        raise NotImplementedError

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        self._process = subprocess.Popen(
            self.command(name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # some are two processes
        )
        _, errors = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(errors.decode(errors="replace")[-300:])
        with (self.target / name).open("rb") as file:
            for offset, length in extents:
                file.seek(offset)
                yield file.read(length)

    def stop(self) -> int:
        """Ends the program before it is done; what it has of the file so far."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return sum(file.stat().st_blocks * 512 for file in self.target.iterdir() if file.is_file())

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def address(self, scheme: str, path: str) -> str:
        return f"{scheme}://{self._host}:{self._port}/{path}"


class RsyncReader(CopyReader):
    def command(self, name: str) -> list[str]:
        options = ["--whole-file", "--inplace"]
        return ["rsync", *options, self.address("rsync", f"data/{name}"), str(self.target)]


register(Peer("rsync", "rsync", "rsync daemon", RsyncReader, frozenset({"sequential"})))
