"""What the README shows, runs: its Python blocks in order, in one namespace, against a real node.

A block whose first line is `# not run` is shown only. `dsm://host:7400` and `127.0.0.1:7400` stand
for the node of the test, `/dev/shm/dsm` for its directory.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from dsm_client import connect
from dsm_server import Node

README = Path(__file__).resolve().parents[1] / "README.md"
SKIPPED = "# not run"

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str]]:
    """Line number and source of each block that is to run."""
    return [
        (text[: match.start(1)].count("\n") + 1, match[1])
        for match in _BLOCK.finditer(text)
        if not match[1].startswith(SKIPPED)
    ]


def _here(source: str, address: str, root: Path) -> str:
    source = re.sub(r"dsm://[\w.]+(:7400)?", f"dsm://{address}", source)
    return source.replace("127.0.0.1:7400", address).replace("/dev/shm/dsm", str(root))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_readme_runs(
    root: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dsm_client.session.default_root", lambda: cache)
    namespace: dict[str, object] = {"__name__": "__readme__"}
    address = f"127.0.0.1:{_free_port()}"
    for line, source in blocks(README.read_text()):
        code = compile("\n" * (line - 1) + _here(source, address, root), str(README), "exec")
        exec(code, namespace)
    for value in reversed(list(namespace.values())):
        if type(value).__name__ in ("Session", "Node"):
            value.close()  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_certificate_is_one(root: Path, cache: Path, tmp_path: Path) -> None:
    """Made as shown, but for this host."""
    shown = re.findall(r"^openssl (?:.*\\\n)*.*\n", README.read_text(), re.MULTILINE)
    script = "".join(shown).replace("10.0.0.7", "127.0.0.1")
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True, capture_output=True)
    files = {"tls_cert": tmp_path / "node.pem", "tls_key": tmp_path / "node.key"}
    with Node("127.0.0.1:0", root, **files) as node:
        options = {"ca": tmp_path / "ca.pem", "map_local": False, "cache": str(cache)}
        with connect(f"dsm://{node.address}", **options) as session:
            assert session.list() == []
    assert len(shown) == 2


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\nb\n```python\n# not run\ny\n```\n```sh\nz\n```\n"
    assert blocks(text) == [(3, "x = 1\n")]
