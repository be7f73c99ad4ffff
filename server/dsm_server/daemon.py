"""`dsm-node`: a node as a process. SIGTERM and Ctrl-C end it cleanly; the segments stay."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

import dsm
from dsm.errors import DsmError
from dsm_server.node import ROOT, Node


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dsm-node", description="Export the memory segments under one directory."
    )
    parser.add_argument("--listen", default="127.0.0.1:7400", help="host:port (%(default)s)")
    parser.add_argument("--root", default=ROOT, help="directory of the segments (%(default)s)")
    parser.add_argument(
        "--insecure", action="store_true", help="allow plaintext beyond this host's loopback"
    )
    parser.add_argument("--tls-cert", metavar="FILE", default="", help="certificate (PEM): TLS")
    parser.add_argument("--tls-key", metavar="FILE", default="", help="its key (PEM)")
    parser.add_argument("--version", action="version", version=f"dsm-node {dsm.__version__}")
    return parser.parse_args()


def main() -> int:
    """Run until a signal comes; prints one line when it listens."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    arguments = _arguments()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before there are threads to inherit it
    try:
        node = Node(
            arguments.listen,
            arguments.root,
            insecure=arguments.insecure,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
        )
    except (DsmError, OSError) as error:
        print(f"dsm-node: {error}", file=sys.stderr)
        return 2
    with node:
        print(f"dsm-node: exporting {node.root} at {node.address}", flush=True)
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
