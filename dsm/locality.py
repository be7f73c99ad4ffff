"""Are a client and a node on one host, so that the client may map the node's files?

The node writes a random secret into a file under its root and tells it to clients. One that runs
under the same kernel boot and finds the secret there sees the same files live: a copy of the
directory on another machine has another boot id, a stale copy another secret.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_PREFIX = ".node-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Proof:
    """What a node tells its clients."""

    boot_id: str
    root: str
    file: str
    secret: str


def boot_id() -> str:
    """Identity of this run of the kernel; empty where there is none to be had."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def write_proof(root: Path) -> Proof:
    """Write a proof under `root`; `remove_proof` when the node ends."""
    _sweep(root)
    secret = secrets.token_hex(16)
    path = root / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    path.write_text(secret)
    return Proof(boot_id(), str(root.resolve()), path.name, secret)


def remove_proof(proof: Proof) -> None:
    Path(proof.root, proof.file).unlink(missing_ok=True)


def is_local(proof: Proof) -> bool:
    """True if the files of the node that gave this proof can be mapped here."""
    if not proof.boot_id or proof.boot_id != boot_id() or not proof.file.startswith(_PREFIX):
        return False
    try:
        with Path(proof.root, Path(proof.file).name).open() as file:
            return secrets.compare_digest(file.read(len(proof.secret) + 1), proof.secret)
    except OSError:
        return False


def _sweep(root: Path) -> None:
    """Remove what killed nodes left: proofs whose process is gone."""
    for path in root.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            path.unlink(missing_ok=True)
