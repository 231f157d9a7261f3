"""The synchronous client."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .errors import closed, no_answer
from .parameters import Parameters, parameters_map
from .request import Request
from .results import Generation, Pong, Progress
from .stream import Stream

if TYPE_CHECKING:
    if sys.version_info >= (3, 12):
        from typing import Unpack
    else:
        from typing_extensions import Unpack

DEFAULT_ENDPOINT = "tcp://127.0.0.1:7101"


class Client:
    """A client of one router.

        with Client() as client:
            print(client.generate(prompt="The capital of France is").text)

    endpoint: the router's `front`, best with a numeric address; or those of several routers: one
        is used at a time, and when it falls silent for 2 s the next one goes on with the answers.
    timeout_s: the longest wait for the next piece of an answer, or for a pong or status.
    connect_timeout_s: the longest wait for a link to the router, before "unreachable".
    silence_timeout_s: a router that says nothing for so long while it is spoken to is
        "unreachable" too. One that was restarted meanwhile is asked to go on with the answers.

    Nothing is connected before the first use; a fork, and a copy by pickle, get a link of their
    own. The client has no thread: it lives (PINGs, answers of other streams) whenever a call waits
    for something. A program that pauses for more than 30 s amid a stream calls keep_alive() now
    and then. Threads may share a client. Ctrl-C in a call leaves it usable.
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
        self._connections: dict[int, Connection] = {}  # by process id; only one's own is used
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}

    def generate(
        self,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> Generation:
        """The whole answer. Raises ChatLoopError; whatever is not finished is cancelled.

        The error's `progress` holds what there was of the answer, for `resume`.
        """
        with self.stream(request_id=request_id, timeout_s=timeout_s, **parameters) as stream:
            for _ in stream:
                pass
            return stream.result

    def stream(
        self,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **parameters: Unpack[Parameters],
    ) -> Stream:
        """Submits the request at once. Errors in it are raised by the stream's first `next`."""
        request = Request(request_id or uuid.uuid4().hex, parameters_map(parameters))
        return self._start(request, None, timeout_s)

    def resume(self, progress: Progress, *, timeout_s: float | None = None) -> Stream:
        """Continues an answer that this or another router began, of which no stream runs.

        The pieces are those after `progress` (an echoed prompt comes again), the result is whole.
        """
        request = Request(progress.request_id, progress.parameters)
        return self._start(request, progress, timeout_s)

    def cancel(self, request_id: str) -> None:
        """Ends a request; its stream ends with finish_reason "cancelled".

        Raises the router's ChatLoopError when neither it nor this client knows the request.
        """
        connection = self._connected()
        if connection.running(request_id):
            connection.send_cancel(request_id)
            return
        request = Request(request_id, {})
        if not connection.cancel_unknown(request, self._timeout_s):
            raise no_answer(", ".join(self._endpoints), "CANCEL", self._timeout_s)
        if request.error is not None:
            raise request.error

    def ping(self) -> Pong:
        pong = self._connected().ping(self._timeout_s)
        if pong is None:
            raise no_answer(", ".join(self._endpoints), "PING", self._timeout_s)
        return pong

    def status(self) -> dict[str, Any]:
        """The router's view of the cluster: the map of STATUS in docs/protocol.md."""
        status = self._connected().status(self._timeout_s)
        if status is None:
            raise no_answer(", ".join(self._endpoints), "STATUS", self._timeout_s)
        return status

    def trace(self, request_id: str) -> dict[str, Any] | None:
        """What a request spent its time on: the map of TRACE in docs/protocol.md.

        None when the router does not know the request: it keeps the last 256 that ended.
        """
        trace = self._connected().trace(request_id, self._timeout_s)
        if trace is None:
            raise no_answer(", ".join(self._endpoints), "TRACE", self._timeout_s)
        return trace[0]

    def keep_alive(self) -> None:
        """Tells the router that this client lives, without waiting for anything."""
        self._connected().serve()

    @property
    def stray_messages(self) -> int:
        """Messages of requests that this link does not know (any more), which were ignored."""
        connection = self._connections.get(os.getpid())
        return 0 if connection is None else connection.strays

    def close(self) -> None:
        """Cancels what still runs. Takes at most 200 ms; a second call does nothing.

        Calls that wait in other threads end with "closed".
        """
        self._closed = True
        connection = self._connections.pop(os.getpid(), None)
        if connection is not None:
            connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(
        self, request: Request, progress: Progress | None, timeout_s: float | None
    ) -> Stream:
        connection = self._connected()
        connection.start(request, progress)
        return Stream(connection, request, self._timeout_s if timeout_s is None else timeout_s)

    def _connected(self) -> Connection:
        """No lock, which a fork might inherit locked: the first of several threads wins."""
        if self._closed:
            raise closed()
        pid = os.getpid()
        connection = self._connections.get(pid)
        if connection is None:
            made = Connection(self._endpoints, self._connect_timeout_s, self._silence_timeout_s)
            connection = self._connections.setdefault(pid, made)
            if connection is not made:
                made.close()
        if self._closed:  # by another thread just now
            self.close()
            raise closed()
        return connection
