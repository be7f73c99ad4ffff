"""The model goes over the wire and comes back; what a correct peer would not send is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.core.extents import ExtentSet
from dsm.core.reads import Part, ReadBlocks, ReadBytes, ReadPages, Request, Urgency
from dsm.errors import InvalidName
from dsm.model import Event, Extent, Kind, Position, SegmentInfo
from dsm.wire import convert
from dsm.wire.v1 import wire_pb2 as pb

u32, u63 = st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)
names = st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_.-]{0,3}[a-z0-9]){0,2}", fullmatch=True).filter(
    lambda name: "/." not in name and "/-" not in name
)
extents = st.builds(lambda a, n: Extent(a, a + n), u63, u63)
runs = st.lists(extents, max_size=4).map(tuple)
positions = st.builds(lambda tail, n, version: Position(tail + n, tail, version), u63, u63, u63)
infos = st.builds(
    SegmentInfo,
    names,
    st.sampled_from(Kind),
    u63,
    u63,
    u32,
    u63,
    u63,
    u63,
    u32,
    u32,
    u32,
    st.sampled_from(["", "<f4", "u1"]),
    st.lists(u63, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
reads = st.one_of(
    st.builds(
        ReadBlocks,
        runs.map(lambda them: tuple(ExtentSet(them))).filter(bool),
        st.sampled_from(Part),
        u32,
        st.booleans(),
    ),
    st.builds(ReadPages, u63, u63, runs, runs, st.booleans()),
    st.builds(ReadBytes, u63, u63),
)
requests = st.builds(
    Request,
    st.integers(1, 2**63),
    names,
    u63,
    reads,
    st.sampled_from([Urgency.AWAITED, Urgency.SPECULATIVE]),
)


@given(requests)
def test_requests(request: Request) -> None:
    message = convert.request_to_pb(request)
    assert (
        convert.request_from_pb(pb.PullRequest.FromString(message.SerializeToString())) == request
    )


def test_only_what_is_awaited_has_the_nodes_first_attention() -> None:
    def priority(urgency: Urgency) -> int:
        return convert.request_to_pb(Request(1, "a", 1, ReadBytes(0, 1), urgency)).priority

    assert [priority(u) for u in Urgency] == [pb.DEMAND, pb.SPECULATIVE, pb.SPECULATIVE]


@given(infos, positions)
def test_segments(info: SegmentInfo, position: Position) -> None:
    message = convert.segment_to_pb(info, position, 5)
    message = pb.Segment.FromString(message.SerializeToString())
    assert convert.segment_from_pb(message) == info
    assert convert.position_from_pb(message.position) == position


@given(names, st.sampled_from(Kind), u63, u63, positions, runs, u63, st.booleans())
def test_events(
    name: str,
    kind: Kind,
    epoch: int,
    since: int,
    position: Position,
    changed: tuple[Extent, ...],
    published_ns: int,
    gone: bool,
) -> None:
    event = Event(name, epoch, kind, since, position, changed, published_ns, gone)
    message = pb.Event.FromString(convert.event_to_pb(event).SerializeToString())
    assert convert.event_from_pb(message) == event


def _request(**fields: object) -> pb.PullRequest:
    whole: dict[str, object] = {"id": 1, "segment": "a", "bytes": pb.Bytes(length=1)}
    return pb.PullRequest(**(whole | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        _request(id=0),
        pb.PullRequest(id=1, segment="a"),
        _request(blocks=pb.Blocks()),
        _request(blocks=pb.Blocks(runs=[pb.Run(first=5, count=0)])),
        _request(blocks=pb.Blocks(runs=[pb.Run(first=5, count=3), pb.Run(first=7, count=1)])),
        _request(blocks=pb.Blocks(runs=[pb.Run(count=5)], part=7)),  # type: ignore[arg-type]
        _request(blocks=pb.Blocks(runs=[pb.Run(first=n, count=1) for n in range(4097)])),
        _request(pages=pb.Pages(need=[pb.Run(first=1, count=1)] * (convert.RUNS_MAX + 1))),
        _request(cancel=pb.Cancel()),
    ],
)
def test_requests_that_break_the_rules(message: pb.PullRequest) -> None:
    with pytest.raises(ValueError):
        convert.request_from_pb(message)


@pytest.mark.parametrize("name", ["", "../etc/passwd", "/abs", "a//b", "a b", "x" * 200, "a/.b"])
def test_names_are_checked_at_the_wire(name: str) -> None:
    with pytest.raises(InvalidName):
        convert.request_from_pb(_request(segment=name))
    with pytest.raises(InvalidName):
        convert.segment_from_pb(pb.Segment(name=name, kind=pb.RING))


def test_values_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="beyond the head"):
        convert.position_from_pb(pb.Position(head=1, tail=2))
    with pytest.raises(ValueError, match="kind"):
        convert.segment_from_pb(pb.Segment(name="a"))
    with pytest.raises(ValueError, match="kind"):
        convert.event_from_pb(pb.Event(segment="a"))
