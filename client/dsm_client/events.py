"""Events of one session: one Watch stream, and who wants to hear of which segment.

A stream that is lost is opened again; every subscription says then what it has heard last, so that
what happened meanwhile is one event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpc import aio
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from dsm.model import Event, Position
from dsm.wire.convert import event_from_pb, position_to_pb
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.control import Control
from dsm_client.lane import BACKOFF_S, BACKOFF_S_MAX

log = logging.getLogger(__name__)


class Events:
    """The subscriptions of one session."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, _Subscription] = {}
        self._watch_requests: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        self._control: Control

    def subscribe(
        self, segment: str, epoch: int, position: Position, callback: Callable[[Event], None]
    ) -> Callable[[], None]:
        """Have `callback` called in the loop for each event; returns what ends that."""
        subscription = self._subscriptions.get(segment)
        if subscription is None or subscription.epoch != epoch:
            subscription = _Subscription(epoch, position, [])
            self._subscriptions[segment] = subscription
            self._watch_requests.put_nowait(_watch_request(segment, subscription))
        subscription.callbacks.append(callback)

        def unsubscribe() -> None:
            subscription.callbacks.remove(callback)
            if not subscription.callbacks and self._subscriptions.get(segment) is subscription:
                del self._subscriptions[segment]
                self._watch_requests.put_nowait(pb.WatchRequest(segment=segment))

        return unsubscribe

    async def run(self, control: Control) -> None:
        """Watch for ever, on this channel."""
        self._control = control
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, aio.AioRpcError | ConnectionError)),
            wait=wait_random_exponential(multiplier=BACKOFF_S, max=BACKOFF_S_MAX),
        )
        async for attempt in retrying:
            with attempt:
                await self._watch_once()

    async def _watch_once(self) -> None:
        while not self._subscriptions:
            await self._watch_requests.get()
        call = self._control.stub.Watch()
        while not self._watch_requests.empty():
            self._watch_requests.get_nowait()
        for segment, subscription in list(self._subscriptions.items()):
            await call.write(_watch_request(segment, subscription))
        sender = asyncio.create_task(self._send_watch_requests(call))
        try:
            while (message := await call.read()) is not aio.EOF:
                self._event_arrived(message)
            raise ConnectionError("the node ended the stream")
        finally:
            sender.cancel()

    async def _send_watch_requests(self, call: Any) -> None:
        while True:
            await call.write(await self._watch_requests.get())

    def _event_arrived(self, message: pb.Event) -> None:
        try:
            event = event_from_pb(message)
        except ValueError as error:
            log.warning("a malformed event: %s", error)
            return
        subscription = self._subscriptions.get(event.segment)
        if subscription is None:
            return
        if event.gone:
            del self._subscriptions[event.segment]
        elif event.epoch == subscription.epoch:
            subscription.position = event.position
        for callback in tuple(subscription.callbacks):
            callback(event)


@dataclass(slots=True)
class _Subscription:
    epoch: int
    position: Position
    callbacks: list[Callable[[Event], None]]


def _watch_request(segment: str, subscription: _Subscription) -> pb.WatchRequest:
    return pb.WatchRequest(
        segment=segment,
        subscribe=True,
        epoch=subscription.epoch,
        position=position_to_pb(subscription.position),
    )
