"""`python -m dsm_netem.enter NAMESPACE PROGRAM ...`: becomes the program, inside a namespace.

A program of its own, because moving a process between fork and exec is not safe where
there are threads.
"""

from __future__ import annotations

import os
import signal
import sys

GONE, NOT_FOUND = 126, 127  # as a shell says it: cannot run, no such command


def main() -> None:
    namespace, *command = sys.argv[1:]
    from .namespaces import enter

    try:
        handle = os.open(namespace, os.O_RDONLY)
        enter(handle)
    except OSError as error:
        print(f"the emulated network has ended: {error}", file=sys.stderr)
        sys.exit(GONE)
    os.close(handle)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that is inherited
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
