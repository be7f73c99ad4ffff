"""On the node's own host the segment is mapped, if and only if it is that host."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dsm_client import Session

import dsm.locality
from dsm.locality import Proof, is_local, remove_proof, write_proof
from dsm.segment import create_region, create_ring
from tests.client.test_methods import METHODS, Wire
from tests.nodes import NodeProcess

Dial = Callable[..., Session]


@pytest.fixture
def segments(shared_node: NodeProcess, name: str) -> Iterator[tuple[str, str]]:
    with (
        create_ring(shared_node.root, f"{name}/r", capacity_bytes=1 << 20) as ring,
        create_region(shared_node.root, f"{name}/m", size_bytes=1 << 16) as region,
    ):
        ring.append_many([bytes([n]) * 100 for n in range(200)])
        with region.write() as view:
            view[:] = b"m" * (1 << 16)
        del view
        yield f"{name}/r", f"{name}/m"


@pytest.mark.parametrize("method", METHODS)
def test_mapped_reads_move_nothing(
    shared_node: NodeProcess, dial: Dial, segments: tuple[str, str], method: str
) -> None:
    session = dial(shared_node, map_local=True)
    assert session.is_local
    assert "local" in repr(session)
    ring, region = (session.open(name, access=method) for name in segments)
    wire = Wire(session)
    for seq, block in enumerate(ring.blocks()):
        assert bytes(block.payload) == bytes([seq]) * 100
        assert block.intact
    assert bytes(ring[-1].data) == bytes([199]) * 100
    assert region.read() == b"m" * (1 << 16)
    with region.snapshot() as view:
        assert bytes(view[:3]) == b"mmm"
    assert set(wire().values()) == {0}
    for handle in (ring, region):
        assert handle.is_mapped
        assert "mapped" in repr(handle)
        assert "no bytes on the wire" in handle.explain()


def test_a_mapped_reader_cannot_write(
    shared_node: NodeProcess, dial: Dial, segments: tuple[str, str]
) -> None:
    session = dial(shared_node, map_local=True)
    assert session.open(segments[0]).read(0).data.readonly
    assert session.open(segments[1]).read().readonly


def test_not_mapped_when_told_so(
    shared_node: NodeProcess, dial: Dial, segments: tuple[str, str]
) -> None:
    session = dial(shared_node, map_local=False)
    assert not session.is_local
    assert not session.open(segments[0]).is_mapped


def test_not_mapped_after_another_boot(
    shared_node: NodeProcess,
    dial: Dial,
    segments: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container or machine that sees a copy of the files runs under another boot id."""
    monkeypatch.setattr(dsm.locality, "boot_id", lambda: "another")
    session = dial(shared_node, map_local=True)
    assert not session.is_local
    assert session.open(segments[1]).read(0, 2) == b"mm"


def test_only_the_living_directory_is_local(root: Path, tmp_path: Path) -> None:
    proof = write_proof(root)
    assert is_local(proof)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / proof.file).write_text("0" * 32)  # of a node that ran there before
    assert not is_local(Proof(proof.boot_id, str(copy), proof.file, proof.secret))
    for changed in (
        {"boot_id": ""},
        {"boot_id": "another"},
        {"secret": "another"},
        {"file": "../../etc/passwd"},
        {"file": "no-proof"},
        {"root": str(tmp_path)},
    ):
        fields: dict[str, Any] = {
            "boot_id": proof.boot_id,
            "root": proof.root,
            "file": proof.file,
            "secret": proof.secret,
        }
        assert not is_local(Proof(**(fields | changed))), changed
    remove_proof(proof)
    assert not is_local(proof)


def test_a_node_that_claims_any_file_proves_nothing(tmp_path: Path) -> None:
    """A client does not read files that a node names, but proofs."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert not is_local(Proof(dsm.locality.boot_id(), str(tmp_path), "secret", "x"))
