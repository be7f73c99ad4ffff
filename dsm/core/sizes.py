"""How large one request is: what a message costs, against what waits for it.

    request    |▒▒▒▒▒▒▒▒|▒▒▒▒▒▒▒▒|        a large one costs both sides one message
    lanes      1 ▒▒▒▒▒▒▒▒                 ...but whoever reads in order waits for the lane that got
               2 ▒▒▒▒▒▒▒▒                    the first, and a demand read for the one before it
               3 ▒▒▒▒ ▒▒▒▒

So every lane holds a few of the bandwidth-delay product, and none takes less time on the wire than
its message is worth. Before a rate is known it is TCP's initial window that a lane delivers in one
round trip.
"""

from __future__ import annotations

from dsm.model import PathEstimate

REQUESTS_PER_LANE = 3
"""In a bandwidth-delay product. A lane that runs dry idles although others have too much, and with
two that is so every now and then: what is in flight is barely more than the path holds..."""

REQUESTS_PER_LANE_FAST = 2
"""...but where three were larger than `FULL_BYTES` anyway, what a message costs is worth more: as
many cells of the simulated grid are near the oracle, and processors have a third less to do."""

REQUEST_BYTES_MAX = 384 << 10
"""A seek can still cancel what was not sent."""

FULL_BYTES = 128 << 10
"""A message costs both sides about 0.2 ms (on loopback), which at 64 KiB is more than the bytes
themselves: no request needs to be below this for the sake of evenness..."""

MESSAGE_S = 0.001
"""...unless it takes longer than this at the path's rate: five times what it costs."""

FIRST_BYTES = 14_000
"""The initial window (RFC 6928: ten segments), with room for what frames add."""

SHORT_RTT_S = 0.002
"""On a path as short as this, slow start is over before it matters."""


def request_bytes(path: PathEstimate, lanes: int) -> int:
    """Of bulk that is to be spread over `lanes`."""
    if not path.rate_bps:
        return FULL_BYTES if 0 < path.rtt_s <= SHORT_RTT_S else FIRST_BYTES
    share = path.bdp_bytes // lanes
    if share <= REQUESTS_PER_LANE * FULL_BYTES:
        return max(_worth(path), share // REQUESTS_PER_LANE)
    return min(REQUEST_BYTES_MAX, share // REQUESTS_PER_LANE_FAST)


def _worth(path: PathEstimate) -> int:
    return min(FULL_BYTES, max(FIRST_BYTES // 2, int(path.rate_bps / 8 * MESSAGE_S)))
