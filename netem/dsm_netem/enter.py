"""`python -m dsm_netem.enter NAMESPACE PROGRAM ...`: becomes the program, inside a namespace.

A program of its own, because moving a process between fork and exec is not safe where
there are threads.
"""

from __future__ import annotations

import os
import signal
import sys

NOT_FOUND = 127  # as a shell says it


def main() -> None:
    namespace, *command = sys.argv[1:]
    from .namespaces import enter

    handle = os.open(namespace, os.O_RDONLY)
    enter(handle)
    os.close(handle)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that is inherited
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
