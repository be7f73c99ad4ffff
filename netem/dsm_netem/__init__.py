"""WAN links for tests and experiments. Imports nothing of what it is used to test.

Without privileges, for any TCP program:

    from dsm_netem import Relay

    with Relay("127.0.0.1", port, rate_bps=500e6, rtt_s=0.080) as relay:   # or `async with`
        ...connect to relay.host, relay.port (relay.address is "host:port")...
        relay.set_rate(50e6); relay.set_rtt(0.2)      # while it runs
        relay.hold("forward"); relay.resume()         # an outage, one way or both
        relay.cut()                                   # resets every connection
        relay.statistics()                            # bytes each way, connections, lateness

`RelayServer` is the same relay inside the caller's event loop. Its `rate_bps` is what the byte
streams get; all connections share it, each way. A connection costs one round trip before its
first byte passes. It has no loss.

In virtual time, for simulations:

    from dsm_netem import Link, LinkConfig

    link = Link(LinkConfig(rate_bps=1e9, delay_s=0.04, loss=1e-4), random.Random(1))
    link.accept(now_ns, packet, size_bytes); link.wait_ns(now_ns); link.release(now_ns)

A `Link` is one direction. See `link` for its model and `config` for all that it can do.
"""

from .config import Change, ConfigError, GilbertElliott, LinkConfig, Timeline
from .link import Link
from .packets import Counters, Delivery
from .relay import Relay, RelayError
from .relay_server import RelayServer
from .trace import Trace, TraceError

__all__ = [
    "Change",
    "ConfigError",
    "Counters",
    "Delivery",
    "GilbertElliott",
    "Link",
    "LinkConfig",
    "Relay",
    "RelayError",
    "RelayServer",
    "Timeline",
    "Trace",
    "TraceError",
]
