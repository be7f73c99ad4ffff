"""Distributed shared memory over WAN: the parts that a client and a node share."""

import os

__version__ = "0.1.0"

# gRPC, which looks at this when it is imported, writes a line to stderr for each handshake that
# fails: a hundred a second where a client takes a node for one without TLS. Our errors say it too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
