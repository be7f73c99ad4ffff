"""The node: exports memory segments under one root directory over gRPC."""

import dsm.wire  # noqa: F401  loads gRPC the way we want it, before anything else does
from dsm_server.node import ROOT, Node

__all__ = ["ROOT", "Node"]
