"""XRootD: `xrdcp` with one stream, its default, or with the 15 that are the most it takes."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from collections.abc import Iterator

from ..data import FILES
from .interface import Peer, Running, register, serves
from .rsync import CopyReader

CONFIGURATION = """
all.role server
all.export /data
oss.localroot {folder}/xroot
xrd.port {port}
all.adminpath {folder}/xrd
all.pidpath {folder}/xrd
xrootd.async on
"""


@serves(name="xrootd", programs=("xrootd",))
def xrootd(running: Running) -> Iterator[None]:
    root = running.folder / "xroot"
    (root / "data").mkdir(parents=True)
    (running.folder / "xrd").mkdir()
    for name in FILES:
        os.link(running.data.path(name), root / "data" / name)
    file = running.folder / "xrootd.cfg"
    file.write_text(CONFIGURATION.format(folder=running.folder, port=running.port))
    command = ["xrootd", "-c", str(file)]
    if os.getuid() == 0:  # which it refuses to run as
        user = pwd.getpwnam("nobody")
        for path in (running.folder, running.folder / "xrd"):
            shutil.chown(path, user.pw_uid)
        command += ["-R", user.pw_name]
    with running.program(command):
        yield


class XrdcpReader(CopyReader):
    def __init__(self, host: str, port: int, *, streams: int) -> None:
        super().__init__(host, port)
        self._options = ["-S", str(streams)] if streams > 1 else []

    def command(self, name: str) -> list[str]:
        options = ["--nopbar", "--silent", "--force", *self._options]
        return ["xrdcp", *options, self.address("root", f"/data/{name}"), str(self.target / name)]


for streams in (1, 15):
    register(
        Peer(
            "xrootd" if streams == 1 else f"xrootd-{streams}",
            "xrootd",
            "XRootD, xrdcp" + (f" with {streams} streams" if streams > 1 else ""),
            functools.partial(XrdcpReader, streams=streams),
            frozenset({"sequential"}),
            programs=("xrdcp",),
            connections=streams,
        )
    )
