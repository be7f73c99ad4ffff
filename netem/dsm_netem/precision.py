"""Waking up on time, and knowing how late it was.

An emulated link is only as good as its process is punctual. Event loops round their waits up
to a millisecond, so a `timerfd` wakes them instead; real-time priority keeps other programs
from delaying it where that is allowed; `Lateness` records what remains, so that a run in
which it was large can be thrown away.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import struct

REALTIME_PRIORITY = 20  # above every ordinary program, below a kernel's own threads; round robin,
# since with FIFO one busy link was seen to keep another from its processor for half a second
# A processor that slept long wakes up slowly: 250 us late in a virtual machine, against 40 us
# after a short sleep (median lateness of an idle and of a busy relay). So a long one is cut in two.
LONG_SLEEP_NS = 2_000_000
LEAD_NS = 400_000
_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29
_libc = ctypes.CDLL(None, use_errno=True)
_timerfd_settime = _libc.timerfd_settime
_timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SPEC = struct.Struct("@qqqq")


def become_punctual() -> bool:
    """Makes this process wake up as precisely as it may; returns whether at real-time priority.

    What was allocated so far is kept out of the garbage collector's way.
    """
    gc.collect()
    gc.freeze()
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanoseconds; the default is 50 us
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME_PRIORITY))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(-10)
        return False
    return True


class Alarm:
    """A file descriptor that becomes readable at a moment of `time.monotonic_ns()`."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self.at_ns: int | None = None  # when it is set for
        self._rings = False

    def fileno(self) -> int:
        return self.fd

    def set(self, at_ns: int | None, now_ns: int) -> None:
        """Rings once at that moment, or at once if it has passed; `None` for never.

        If that is long off it rings once too early, too, and must be set again.
        """
        if at_ns == self.at_ns and not self._rings:
            return
        self.at_ns, self._rings = at_ns, False
        if at_ns is not None and at_ns - now_ns > LONG_SLEEP_NS:
            at_ns -= LEAD_NS
        seconds, ns = divmod(max(at_ns, 1), 1_000_000_000) if at_ns is not None else (0, 0)
        spec = _SPEC.pack(0, 0, seconds, ns)
        if _timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def acknowledge(self) -> None:
        """To be called when it was readable; it stays so until the next `set`."""
        self._rings = True

    def close(self) -> None:
        os.close(self.fd)


class Lateness:
    """How late deliveries were, as a histogram of constant size: buckets 10 % apart, in ns."""

    _STEP = math.log(1.1)
    _BUCKETS = 260  # 1.1 ** 260 ns is almost a minute

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self.count = 0
        self._sum_ns = 0
        self.max_ns = 0

    def record(self, late_ns: int) -> None:
        late_ns = max(1, late_ns)
        self._counts[min(int(math.log(late_ns) / self._STEP), self._BUCKETS - 1)] += 1
        self.count += 1
        self._sum_ns += late_ns
        self.max_ns = max(self.max_ns, late_ns)

    def quantile_ns(self, share: float) -> int:
        """The upper edge of the bucket in which that share of all deliveries is reached."""
        rank = share * self.count
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(self.max_ns, round(math.exp((bucket + 1) * self._STEP)))
        return 0

    def summary(self) -> dict[str, float]:
        """Microseconds: mean, p50, p99, max."""
        return {
            "count": self.count,
            "mean_us": round(self._sum_ns / self.count / 1e3, 1) if self.count else 0.0,
            "p50_us": round(self.quantile_ns(0.5) / 1e3, 1),
            "p99_us": round(self.quantile_ns(0.99) / 1e3, 1),
            "max_us": round(self.max_ns / 1e3, 1),
        }


class Pulse:
    """How late this process is whether or not it has something to do.

    What waits to be read while the process is stalled carries no time stamp, so its delay
    would go unnoticed. Hence a beat every `BEAT_NS`; one that was missed counts as late as it is.
    """

    BEAT_NS = 10_000_000

    def __init__(self, now_ns: int) -> None:
        self.lateness = Lateness()
        self.alarm = Alarm()
        self._due_ns = now_ns + self.BEAT_NS
        self.alarm.set(self._due_ns, now_ns)

    def rang(self, now_ns: int) -> None:
        """To be called when the alarm has rung."""
        self.alarm.acknowledge()
        while self._due_ns <= now_ns:
            self.lateness.record(now_ns - self._due_ns)
            self._due_ns += self.BEAT_NS
        self.alarm.set(self._due_ns, now_ns)
