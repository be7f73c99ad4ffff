"""The peers: importing this registers all of them, installed or not."""

from . import aria2, dsm, flight, http, jetstream, mounts, redis, rsync, xrootd, zenoh
from .interface import PEERS, SERVERS, Peer, Reader, Running, Server

__all__ = [
    "PEERS",
    "SERVERS",
    "Peer",
    "Reader",
    "Running",
    "Server",
    "aria2",
    "dsm",
    "flight",
    "http",
    "jetstream",
    "mounts",
    "redis",
    "rsync",
    "xrootd",
    "zenoh",
]
