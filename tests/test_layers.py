"""The layers of the design, kept by reading every import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dsm": ROOT / "dsm",
    "dsm_client": ROOT / "client" / "dsm_client",
    "dsm_server": ROOT / "server" / "dsm_server",
    "dsm_netem": ROOT / "netem" / "dsm_netem",
}
OURS = {*PACKAGES, "tests", "examples"}
STDLIB = sys.stdlib_module_names

IMPURE = {
    "asyncio", "concurrent", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess",
    "sys", "tempfile", "threading", "time", "uuid", "weakref",
}  # fmt: skip
"""Clocks, threads, chance and the outside world."""

MAY_IMPORT = {
    "dsm.errors": {"dsm"},
    "dsm.model": {"dsm"},
    "dsm.core": {"dsm"},
    "dsm.locality": {"dsm"},
    "dsm.wire": {"dsm", "google", "grpc", "crc32c"},
    "dsm.codec": {"dsm", "lz4", "blosc"},
    "dsm.segment": {"dsm", "crc32c", "numpy"},
    "dsm_client": {
        "dsm", "dsm_client", "grpc", "tenacity", "uvloop", "numpy", "typer", "rich", "crc32c",
    },
    "dsm_server": {
        "dsm", "dsm_server", "grpc", "grpc_health", "grpc_reflection", "google", "uvloop", "numpy",
    },
    "dsm_netem": {"dsm_netem", "pyroute2", "numpy", "psutil", "pytest", "typer", "rich", "uvloop"},
}  # fmt: skip
"""Beyond the standard library."""


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            if "v1" in path.parts:
                continue  # generated
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts).removesuffix(".__init__"), path


def imports(module: str, path: Path) -> set[str]:
    """Full names of what a module imports, wherever in it, `TYPE_CHECKING` included."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


ALL = list(modules())


@pytest.mark.parametrize(("module", "path"), ALL, ids=[module for module, _ in ALL])
def test_imports_only_what_its_layer_may(module: str, path: Path) -> None:
    layer = max((name for name in MAY_IMPORT if module.startswith(name)), key=len, default="")
    allowed = MAY_IMPORT.get(layer, set())
    tops = {name.split(".")[0] for name in imports(module, path)}
    assert tops - STDLIB - allowed - {"_typeshed"} == set()


@pytest.mark.parametrize(
    ("module", "path"),
    [(m, p) for m, p in ALL if m.startswith(("dsm.core", "dsm.errors", "dsm.model"))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_core_is_pure(module: str, path: Path) -> None:
    names = imports(module, path)
    assert {name.split(".")[0] for name in names} & IMPURE == set()
    lower = ("dsm.core", "dsm.errors", "dsm.model")
    assert [name for name in names if name.startswith("dsm.") and not name.startswith(lower)] == []
    calls = {n.func.id for n in ast.walk(ast.parse(path.read_text())) if _is_plain_call(n)}
    assert calls & {"open", "print", "input", "exec", "eval"} == set()


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_there_is_something_to_keep() -> None:
    names = [module for module, _ in ALL]
    assert "dsm.core.puller" in names
    assert "dsm_netem.link" in names
    assert len(names) > 50


def test_imports_are_found(tmp_path: Path) -> None:
    """The test of the test: absolute, relative, nested and typing-only imports."""
    path = tmp_path / "m.py"
    path.write_text(
        "import os.path as p\nfrom . import near\nfrom ..up import x\n"
        "def f():\n    from time import sleep\n"
        "if TYPE_CHECKING:\n    import dsm_server\n"
    )
    assert imports("dsm.core.m", path) == {
        "os.path", "dsm.core.near", "dsm.up.x", "time.sleep", "dsm_server",
    }  # fmt: skip
