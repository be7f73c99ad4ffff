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

With privileges, hosts of their own and real packets; `backend="auto"` takes what is allowed:

    from dsm_netem import Wan

    with Wan("transatlantic", loss=0.001) as wan:     # a profile by name, with other figures
        a, b = wan.hosts.values()
        with b.running(["server"]):                   # also b.popen(...), b.call(function)
            a.run(["client", b.ipv4])
        wan.change({"rate_bps": 5e6}, one_way=("a", "b")); wan.outage("drop"); wan.outage("none")
        wan.statistics(); wan.verdict().valid         # False: repeat the run

In virtual time, for simulations:

    from dsm_netem import Link, LinkConfig

    link = Link(LinkConfig(rate_bps=1e9, delay_s=0.04, loss=1e-4), random.Random(1))
    link.accept(now_ns, packet, size_bytes); link.wait_ns(now_ns); link.release(now_ns)

A `Link` is one direction. See `link` for its model, `config` for all that it can do, `profiles` for
the paths that have names, and `topology` for more than two hosts.
"""

from .config import Change, ConfigError, GilbertElliott, LinkConfig, Timeline
from .host import Host
from .link import Link
from .namespaces import HostConfig, NotPermitted
from .packets import Counters, Delivery
from .profiles import Profile, profile
from .relay import Relay, RelayError
from .relay_server import RelayServer
from .topology import Path, Topology
from .trace import Trace, TraceError
from .validity import Verdict
from .wan import Wan

__all__ = [
    "Change",
    "ConfigError",
    "Counters",
    "Delivery",
    "GilbertElliott",
    "Host",
    "HostConfig",
    "Link",
    "LinkConfig",
    "NotPermitted",
    "Path",
    "Profile",
    "Relay",
    "RelayError",
    "RelayServer",
    "Timeline",
    "Topology",
    "Trace",
    "TraceError",
    "Verdict",
    "Wan",
    "profile",
]
