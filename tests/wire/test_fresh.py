"""The committed code is what the `.proto` file says today."""

from __future__ import annotations

from pathlib import Path

from tests.wire.generate import ROOT, generate


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    generate(tmp_path)
    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*.py*")}
    assert made
    for path, text in made.items():
        assert (ROOT / path).read_text() == text, f"{path} is stale: run `make proto`"
