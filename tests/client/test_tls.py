"""TLS between client and node: who is believed, who is refused, and that it says why."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dsm_client
import pytest
from dsm_client import Session, aio
from dsm_client.command import run
from dsm_client.session import Options, SessionCore

from dsm.errors import NodeUnavailable, UsageError
from dsm.segment import create_region, create_ring
from tests.certificates import Authority, tls
from tests.conftest import shared_directory
from tests.nodes import NodeProcess
from tests.segment.processes import fork, wait

PAGES = os.urandom(64 * 4096)
AT_ONCE_S = 5.0
"""Much less than `retry_s`, which is 30 s here."""

Dial = Callable[..., Session]


class Secured(NamedTuple):
    node: NodeProcess
    ca: str
    other_ca: str
    """Of nobody."""


def _filled(root: Path) -> None:
    with create_region(root, "region", size_bytes=len(PAGES)) as region, region.write() as view:
        view[:] = PAGES
    with create_ring(root, "ring", capacity_bytes=1 << 20) as ring:
        ring.append_many([b"%d" % n for n in range(100)])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    # 0.0.0.0 reaches this host, but it is no loopback address: as good as a host that is far away.
    files = authority.issue("127.0.0.1", "0.0.0.0")
    with shared_directory() as root, NodeProcess(root, *tls(files)) as node:
        _filled(root)
        yield Secured(node, str(authority.ca), str(Authority(folder, "other").ca))


def _refused(dial: Dial, node: Any, **options: Any) -> str:
    """What it says, at once."""
    started = time.monotonic()
    with pytest.raises(NodeUnavailable) as caught:
        dial(node, retry_s=30.0, **options)
    assert time.monotonic() - started < AT_ONCE_S
    return str(caught.value)


def _far(node: NodeProcess) -> str:
    return f"dsm://0.0.0.0:{node.port}"


# ── reading ──


def test_reading(secured: Secured, cache: Path) -> None:
    options: dict[str, Any] = {"ca": secured.ca, "map_local": False, "cache": str(cache)}
    with dsm_client.connect(secured.node.url, lanes=3, **options) as session:
        assert bytes(session.open("region", access="prefetch").read()) == PAGES
        assert [bytes(b.data) for b in session.open("ring").blocks()][99] == b"99"
        assert session.stats()["reconnects"] == 0
    with dsm_client.open(f"{secured.node.url}/region", **options) as region:
        assert bytes(region.read(0, 5000)) == PAGES[:5000]

    async def awaited() -> bytes:
        async with aio.connect(secured.node.url, **options) as session:
            region = await session.open("region")
            return bytes(await region.read(0, 50_000))

    assert asyncio.run(awaited()) == PAGES[:50_000]


def test_the_file_is_mapped_where_it_is(secured: Secured, dial: Dial) -> None:
    region = dial(secured.node, ca=secured.ca, map_local=True).open("region")
    assert region.is_mapped
    assert bytes(region.read()) == PAGES


def test_a_ca_means_tls_beyond_loopback_too(secured: Secured, dial: Dial) -> None:
    session = dial(_far(secured.node), ca=Path(secured.ca))
    assert bytes(session.open("region").read(0, 4096)) == PAGES[:4096]


@pytest.mark.parametrize("local", [False, True])
def test_handles_keep_it_over_pickles_and_forks(secured: Secured, dial: Dial, local: bool) -> None:
    region = dial(secured.node, ca=secured.ca, map_local=local).open("region")
    with pickle.loads(pickle.dumps(region)) as again:
        assert bytes(again.read()) == PAGES

    def child() -> None:
        assert bytes(region.read()) == PAGES

    for _ in range(2):
        assert wait(fork(child)) == 0
        assert bytes(region.read()) == PAGES


def test_a_session_lives_on_when_the_node_was_renewed(
    root: Path, tmp_path: Path, dial: Dial
) -> None:
    """Restarted with a certificate for another host, and then given the right one."""
    _filled(root)
    authority = Authority(tmp_path)
    with NodeProcess(root, *tls(authority.issue("127.0.0.1"))) as node:
        session = dial(node, ca=authority.ca, retry_s=1.0)
        region = session.open("region", access="copy_once")
        assert bytes(region.read(0, 4096)) == PAGES[:4096]
        node.stop()
        authority.issue("example.org")
        node.start()
        with pytest.raises(NodeUnavailable, match="other host names"):
            region.read(8 * 4096, 4096)
        authority.issue("127.0.0.1", "example.org")
        assert bytes(dial(node, ca=authority.ca).open("region").read(0, 4096)) == PAGES[:4096]
        assert bytes(region.read(9 * 4096, 4096)) == PAGES[9 * 4096 : 10 * 4096]


# ── refusals ──


def test_another_ca_is_refused_at_once(secured: Secured, dial: Dial) -> None:
    said = _refused(dial, secured.node, ca=secured.other_ca)
    assert "does not verify; name the PEM file of the CA" in said
    assert "--ca" in said


def test_sessions_with_other_cas_share_no_connection(secured: Secured, dial: Dial) -> None:
    assert dial(secured.node, ca=secured.ca).ping() > 0
    assert "does not verify" in _refused(dial, secured.node, ca=secured.other_ca)
    assert dial(secured.node, ca=secured.ca).ping() > 0


@pytest.mark.parametrize("options", [{"tls": True}, {}])
def test_without_a_ca_grpcs_own_are_asked(
    secured: Secured, dial: Dial, options: dict[str, Any]
) -> None:
    """On loopback where TLS is asked for, beyond in any case."""
    node = secured.node if options else _far(secured.node)
    assert "does not verify" in _refused(dial, node, **options)


def test_a_certificate_for_another_host_is_refused_at_once(secured: Secured, dial: Dial) -> None:
    said = _refused(dial, f"dsm://localhost:{secured.node.port}", ca=secured.ca)
    assert "for other host names than this one" in said


def test_open_is_refused_at_once(secured: Secured, cache: Path) -> None:
    started = time.monotonic()
    with pytest.raises(NodeUnavailable, match="does not verify"):
        dsm_client.open(f"{secured.node.url}/region", ca=secured.other_ca, cache=str(cache))
    assert time.monotonic() - started < AT_ONCE_S


@pytest.mark.parametrize("options", [{}, {"insecure": True}])
def test_plaintext_to_a_node_with_tls(
    secured: Secured, dial: Dial, options: dict[str, Any]
) -> None:
    node = _far(secured.node) if options else secured.node
    with pytest.raises(NodeUnavailable, match=r"If it has TLS, connect with ca=FILE or tls=True"):
        dial(node, retry_s=0.3, **options)


def test_tls_to_a_node_without(shared_node: NodeProcess, dial: Dial) -> None:
    said = _refused(dial, _far(shared_node))
    assert "does not speak TLS" in said
    assert "insecure=True (--insecure)" in said
    assert "does not speak TLS" in _refused(dial, shared_node, tls=True)


# ── options ──


@pytest.mark.parametrize("url", ["dsm://127.0.0.1:7400", "dsm://example.org:7400"])
@pytest.mark.parametrize("options", [{"ca": "ca.pem"}, {"tls": True}])
def test_insecure_excludes_the_others(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="means plaintext; leave it out, or ca"):
        SessionCore(url, Options(insecure=True, **options))


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\xff\xfe", "key"])
def test_a_file_without_a_ca_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "some.pem"
    if content == "key":
        file = Authority(tmp_path).issue("a")[1]
    elif isinstance(content, bytes):
        file.write_bytes(content)
    why = "No such file or directory" if content is None else "no PEM certificate in it"
    with pytest.raises(UsageError, match=rf"{re.escape(str(file))}': {why}; name the PEM file"):
        SessionCore("dsm://127.0.0.1:7400", Options(ca=str(file)))


# ── the command ──


def test_the_command(
    secured: Secured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = secured.node.address
    for words in (
        ["ls", address],
        ["stat", f"{address}/region"],
        ["ping", address, "-c", "1", "--move", "0"],
        ["tail", f"{address}/ring"],
        ["pull", "--no-map", f"{address}/ring", str(tmp_path / "ring")],
        ["explain", f"{address}/region"],
    ):
        assert run([*words, "--ca", secured.ca]) == 0, words
    monkeypatch.setenv("DSM_CA", secured.ca)
    assert run(["ls", address]) == 0
    assert run(["ls", address, "--ca", secured.other_ca]) == 1
    assert run(["ls", address, "--insecure"]) == 2
    assert "DSM_CA" in capsys.readouterr().err.splitlines()[-1]


def test_a_refusal_is_one_line(secured: Secured) -> None:
    """Whatever gRPC would say beside it."""
    done = _dsm("ls", secured.node.address, "--ca", secured.other_ca)
    assert done.returncode == 1
    assert re.fullmatch(r"dsm: node .* does not verify.*\n", done.stderr)


@pytest.mark.parametrize("words", [["127.0.0.1", "--tls"], ["0.0.0.0"]])
def test_which_cas_grpc_asks_is_up_to_the_environment(secured: Secured, words: list[str]) -> None:
    """As it would verify what a public CA has signed."""
    url = f"{words[0]}:{secured.node.port}"
    done = _dsm("ls", url, *words[1:], GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=secured.ca)
    assert done.returncode == 0, done.stderr
    assert "region" in done.stdout


def _dsm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsm_client.command", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=30, check=False
    )
