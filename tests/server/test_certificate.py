"""The node's certificate: what is refused before anything starts, and what is renewed."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from dsm_server.node import Node

from dsm.errors import UsageError
from tests.certificates import Authority, tls


def _encrypted(key: Path) -> Path:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    locked = key.with_name("locked.pem")
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return locked


@pytest.mark.parametrize(
    ("which", "wrong", "why"),
    [
        ("cert", "missing", "No such file or directory"),
        ("key", "missing", "No such file or directory"),
        ("cert", "a folder", "Is a directory"),
        ("cert", "garbage", "no PEM certificate in it"),
        ("key", "garbage", "no PEM key without passphrase"),
        ("cert", "the other one", "no PEM certificate in it"),
        ("key", "the other one", "no PEM key without passphrase"),
        ("key", "locked", "no PEM key without passphrase"),
        ("key", "another's", "not the key of the certificate in"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, which: str, wrong: str, why: str) -> None:
    files = dict(zip(("cert", "key"), Authority(tmp_path).issue("127.0.0.1"), strict=True))
    good = dict(files)
    match wrong:
        case "missing":
            files[which] = tmp_path / "nothing.pem"
        case "a folder":
            files[which] = tmp_path
        case "garbage":
            files[which] = tmp_path / "garbage.pem"
            files[which].write_bytes(b"\xff\xfegarbage")
        case "the other one":
            files[which] = good["key" if which == "cert" else "cert"]
        case "locked":
            files[which] = _encrypted(files[which])
        case "another's":
            files[which] = Authority(tmp_path, "another").issue("127.0.0.1")[1]
    expected = rf"tls_{which} \(--tls-{which}\) '{re.escape(str(files[which]))}': {why}.*; name"
    root = tmp_path / "root"
    with pytest.raises(UsageError, match=expected):
        Node("127.0.0.1:0", root, tls_cert=files["cert"], tls_key=files["key"])
    assert not root.exists(), "nothing was started"


def test_one_needs_the_other_and_neither_is_insecure(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("127.0.0.1")
    with pytest.raises(UsageError, match=r"tls_cert .* needs tls_key \(--tls-key\)"):
        Node("127.0.0.1:0", tmp_path, tls_cert=cert)
    with pytest.raises(UsageError, match=r"tls_key .* needs tls_cert \(--tls-cert\)"):
        Node("127.0.0.1:0", tmp_path, tls_key=key)
    with pytest.raises(UsageError, match=r"insecure=True .* means plaintext"):
        Node("127.0.0.1:0", tmp_path, tls_cert=cert, tls_key=key, insecure=True)
    with pytest.raises(UsageError, match="give tls_cert and tls_key"):
        Node("0.0.0.0:0", tmp_path)


def test_the_command_says_so(tmp_path: Path) -> None:
    cert, _ = Authority(tmp_path).issue("127.0.0.1")
    command = [sys.executable, "-m", "dsm_server.daemon", "--root", str(tmp_path / "root")]
    done = subprocess.run(
        [*command, *tls((cert, cert))], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(r"dsm-node: tls_key \(--tls-key\) .*\n", done.stderr)


def _served(node: Node, ca: Path) -> bytes | None:
    """The certificate that it shows to who trusts this CA; `None` where that is not believed."""
    context = ssl.create_default_context(cafile=ca)
    address = ("127.0.0.1", int(node.address.rpartition(":")[2]))
    with socket.create_connection(address, 5) as sock:
        try:
            with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                return secured.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError:
            return None


def test_it_is_renewed_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key = old.issue("127.0.0.1")
    with Node("0.0.0.0:0", tmp_path / "root", tls_cert=cert, tls_key=key) as node:
        first = _served(node, old.ca)
        assert first
        assert _served(node, new.ca) is None
        renewed_cert, renewed_key = new.issue("127.0.0.1")
        renewed_cert.replace(cert)
        assert _served(node, old.ca) == first, "its key is still to come"
        assert _served(node, old.ca) == first
        assert caplog.text.count("not the key of the certificate") == 1
        renewed_key.replace(key)
        assert _served(node, new.ca) not in (None, first)
        cert.unlink()
        assert _served(node, new.ca) not in (None, first)
