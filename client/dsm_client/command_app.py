"""The words and options of the `dsm` command; what they do is in the `command_*` modules.

Those are imported when they are needed: `dsm --help` does not wait for gRPC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

import dsm
from dsm.errors import UsageError
from dsm.model import Access, OnLag
from dsm.wire.address import parse_url

LOCAL = "localhost:7400"
QUERY_WAIT_S = 5
STREAM_WAIT_S = 30
"""Longer than a query's: what runs for hours is to live through a node's restart."""


# ── arguments and options that commands share ──

Url = Annotated[
    str, typer.Argument(metavar="URL", help="The node, as dsm://host:port or host:port.")
]
SegmentUrl = Annotated[
    str, typer.Argument(metavar="URL/SEGMENT", help="As dsm://host:port/name or host:port/name.")
]
SegmentName = Annotated[
    str | None,
    typer.Argument(metavar="SEGMENT", help="The segment, where the URL does not name it."),
]
AccessOption = Annotated[
    Access,
    typer.Option("--access", metavar="METHOD", help=f"{', '.join(a.value for a in Access)}."),
]
NoMap = Annotated[
    bool, typer.Option("--no-map", help="Go through the network, even on the node's own host.")
]
Ca = Annotated[
    str,
    typer.Option(
        "--ca", metavar="FILE", envvar="DSM_CA", help="TLS; verify by the CA in this PEM file."
    ),
]
Tls = Annotated[bool, typer.Option("--tls", help="TLS on this host too, with public CAs.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plaintext, beyond this host too.")]
Wait = Annotated[
    float, typer.Option("--wait", metavar="S", min=0, help="Seconds to try a node that is away.")
]
OutputOption = Annotated[
    Literal["text", "json"],
    typer.Option("-o", "--output", metavar="FORM", help="text, or json for programs."),
]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command() -> Any:
    """The command, to be called with arguments."""
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dsm {dsm.__version__}")
        raise typer.Exit


@app.callback()
def all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which release.")
    ] = False,
) -> None:
    """Look at shared memory segments of a node, and read them, from anywhere.

    \b
      dsm ls host:7400                          what segments there are
      dsm stat host:7400/capture/eth0           what one of them is
      dsm ping host:7400                        round-trip time and rate
      dsm tail -f host:7400/capture/eth0        blocks of a ring as they come
      dsm pull host:7400/model/weights w.bin    a segment into a file
      dsm explain host:7400/model/weights       how it is read, and why
    """


@app.command()
def ls(
    url: Annotated[str, typer.Argument(metavar="URL", help="The node, as host:port.")] = LOCAL,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Only names that begin with this.")
    ] = "",
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = QUERY_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """List the segments of a node.

    \b
      dsm ls
      dsm ls host:7400 capture/
      dsm ls host:7400 -o json | jq -r '.[].name'
    """
    from dsm_client.command_reach import Reach
    from dsm_client.command_show import list_segments

    address, named = parse_url(url)
    reach = Reach(address, True, wait, ca, tls, insecure)
    list_segments(reach, named + prefix, json=output == "json")


@app.command()
def stat(
    url: Url,
    segment: SegmentName = None,
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = QUERY_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """Tell what a segment is and where it is.

    \b
      dsm stat host:7400/capture/eth0
      dsm stat host:7400 capture/eth0 -o json
    """
    from dsm_client.command_reach import Reach, split_target
    from dsm_client.command_show import show_segment

    address, name = split_target(url, segment)
    show_segment(Reach(address, True, wait, ca, tls, insecure), name, json=output == "json")


@app.command()
def ping(
    url: Url,
    segment: SegmentName = None,
    count: Annotated[int, typer.Option("-c", metavar="N", min=1, help="Round trips.")] = 10,
    move: Annotated[
        str,
        typer.Option(metavar="BYTES", help="Move at most so much for the rate: 64M; 0 is nothing."),
    ] = "64M",
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = QUERY_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """Measure the path to a node: round-trip time, and rate.

    The rate is measured by reading a segment for at most 3 seconds: the one that is named, or else
    the one that holds most.

    \b
      dsm ping host:7400
      dsm ping host:7400/model/weights -c 100
      dsm ping host:7400 --move 0
    """
    from dsm_client.command_ping import ping
    from dsm_client.command_reach import Reach

    address, named = parse_url(url)
    reach = Reach(address, False, wait, ca, tls, insecure)
    name, bytes_max = segment or named, _bytes(move)
    ping(reach, name, count=count, bytes_max=bytes_max, json=output == "json")


@app.command()
def pull(
    url: SegmentUrl,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file or directory; '-' is stdout."),
    ] = ".",
    payloads: Annotated[
        bool, typer.Option("--payloads", help="Of a ring: only payloads, one after the other.")
    ] = False,
    last: Annotated[
        int | None,
        typer.Option("-n", metavar="N", min=0, help="Of a ring: only the newest N blocks."),
    ] = None,
    on_lag: Annotated[
        Literal["raise", "skip"],
        typer.Option(metavar="POLICY", help="Blocks overwritten meanwhile: skip (and say), raise."),
    ] = "skip",
    access: AccessOption = Access.AUTO,
    no_map: NoMap = False,
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = STREAM_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """Copy a segment into a file.

    A region is written as its bytes, all of one version. A ring is written as a file of blocks with
    their numbers and times (dsm_client.block_file reads it), or with --payloads as bare bytes.
    The file appears when it is complete; after Ctrl-C the same command goes on where it was.

    \b
      dsm pull host:7400/model/weights weights.f32
      dsm pull host:7400/capture/eth0 -n 1000 last.blocks
      dsm pull host:7400/log/lines - --payloads | less
    """
    from dsm_client.command_pull import Wish, pull
    from dsm_client.command_reach import Reach, split_target

    address, name = split_target(url, None)
    wish = Wish(access.value, payloads, last, on_lag)
    reach = Reach(address, not no_map, wait, ca, tls, insecure)
    pull(reach, name, file, wish, json=output == "json")


@app.command()
def tail(
    url: SegmentUrl,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    last: Annotated[
        int, typer.Option("-n", metavar="N", min=0, help="Begin with the newest N blocks.")
    ] = 10,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write payloads as they are, and nothing else.")
    ] = False,
    on_lag: Annotated[
        OnLag,
        typer.Option(metavar="POLICY", help="When too slow: skip (and say), raise, block."),
    ] = "skip",
    access: AccessOption = Access.AUTO,
    no_map: NoMap = False,
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = STREAM_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """Show the newest blocks of a ring: number, time, length, header.

    Only headers cross the network, unless --raw asks for payloads. With -o json, one object a line.

    \b
      dsm tail -f host:7400/capture/eth0
      dsm tail -n 1000 host:7400/capture/eth0 -o json | jq .bytes
      dsm tail -f --raw host:7400/log/lines
    """
    from dsm_client.command_reach import Reach, split_target
    from dsm_client.command_tail import Form, tail

    address, name = split_target(url, None)
    form = Form(json=output == "json", raw=raw)
    reach = Reach(address, not no_map, wait, ca, tls, insecure)
    tail(reach, name, access.value, form, last=last, follow=follow, on_lag=on_lag)


@app.command()
def explain(
    url: SegmentUrl,
    segment: SegmentName = None,
    access: AccessOption = Access.AUTO,
    no_map: NoMap = False,
    ca: Ca = "",
    tls: Tls = False,
    insecure: Insecure = False,
    wait: Wait = QUERY_WAIT_S,
    output: OutputOption = "text",
) -> None:
    """Tell how a segment is read, and why, after reading a little of it.

    \b
      dsm explain host:7400/capture/eth0
      dsm explain --no-map --access hybrid localhost:7400/capture/eth0
    """
    from dsm_client.command_reach import Reach, split_target
    from dsm_client.command_show import explain

    address, name = split_target(url, segment)
    reach = Reach(address, not no_map, wait, ca, tls, insecure)
    explain(reach, name, access.value, json=output == "json")


def _bytes(text: str) -> int:
    """`64M` as a number of bytes; powers of 1024."""
    number, unit = text[:-1], text[-1:].upper()
    shift = {"K": 10, "M": 20, "G": 30}.get(unit)
    try:
        count = int(text) if shift is None else int(number) << shift
    except ValueError:
        count = -1
    if count < 0:
        raise UsageError(f"{text!r} is not a number of bytes such as 1048576, 512K, 64M or 1G")
    return count
