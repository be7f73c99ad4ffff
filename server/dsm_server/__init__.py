"""The node: exports memory segments under one root directory over gRPC."""

from dsm_server.node import ROOT, Node

__all__ = ["ROOT", "Node"]
