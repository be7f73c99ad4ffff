"""What shadows of earlier sessions may take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from dsm_client import cache as client_cache
from dsm_client.cache import STORE_BYTES, ShadowCache
from hypothesis import given
from hypothesis import strategies as st

from dsm.model import Kind, SegmentInfo
from dsm.segment import RegionShadow


def _info(name: str) -> SegmentInfo:
    return SegmentInfo(
        name, Kind.REGION, epoch=1, created_ns=1, size_bytes=1 << 20, page_bytes=4096, buffers=3
    )


def test_old_shadows_make_room_for_new_ones(cache: Path) -> None:
    first = ShadowCache(cache, 1 << 30, "node:1")
    shadows = {name: first.region(_info(name)) for name in ("oldest", "used", "older", "newest")}
    files = {path.name.partition("~")[0]: path for path in cache.glob("*/*.dsm")}
    for age, name in enumerate(("newest", "older", "used", "oldest")):
        os.utime(files[name], (1e9 - age, 1e9 - age))
    each = files["newest"].stat().st_blocks * 512
    for name in ("oldest", "older", "newest"):
        first.close(shadows[name])
    ShadowCache(cache, 2 * each, "node:2").sweep()
    assert {name for name, path in files.items() if path.exists()} == {"used", "newest"}
    first.close(shadows["used"])


def test_what_fits_stays_and_what_is_damaged_goes(cache: Path) -> None:
    shadows = ShadowCache(cache, 1 << 30, "node:1")
    shadows.close(shadows.region(_info("one")))
    damaged = cache / "node:1" / "two~0000000000000001.dsm"
    damaged.write_bytes(b"x" * 4096)
    shadows.sweep()
    assert damaged.exists()
    assert shadows.has("one")
    assert not shadows.has("on")
    ShadowCache(cache, 0, "node:1").sweep()
    assert not list(cache.glob("*/*.dsm"))


def test_another_process_that_makes_the_same_shadow_first(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (ShadowCache(cache, 1 << 30, "node:1") for _ in range(2))
    taken = []

    def create(path: Path, info: SegmentInfo) -> RegionShadow:
        if not taken:
            taken.append(theirs._open(info, RegionShadow, create_region_shadow))
        return create_region_shadow(path, info)

    create_region_shadow = client_cache.create_region_shadow
    monkeypatch.setattr(client_cache, "create_region_shadow", create)
    shadow = ours.region(_info("one"))
    assert sorted(path.name for path in cache.glob("*/*.dsm")) == [
        "one~0000000000000001.dsm",
        "one~0000000000000001~2.dsm",
    ]
    for made in (shadow, *taken):
        made.close()


class Taken:
    """Stands for a shadow."""

    resident_bytes = 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9 << 20), st.floats(0, 1))))
def test_an_overdraft_is_never_missed(stores: list[tuple[int, int, float]]) -> None:
    """Although the shadows are looked at only now and then; `stores`: shadow, bytes, how much of
    what they may take beyond."""
    with tempfile.TemporaryDirectory() as root:
        cache = ShadowCache(Path(root), 20 << 20, "node:1")
        shadows: list[Any] = [Taken() for _ in range(3)]
        cache._shadows.update(shadows)
        for number, size, more in stores:
            shadows[number].resident_bytes += size + int(more * STORE_BYTES)
            over = cache.overdraft(size)
            exact = cache.resident_bytes - cache.budget_bytes
            assert over == exact if exact > 0 else over <= 0
            if over > 0:
                shadows[number].resident_bytes = 0  # dropped
