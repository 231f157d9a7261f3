"""A session over a link, for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from . import protocol
from .errors import duplicate
from .gate import Gate, Visitors
from .link import Link
from .request import Request
from .results import Pong, Progress
from .session import DRAIN_MAX, Reply, Session

SLICE_S = 0.02  # how long one thread keeps the socket while nothing comes
LEAD_S = 0.2  # how long the thread that serves the socket is trusted without a sign of it
GIVE_WAY_S = 0.001


class Connection:
    """The running requests of one client in one process.

    There is no thread in here: of the callers that wait for an answer one serves the socket for
    all, and the others wait at gates that the news of their requests open. Whoever wants to send
    takes the socket from it after a slice.
    """

    def __init__(
        self, endpoints: Sequence[str], connect_timeout_s: float, silence_timeout_s: float
    ) -> None:
        self._link = Link(endpoints)
        self._connect_timeout_s = connect_timeout_s
        self._session = Session(
            ", ".join(endpoints), silence_timeout_s, self._link.send, self._link.go_elsewhere
        )
        self._visitors = Visitors()  # of the lock, besides the leader
        self._leader: Gate | None = None  # of the caller that serves the socket
        self._led_s = 0.0  # when it was last seen
        self._followers: dict[Gate, None] = {}  # in the order of their coming

    @property
    def inherited(self) -> bool:
        return self._link.inherited

    @property
    def strays(self) -> int:
        return self._session.strays

    def start(self, request: Request, progress: Progress | None = None) -> None:
        """Submits `request`, or continues `progress` with it."""
        message = request.first_message() if progress is None else request.restore(progress)

        def check() -> None:
            self._serve(0.0)
            if self._session.running(request.request_id):
                raise duplicate(request.request_id)

        self._send(message, lambda now_s: self._session.started(request, now_s), check)

    def send_cancel(self, request_id: str) -> None:
        self._send(protocol.cancel(request_id), self._session.spoke)

    def cancel_unknown(self, request: Request, timeout_s: float) -> bool:
        """CANCELs a request that is not of this connection; `request` ends with the answer.

        False: no answer within `timeout_s`.
        """
        gate = Gate()
        request.on_news = gate.wake
        message = protocol.cancel(request.request_id)
        try:
            self._send(message, lambda now_s: self._session.cancel_sent(request, now_s))
            return self.wait(lambda: request.ended, gate, timeout_s)
        finally:
            if not request.ended:
                self.drop(request)

    def drop(self, request: Request) -> None:
        """Forgets a request: whoever serves next cancels it. Never blocks, safe in a finalizer."""
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

    def wait(self, ready: Callable[[], bool], gate: Gate, timeout_s: float) -> bool:
        """Until `ready()`, after which `gate` is woken. False when it is not for `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        try:
            while not ready():
                self._link.check_usable()
                left_s = max(deadline_s - time.monotonic(), 0.0)
                if self._leads(gate):
                    self._give_way()
                    with self._link.lock:
                        if not ready():
                            self._serve(min(left_s, SLICE_S))
                else:
                    gate.wait(min(left_s, LEAD_S))
                if left_s <= 0.0:
                    return ready()
            return True
        finally:
            self._hand_over(gate)

    def serve(self) -> None:
        """Takes what is there and sends the PING that is due, without waiting."""
        self._link.check_usable()
        with self._visitors, self._link.lock:
            self._serve(0.0)

    def close(self) -> None:
        """Cancels what still runs. Takes at most 200 ms."""
        if self.inherited:
            return
        with self._visitors, self._link.lock:
            if not self._link.closed:
                self._link.close(farewell=self._session.close())

    def _ask(self, new_reply: Callable[[], Reply], timeout_s: float) -> Reply:
        gate = Gate()
        self._link.check_usable()
        with self._visitors, self._link.lock:
            reply = new_reply()
        reply.on_news = gate.wake
        self._send(reply.question, lambda now_s: self._session.asked(reply, now_s))
        try:
            self.wait(lambda: reply.ready, gate, timeout_s)
        finally:
            with self._visitors, self._link.lock:
                self._session.forget(reply)
        return reply

    def _send(
        self,
        message: bytes,
        on_sent: Callable[[float], None],
        check: Callable[[], None] | None = None,
    ) -> None:
        """Sends as soon as there is a link, in slices, so that others may close it meanwhile.

        `on_sent` gets the time, `check` may refuse. Raises ChatLoopError("unreachable").
        """
        deadline_s = time.monotonic() + self._connect_timeout_s
        while True:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            self._link.check_usable()  # in a fork the lock may never be given back
            with self._visitors, self._link.lock:
                if check is not None:
                    check()
                if self._link.send(message, min(left_s, SLICE_S)):
                    on_sent(time.monotonic())
                    return
                if left_s <= 0.0:
                    raise self._link.no_router(self._connect_timeout_s)
            self._give_way()

    def _leads(self, gate: Gate) -> bool:
        """Whether this caller serves the socket. Two who think so do no harm: there is the lock."""
        now_s = time.monotonic()
        leader = self._leader
        if leader is not None and leader is not gate and now_s - self._led_s < LEAD_S:
            self._followers[gate] = None
            if self._leader is not None:  # else it handed over to nobody just now
                return False
        self._leader = gate
        self._led_s = now_s
        return True

    def _hand_over(self, gate: Gate) -> None:
        self._followers.pop(gate, None)
        if self._leader is gate:
            self._leader = None
        if self._leader is None:
            for follower in list(self._followers)[:1]:
                follower.wake()

    def _give_way(self) -> None:
        """A lock that is taken again at once would keep all others waiting."""
        end_s = time.monotonic() + SLICE_S
        while self._visitors.others() and time.monotonic() < end_s:
            time.sleep(GIVE_WAY_S)

    def _serve(self, wait_s: float) -> None:
        """Under the lock."""
        self._session.tick(time.monotonic())
        message = self._link.receive(wait_s)
        if message is None:
            if self._session.on_quiet(time.monotonic()):
                self._link.renew()
            return
        self._session.on_bytes(message, time.monotonic())
        for _ in range(DRAIN_MAX):
            message = self._link.receive(0.0)
            if message is None:
                return
            self._session.on_bytes(message, time.monotonic())
