"""An answer while it is made, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .async_connection import AsyncConnection, Departure
from .request import Request
from .results import Piece
from .stream import Answer


class AsyncStream(Answer, AsyncIterator[Piece]):
    """Iterate it for the pieces; `.result` is the whole answer after the last one.

    Leaving it before its end (`close`, the end of an `async with` block, a cancelled task, no
    reference left) cancels the request. A step raises ChatLoopError when the request fails, or
    when no piece comes for timeout_s. Pieces that nobody takes are kept, at most the answer.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        request: Request,
        departure: Departure,
        timeout_s: float,
    ) -> None:
        super().__init__(request)
        self._connection = connection
        self._departure = departure
        self._timeout_s = timeout_s
        self._closed = False
        self._news = asyncio.Event()
        request.on_news = self._news.set

    async def __anext__(self) -> Piece:
        request = self._request
        if self._closed:
            raise StopAsyncIteration
        try:
            await self._connection.departed(self._departure)
            there = await self._connection.wait(
                lambda: bool(request.pieces) or request.ended, self._news, self._timeout_s
            )
        except asyncio.CancelledError:
            self._leave()
            raise
        if request.pieces:
            return request.pieces.popleft()
        if request.error is not None:
            raise request.error
        if there:
            raise StopAsyncIteration
        self._leave()
        raise request.overdue(self._timeout_s)

    async def cancel(self) -> None:
        """Asks the router to end the answer here: finish_reason is "cancelled"."""
        if not self._request.ended:
            await self._connection.send_cancel(self.request_id)

    async def close(self) -> None:
        """Cancels what still runs and waits for nothing."""
        self._leave()
        await asyncio.sleep(0)  # the loop's turn, in which the CANCEL leaves

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self._leave()

    def _leave(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._request.ended:
                self._connection.drop(self._request)
