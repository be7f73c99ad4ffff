"""`dsm`: look at segments, measure paths, copy and follow data, from a terminal.

    main ─▶ run ─▶ command_app     words and options (typer)
                     ├─ command_show     ls, stat, explain
                     ├─ command_ping     round trips, rate
                     ├─ command_pull     a segment into a file
                     └─ command_tail     blocks as they come

What was asked for goes to stdout, everything else to stderr; an error is one line there.

    exit code   0 done   1 it failed   2 the command line cannot be right   130 Ctrl-C   143 SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from dsm.errors import DsmError, UsageError

FAILED = 1
USAGE = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """The entry point: `run` on the process's own arguments."""
    signal.signal(signal.SIGTERM, _terminated)
    # A signal may come between the making of a coroutine and its start: no news to who sent it.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Do what these arguments say; returns the exit code."""
    try:
        import rich  # noqa: F401

        from dsm_client.command_app import command
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        complain(
            f"this command needs {missing}, which is not installed: pip install 'dsm-wan[cli]'"
        )
        return FAILED
    try:
        code = command().main(args=list(arguments), prog_name="dsm", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except DsmError as error:
        complain(str(error))
        return USAGE if isinstance(error, UsageError) else FAILED
    except SystemExit as leaving:
        _stop_writing()  # typer leaves like this when a pipe was closed early, and so does SIGTERM
        return leaving.code if isinstance(leaving.code, int) else FAILED
    except BrokenPipeError:
        _stop_writing()
        return FAILED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return FAILED
    except Exception as error:
        return _command_line_is_wrong(error)


def _command_line_is_wrong(error: Exception) -> int:
    """Report what typer found wrong (whose exceptions live elsewhere in each of its releases)."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        raise error
    message = format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
    else:
        complain(f"{message.rstrip('.')}; 'dsm --help' shows what there is")
    return USAGE


def complain(message: str) -> None:
    """One line on stderr, whatever a node put into the message."""
    print("dsm:", printable(message), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` on one line, without control characters: it may come from a node."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _stop_writing() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, without a complaint."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.close(nowhere)


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does: what was begun is cleaned up."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
