"""The asyncio client."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .async_connection import AsyncConnection
from .async_stream import AsyncStream
from .client import DEFAULT_ENDPOINT
from .errors import closed, no_answer
from .parameters import Parameters, parameters_map
from .request import Request
from .results import Generation, Pong, Progress

if TYPE_CHECKING:
    if sys.version_info >= (3, 12):
        from typing import Unpack
    else:
        from typing_extensions import Unpack


class AsyncClient:
    """A client of one router, for one event loop at a time.

        async with AsyncClient() as client:
            async for piece in client.stream(prompt="The capital of France is"):
                print(piece.text, end="")

    endpoint: the router's `front`, best with a numeric address; or those of several routers: one
        is used at a time, and when it falls silent for 2 s the next one goes on with the answers.
    timeout_s: the longest wait for the next piece of an answer, or for a pong or status.
    connect_timeout_s: the longest wait for a link to the router, before "unreachable".
    silence_timeout_s: a router that says nothing for so long while it is spoken to is
        "unreachable" too. One that was restarted meanwhile is asked to go on with the answers.

    Nothing is connected before the first use; a fork, a copy by pickle, and a loop after the one
    that was closed get a link of their own. The client lives (PINGs, answers of other streams)
    while the loop runs, whatever its tasks wait for: the router gives it up when the loop is
    blocked for 30 s.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str] = DEFAULT_ENDPOINT,
        *,
        timeout_s: float = 600.0,
        connect_timeout_s: float = 5.0,
        silence_timeout_s: float = 10.0,
    ) -> None:
        self._endpoints = (endpoint,) if isinstance(endpoint, str) else tuple(endpoint)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._connection: AsyncConnection | None = None
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    async def generate(
        self,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> Generation:
        """The whole answer. Raises ChatLoopError; whatever is not finished is cancelled.

        The error's `progress` holds what there was of the answer, for `resume`.
        """
        async with self.stream(request_id=request_id, timeout_s=timeout_s, **parameters) as stream:
            async for _ in stream:
                pass
            return stream.result

    def stream(
        self,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> AsyncStream:
        """Submits the request as soon as there is a link, without being awaited.

        Errors in it, and a router that cannot be reached, are raised by the stream's first step.
        """
        request = Request(request_id or uuid.uuid4().hex, parameters_map(parameters))
        return self._start(request, None, timeout_s)

    def resume(self, progress: Progress, *, timeout_s: float | None = None) -> AsyncStream:
        """Continues an answer that this or another router began, of which no stream runs.

        The pieces are those after `progress` (an echoed prompt comes again), the result is whole.
        """
        request = Request(progress.request_id, progress.parameters)
        return self._start(request, progress, timeout_s)

    async def cancel(self, request_id: str) -> None:
        """Ends a request; its stream ends with finish_reason "cancelled".

        Raises the router's ChatLoopError when neither it nor this client knows the request.
        """
        connection = self._connected()
        if connection.running(request_id):
            await connection.send_cancel(request_id)
            return
        request = Request(request_id, {})
        if not await connection.cancel_unknown(request, self._timeout_s):
            raise no_answer(", ".join(self._endpoints), "CANCEL", self._timeout_s)
        if request.error is not None:
            raise request.error

    async def ping(self) -> Pong:
        pong = await self._connected().ping(self._timeout_s)
        if pong is None:
            raise no_answer(", ".join(self._endpoints), "PING", self._timeout_s)
        return pong

    async def status(self) -> dict[str, Any]:
        """The router's view of the cluster: the map of STATUS in docs/protocol.md."""
        status = await self._connected().status(self._timeout_s)
        if status is None:
            raise no_answer(", ".join(self._endpoints), "STATUS", self._timeout_s)
        return status

    async def trace(self, request_id: str) -> dict[str, Any] | None:
        """What a request spent its time on: the map of TRACE in docs/protocol.md.

        None when the router does not know the request: it keeps the last 256 that ended.
        """
        trace = await self._connected().trace(request_id, self._timeout_s)
        if trace is None:
            raise no_answer(", ".join(self._endpoints), "TRACE", self._timeout_s)
        return trace[0]

    async def keep_alive(self) -> None:
        """Tells the router that this client lives: for a task that blocks the loop for long."""
        self._connected().serve()

    @property
    def stray_messages(self) -> int:
        """Messages of requests that this link does not know (any more), which were ignored."""
        return 0 if self._connection is None else self._connection.strays

    async def close(self) -> None:
        """Cancels what still runs. Takes at most 200 ms; a second call does nothing.

        Calls that wait in other tasks end with "closed".
        """
        connection = self._connection
        if connection is not None:
            connection.check_here()
        self._closed, self._connection = True, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _start(
        self, request: Request, progress: Progress | None, timeout_s: float | None
    ) -> AsyncStream:
        connection = self._connected()
        departure = connection.start(request, progress)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return AsyncStream(connection, request, departure, timeout_s)

    def _connected(self) -> AsyncConnection:
        if self._closed:
            raise closed()
        if self._connection is not None and not self._connection.usable:
            self._connection.abandon()
            self._connection = None
        if self._connection is None:
            self._connection = AsyncConnection(
                self._endpoints, self._connect_timeout_s, self._silence_timeout_s
            )
        return self._connection
