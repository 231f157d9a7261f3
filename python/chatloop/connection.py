"""Many requests over one link: dispatch by request id, signs of life, and second attempts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from . import protocol
from .errors import UNREACHABLE, ChatLoopError
from .link import Link
from .request import Request
from .results import Pong, Progress
from .turn import Turn

PING_INTERVAL_S = 2.0  # while a request runs; the router gives a client up after 30 s of silence
SLICE_S = 0.02  # how long one thread keeps the socket while nothing comes
DRAIN_MAX = 64  # messages taken per turn
ATTEMPTS_MAX = 5  # routers that may lose one request before it fails


class Reply:
    """The answer to one PING or STATUS, once it is there."""

    def __init__(self) -> None:
        self.message: protocol.PongMessage | protocol.StatusMessage | None = None
        self.error: ChatLoopError | None = None
        self.arrived_s = 0.0  # monotonic

    @property
    def ready(self) -> bool:
        return self.message is not None or self.error is not None


class Connection:
    """The running requests of one client in one process.

    There is no thread in here: the socket is served by whoever waits for an answer, for all
    requests. Threads may share a connection; they take turns of SLICE_S.
    """

    def __init__(self, endpoint: str, connect_timeout_s: float, silence_timeout_s: float) -> None:
        self._link = Link(endpoint)
        self._endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._turn = Turn()
        self._requests: dict[str, Request] = {}
        self._dropped: deque[Request] = deque()  # streams that nobody holds: to be cancelled
        self._pings: dict[int, Reply] = {}  # by nonce
        self._statuses: list[Reply] = []
        self._router: int | None = None  # incarnation, from the last PONG
        self._nonce = 0  # of the last PING: they count up
        self._first_nonce = 0  # of the PING that asks who the router is
        self._next_ping_s = 0.0
        self._unanswered_s: float | None = None  # when we spoke first since the router did
        self._served_s = 0.0  # when the socket was last looked at

    @property
    def inherited(self) -> bool:
        return self._link.inherited

    def start(self, request: Request, progress: Progress | None = None) -> None:
        """Submits `request`, or continues `progress` with it."""
        message = request.first_message() if progress is None else request.restore(progress)
        with self._turn:
            self._serve(0.0)
            if request.request_id in self._requests:
                text = f"a request {request.request_id!r} is running on this client"
                raise ChatLoopError("duplicate_id", text)
            if not self._requests:
                self._router = None  # an idle client does not watch the router: learn it anew
            self._send(message, self._connect_timeout_s)
            self._requests[request.request_id] = request
            if self._router is None:
                self._first_nonce = self._ping()

    def send_cancel(self, request_id: str) -> None:
        with self._turn:
            self._send(protocol.cancel(request_id), self._connect_timeout_s)

    def cancel_unknown(self, request: Request) -> None:
        """CANCELs a request that is not of this connection; `request` ends with the answer."""
        with self._turn:
            self._send(protocol.cancel(request.request_id), self._connect_timeout_s)
            self._requests.setdefault(request.request_id, request)

    def drop(self, request: Request) -> None:
        """Forgets a request: the next turn cancels it. Never blocks, safe in a finalizer."""
        self._dropped.append(request)

    def running(self, request_id: str) -> bool:
        return request_id in self._requests

    def ping(self, timeout_s: float) -> Pong | None:
        """None: no answer within `timeout_s`."""
        reply = Reply()
        with self._turn:
            nonce = self._ping(self._connect_timeout_s, reply)
            sent_s = time.monotonic()
        try:
            if not self.wait(lambda: reply.ready, timeout_s):
                return None
        finally:
            self._pings.pop(nonce, None)
        if not isinstance(reply.message, protocol.PongMessage):
            raise reply.error or AssertionError("a reply that is ready has one of the two")
        return Pong(reply.message.router_incarnation, reply.arrived_s - sent_s)

    def status(self, timeout_s: float) -> protocol.StatusMessage | None:
        """None: no answer within `timeout_s`."""
        reply = Reply()
        with self._turn:
            self._send(protocol.status_query(), self._connect_timeout_s)
            self._statuses.append(reply)
        try:
            if not self.wait(lambda: reply.ready, timeout_s):
                return None
        finally:
            with self._turn:
                self._statuses = [other for other in self._statuses if other is not reply]
        if not isinstance(reply.message, protocol.StatusMessage):
            raise reply.error or AssertionError("a reply that is ready has one of the two")
        return reply.message

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
            farewell = False
            for request in self._requests.values():
                if not self.inherited:
                    farewell |= self._try_send(protocol.cancel(request.request_id))
                request.fail(ChatLoopError("closed", "the client was closed"))
            self._requests.clear()
            self._link.close(farewell)

    # ---- under the turn ----

    def _serve(self, wait_s: float) -> None:
        self._cancel_dropped()
        now_s = time.monotonic()
        if self._unanswered_s is not None and now_s - self._served_s > PING_INTERVAL_S:
            self._unanswered_s = now_s  # it was us who did not listen
        self._served_s = now_s
        if self._requests and now_s >= self._next_ping_s:
            self._ping()
        message = self._link.receive(wait_s)
        if message is None:
            self._check_silence()
            return
        for _ in range(DRAIN_MAX):
            self._unanswered_s = None
            self._on_bytes(message)
            message = self._link.receive(0.0)
            if message is None:
                return
        self._on_bytes(message)

    def _cancel_dropped(self) -> None:
        while self._dropped:
            request = self._dropped.popleft()
            request.abandoned = True
            if self._requests.get(request.request_id) is request and not request.ended:
                # It stays until its end comes, so that late pieces meet no request of that name.
                self._try_send(protocol.cancel(request.request_id))

    def _send(self, message: bytes, timeout_s: float) -> None:
        self._link.send(message, timeout_s)
        if self._unanswered_s is None:
            self._unanswered_s = time.monotonic()

    def _try_send(self, message: bytes) -> bool:
        try:
            self._send(message, 0.0)
        except ChatLoopError:  # no link just now: silence is measured, the router notices as well
            if self._unanswered_s is None:
                self._unanswered_s = time.monotonic()
            return False
        return True

    def _ping(self, timeout_s: float | None = None, reply: Reply | None = None) -> int:
        self._nonce += 1
        nonce = self._nonce
        if reply is None:
            self._next_ping_s = time.monotonic() + PING_INTERVAL_S
            self._try_send(protocol.ping(nonce))
        else:
            self._send(protocol.ping(nonce), timeout_s or 0.0)
            self._pings[nonce] = reply
        return nonce

    def _check_silence(self) -> None:
        since_s = self._unanswered_s
        if since_s is None or time.monotonic() - since_s < self._silence_timeout_s:
            return
        self._unanswered_s = None
        text = f"{self._endpoint}: the router is silent for {self._silence_timeout_s:g} s"
        self._fail_all(UNREACHABLE, text, retryable=True)

    def _fail_all(self, code: str, text: str, retryable: bool) -> None:
        for request in self._requests.values():
            request.fail(ChatLoopError(code, text, retryable, request.committed))
        self._requests.clear()
        for reply in (*self._pings.values(), *self._statuses):
            reply.error = ChatLoopError(code, text, retryable)
        self._pings.clear()
        self._statuses.clear()

    def _on_bytes(self, body: bytes) -> None:
        try:
            message = protocol.decode(body)
        except ChatLoopError as error:  # whose it is cannot be told
            self._fail_all(error.code, error.message, error.retryable)
            return
        if isinstance(message, protocol.PongMessage):
            self._on_pong(message)
        elif isinstance(message, protocol.StatusMessage):
            for reply in self._statuses:  # the view is one and the same for all who ask
                self._answer(reply, message)
            self._statuses.clear()
        elif message.request_id is None:
            assert isinstance(message, protocol.Failure)  # the only one without an id
            self._on_failure(message)
        else:
            self._on_request_message(message.request_id, message)

    def _on_request_message(self, request_id: str, message: protocol.RequestMessage) -> None:
        request = self._requests.get(request_id)
        if request is None:
            return  # late, of a request that was forgotten
        request.on_message(message)
        if request.ended:
            del self._requests[request_id]
            if not isinstance(message, (protocol.Done, protocol.Failure)):
                self._try_send(protocol.cancel(request_id))  # we gave it up, the router did not

    def _on_failure(self, failure: protocol.Failure) -> None:
        """An answer to a message that named no request: a query, else what is not accepted."""
        error = (failure.code, failure.message, failure.retryable)
        queries = [*self._statuses, *self._pings.values()]
        for reply in queries:
            reply.error = ChatLoopError(*error)
        if queries:
            return
        for request in list(self._requests.values()):
            if not request.accepted:
                request.fail(ChatLoopError(*error))
                del self._requests[request.request_id]

    def _on_pong(self, pong: protocol.PongMessage) -> None:
        if pong.nonce in self._pings:
            self._answer(self._pings.pop(pong.nonce), pong)
        if pong.nonce < self._first_nonce:
            return  # late, from before the oldest running request
        if self._router is None:  # a lost first PING: the router went before we knew its name
            restarted = pong.nonce != self._first_nonce
        else:
            restarted = self._router != pong.router_incarnation
        self._router = pong.router_incarnation
        if restarted:
            self._attempt_again()

    def _attempt_again(self) -> None:
        """Another router answers: it does not know what the one before it was asked."""
        for request in list(self._requests.values()):
            if request.abandoned:
                del self._requests[request.request_id]
            elif request.attempt + 1 >= ATTEMPTS_MAX:
                text = f"{ATTEMPTS_MAX} routers lost the request"
                request.fail(ChatLoopError(UNREACHABLE, text, True, request.committed))
                del self._requests[request.request_id]
            else:
                self._try_send(request.next_attempt())

    @staticmethod
    def _answer(reply: Reply, message: protocol.PongMessage | protocol.StatusMessage) -> None:
        reply.arrived_s = time.monotonic()
        reply.message = message
