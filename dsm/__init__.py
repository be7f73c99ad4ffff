"""Distributed shared memory over WAN: the parts that a client and a node share."""

__version__ = "0.1.0"
