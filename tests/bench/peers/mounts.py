"""Mounted files: sshfs, and rclone over the HTTP server; read as any file is."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..data import header_extent, payload_extent
from .interface import Buffer, Peer, Reader, Running, end, register, serves, which

MOUNT_S = 15.0
SSHD = """
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


@serves(name="sshd", programs=("sshd", "ssh-keygen"))
def sshd(running: Running) -> Iterator[None]:
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    for name in ("host_key", "user_key"):
        key = running.folder / name
        if not key.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(command, check=True)
    file = running.folder / "sshd_config"
    file.write_text(SSHD.format(port=running.port, host=running.host.ipv4, folder=running.folder))
    program = which("sshd")
    assert program is not None
    with running.program([program, "-D", "-e", "-f", str(file)]):
        yield


class MountReader(Reader):
    """Mounts, then reads; the mount is private to this process."""

    def __init__(self, command: list[str], unmount: list[str]) -> None:
        self._unmount = unmount
        self._where = Path(command[-1])
        self._files: dict[str, int] = {}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + MOUNT_S
        while not self._where.is_mount():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                _, errors = self._process.communicate()
                raise RuntimeError(f"not mounted: {errors.decode(errors='replace')[-300:]}")
            time.sleep(0.002)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        subprocess.run([*self._unmount, str(self._where)], check=False, capture_output=True)
        end(self._process)
        shutil.rmtree(self._where, ignore_errors=True)

    def read(self, name: str, offset: int, length: int) -> Buffer:
        if name not in self._files:
            self._files[name] = os.open(self._where / name, os.O_RDONLY)
        parts = []
        while length and (data := os.pread(self._files[name], length, offset)):
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def headers(self, count: int) -> Iterator[Buffer]:
        for seq in range(count):
            yield self.read("blocks", *header_extent(seq))

    def payloads(self, seqs: list[int]) -> Iterator[Buffer]:  # type: ignore[override]
        for seq in seqs:
            yield self.read("blocks", *payload_extent(seq))


def sshfs(host: str, port: int, *, options: tuple[str, ...]) -> MountReader:
    folder = os.environ["BENCH_SERVER_FOLDER"]
    user = pwd.getpwuid(os.getuid()).pw_name
    ssh = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    flags = [
        part
        for option in (*ssh, f"IdentityFile={folder}/user_key", f"port={port}", *options)
        for part in ("-o", option)
    ]
    data = os.environ["BENCH_DATA_FOLDER"]
    where = tempfile.mkdtemp(prefix="mount-")
    return MountReader(
        ["sshfs", "-f", *flags, f"{user}@{host}:{data}", where], ["fusermount3", "-u", "-z"]
    )


def rclone(host: str, port: int, *, options: tuple[str, ...]) -> MountReader:
    where = tempfile.mkdtemp(prefix="mount-")
    remote = f":http,url='http://{host}:{port}/':"
    flags = ["--read-only", "--config", "/dev/null", *options]
    return MountReader(["rclone", "mount", *flags, remote, where], ["fusermount3", "-u", "-z"])


KINDS = frozenset({"sequential", "random", "strided", "first", "cold", "demand", "seek"})
register(
    Peer(
        "sshfs",
        "sshd",
        "sshfs, defaults",
        functools.partial(sshfs, options=()),
        KINDS,
        programs=("sshfs", "fusermount3", "unshare"),
        private_mounts=True,
    )
)
register(
    Peer(
        "rclone",
        "nginx",
        "rclone mount over HTTP, defaults",
        functools.partial(rclone, options=()),
        KINDS,
        programs=("rclone", "fusermount3", "unshare"),
        private_mounts=True,
    )
)
