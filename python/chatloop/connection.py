"""A session over a link, for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import protocol
from .errors import duplicate
from .link import Link
from .request import Request
from .results import Pong, Progress
from .session import DRAIN_MAX, Reply, Session
from .turn import Turn

SLICE_S = 0.02  # how long one thread keeps the socket while nothing comes


class Connection:
    """The running requests of one client in one process.

    There is no thread in here: the socket is served by whoever waits for an answer, for all
    requests. Threads may share a connection; they take turns of SLICE_S.
    """

    def __init__(self, endpoint: str, connect_timeout_s: float, silence_timeout_s: float) -> None:
        self._link = Link(endpoint)
        self._connect_timeout_s = connect_timeout_s
        self._turn = Turn()
        self._session = Session(endpoint, silence_timeout_s, self._link.try_send)

    @property
    def inherited(self) -> bool:
        return self._link.inherited

    def start(self, request: Request, progress: Progress | None = None) -> None:
        """Submits `request`, or continues `progress` with it."""
        message = request.first_message() if progress is None else request.restore(progress)
        with self._turn:
            self._serve(0.0)
            if self._session.running(request.request_id):
                raise duplicate(request.request_id)
            self._link.send(message, self._connect_timeout_s)
            self._session.started(request, time.monotonic())

    def send_cancel(self, request_id: str) -> None:
        with self._turn:
            self._link.send(protocol.cancel(request_id), self._connect_timeout_s)
            self._session.spoke(time.monotonic())

    def cancel_unknown(self, request: Request) -> None:
        """CANCELs a request that is not of this connection; `request` ends with the answer."""
        with self._turn:
            self._link.send(protocol.cancel(request.request_id), self._connect_timeout_s)
            self._session.cancel_sent(request, time.monotonic())

    def drop(self, request: Request) -> None:
        """Forgets a request: the next turn cancels it. Never blocks, safe in a finalizer."""
        self._session.drop(request)

    def running(self, request_id: str) -> bool:
        return self._session.running(request_id)

    def ping(self, timeout_s: float) -> Pong | None:
        """None: no answer within `timeout_s`."""
        reply = self._ask(self._session.new_ping, timeout_s)
        return reply.pong() if reply.ready else None

    def status(self, timeout_s: float) -> dict[str, Any] | None:
        """None: no answer within `timeout_s`."""
        reply = self._ask(self._session.new_status, timeout_s)
        return reply.status() if reply.ready else None

    def wait(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Serves the socket until `ready()`. False when it is not for `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            left_s = deadline_s - time.monotonic()
            with self._turn:
                if not ready():
                    self._serve(min(max(left_s, 0.0), SLICE_S))
            if left_s <= 0.0:
                return ready()
        return True

    def serve(self) -> None:
        """Takes what is there and sends the PING that is due, without waiting."""
        with self._turn:
            self._serve(0.0)

    def close(self) -> None:
        """Cancels what still runs. Takes at most 200 ms."""
        with self._turn:
            self._link.close(farewell=self._session.close())

    def _ask(self, new_reply: Callable[[], Reply], timeout_s: float) -> Reply:
        with self._turn:
            reply = new_reply()
            self._link.send(reply.question, self._connect_timeout_s)
            self._session.asked(reply, time.monotonic())
        try:
            self.wait(lambda: reply.ready, timeout_s)
        finally:
            with self._turn:
                self._session.forget(reply)
        return reply

    def _serve(self, wait_s: float) -> None:
        """Under the turn."""
        self._session.tick(time.monotonic())
        message = self._link.receive(wait_s)
        if message is None:
            self._session.on_quiet(time.monotonic())
            return
        self._session.on_bytes(message, time.monotonic())
        for _ in range(DRAIN_MAX):
            message = self._link.receive(0.0)
            if message is None:
                return
            self._session.on_bytes(message, time.monotonic())
