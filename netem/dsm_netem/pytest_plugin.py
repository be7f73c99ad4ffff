"""`wan`, a pytest fixture: hosts with a WAN between them.

    def test_it(wan):
        path = wan("transatlantic", loss=0.01)
        near, far = path.hosts.values()
        ...near.run([...]), far.popen([...])...

Load it with `-p dsm_netem.pytest_plugin`. It skips only where the machine or the user's rights do
not allow namespaces, and says what is missing; whatever else goes wrong is an error, so that
nothing is skipped that could have run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .namespaces import NotPermitted
from .profiles import Profile
from .topology import Path, Topology
from .wan import Wan


@pytest.fixture
def wan() -> Iterator[Callable[..., Wan]]:
    """Starts WANs as `Wan` does, on the tun backend unless said; all are closed after the test."""
    with ExitStack() as stack:

        def start(what: str | Profile | Path | Topology, **options: Any) -> Wan:
            try:
                return stack.enter_context(Wan(what, **{"backend": "tun", **options}))
            except NotPermitted as error:
                pytest.skip(str(error))

        yield start
