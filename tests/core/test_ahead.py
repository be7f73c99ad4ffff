"""What was fetched ahead, against a model that keeps every unit by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dsm.core.ahead import Ahead

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrived", "read", "deserted", "dropped"]),
        st.integers(0, 20),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(STEPS)
def test_every_unit_is_used_wasted_or_unread(steps: list[tuple[str, int, int]]) -> None:
    ahead = Ahead()
    state: dict[int, str] = {}
    arrived = dropped = used = 0
    for what, start, length in steps:
        getattr(ahead, what)(start, start + length)
        for unit in range(start, start + length):
            if what == "arrived":
                arrived += unit not in state
                state.setdefault(unit, "unread")
            elif unit in state and what == "deserted":
                state[unit] = "deserted"
            elif unit in state:
                del state[unit]
                used += what == "read"
                dropped += what == "dropped"
    assert ahead.arrived_units == arrived == used + dropped + len(state)
    assert ahead.unread_units == len(state)
    assert ahead.wasted_units == dropped + list(state.values()).count("deserted")
