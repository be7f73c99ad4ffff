"""Distributed shared memory over WAN: the parts that a client and a node share."""

import os

__version__ = "0.1.0"

# What gRPC says of itself (when it is imported, it looks here): one line on stderr for each
# handshake that fails, a hundred a second where a client has the wrong idea of a node. Our errors
# have the same words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
