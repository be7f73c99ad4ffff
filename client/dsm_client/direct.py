"""What nobody keeps: the frames of one read, for `zero_copy` and for what is asked once."""

from __future__ import annotations

import asyncio

from dsm.errors import DsmError
from dsm.wire.status import error_from_frame
from dsm.wire.v1 import wire_pb2 as pb


class DirectRead:
    """Owner of one submitted read, until `ended`."""

    def __init__(self, address: str, segment: str) -> None:
        self.frames: list[tuple[pb.FrameHeader, memoryview]] = []
        self._address = address
        self._segment = segment
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[bool] = self._loop.create_future()

    async def ended(self) -> bool:
        """True when all has come; false when it was interrupted and is to be sent again."""
        complete = await self._done
        if not complete:
            self.frames.clear()
            self._done = self._loop.create_future()
        return complete

    @property
    def is_waiting(self) -> bool:
        return not self._done.done()

    def frame(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        if self._done.done():
            return
        self.frames.append((header, payload))
        if not header.last:
            return
        if header.HasField("status"):
            self._done.set_exception(error_from_frame(header.status, self._segment, self._address))
        else:
            self._done.set_result(True)

    def interrupted(self, id: int) -> None:
        if not self._done.done():
            self._done.set_result(False)

    def failed(self, error: DsmError) -> None:
        if not self._done.done():
            self._done.set_exception(error)
