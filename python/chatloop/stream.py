"""An answer while it is made."""

from __future__ import annotations

from collections.abc import Iterator

from .connection import Connection
from .errors import ChatLoopError
from .gate import Gate
from .request import Request
from .results import Generation, Piece, Progress


class Answer:
    """What the streams of both clients tell about their request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def result(self) -> Generation:
        """The finished answer. Raises RuntimeError before the end, or the request's error."""
        return self._request.generation()

    @property
    def progress(self) -> Progress | None:
        """What the client's `resume` continues from; None when no router accepted it yet."""
        return self._request.progress


class Stream(Answer, Iterator[Piece]):
    """Iterate it for the pieces; `.result` is the whole answer after the last one.

    Leaving it before its end (`close`, the end of a `with` block, no reference left) cancels the
    request. `next` raises ChatLoopError when the request fails or when no piece comes for
    timeout_s. Several streams of a client may be iterated in any order, from any thread. Pieces
    that nobody takes are kept, at most the answer.
    """

    def __init__(self, connection: Connection, request: Request, timeout_s: float) -> None:
        super().__init__(request)
        self._connection = connection
        self._timeout_s = timeout_s
        self._closed = False
        self._gate = Gate()
        request.on_news = self._gate.wake

    def __next__(self) -> Piece:
        request = self._request
        if self._closed:
            raise StopIteration
        there = self._connection.wait(
            lambda: bool(request.pieces) or request.ended, self._gate, self._timeout_s
        )
        if request.pieces:
            return request.pieces.popleft()
        if request.error is not None:
            raise request.error
        if there:
            raise StopIteration
        self.close()
        raise request.overdue(self._timeout_s)

    def cancel(self) -> None:
        """Asks the router to end the answer here: finish_reason is "cancelled"."""
        if not self._request.ended:
            self._connection.send_cancel(self.request_id)

    def close(self) -> None:
        """Cancels what still runs and waits for nothing. Never raises."""
        if self._closed:
            return
        self._closed = True
        if not self._request.ended and not self._connection.inherited:
            self._connection.drop(self._request)
            try:
                self._connection.serve()
            except ChatLoopError:
                pass  # the client was closed before, which cancelled the request

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Not close(): a finalizer may run in a thread that has the connection's turn.
        if not getattr(self, "_closed", True) and not self._request.ended:
            self._connection.drop(self._request)
