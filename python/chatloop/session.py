"""Many requests over one link: dispatch by request id, signs of life, and second attempts.

No socket and no clock: bytes and the time come in, bytes go out by `send`. Both clients drive it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from . import link, protocol
from .errors import UNREACHABLE, ChatLoopError, closed, unreachable
from .request import Request, no_news
from .results import Pong

PING_INTERVAL_S = 0.5  # while a request runs; the router gives a client up after 30 s of silence
DRAIN_MAX = 64  # messages taken at one look at the socket
ATTEMPTS_MAX = 5  # times that a request may be lost before it fails
NEVER_COMPARED = 1 << 64  # of a CANCEL alone: nothing of it is asked for again
CLIENT_LOST = "client_lost"  # a router took us for gone and ended the request

Answer: TypeAlias = protocol.PongMessage | protocol.StatusMessage | protocol.TraceMessage


class Reply:
    """The answer to one PING, STATUS or TRACE, once it is there."""

    def __init__(
        self, question: bytes, nonce: int | None = None, request_id: str | None = None
    ) -> None:
        self.question = question
        self.nonce = nonce  # of a PING
        self.request_id = request_id  # of a TRACE
        self.sent_s = 0.0
        self.on_news: Callable[[], None] = no_news  # when it is ready
        self._arrived_s = 0.0
        self._message: Answer | None = None
        self._error: ChatLoopError | None = None

    @property
    def ready(self) -> bool:
        return self._message is not None or self._error is not None

    def answer(self, message: Answer, now_s: float) -> None:
        self._message = message
        self._arrived_s = now_s
        self.on_news()

    def fail(self, error: ChatLoopError) -> None:
        self._error = error
        self.on_news()

    def pong(self) -> Pong:
        """Of a PING that is ready. Raises its error."""
        if self._error is not None:
            raise self._error
        assert isinstance(self._message, protocol.PongMessage)
        return Pong(self._message.router_incarnation, self._arrived_s - self.sent_s)

    def status(self) -> dict[str, Any]:
        """Of a STATUS that is ready. Raises its error."""
        if self._error is not None:
            raise self._error
        assert isinstance(self._message, protocol.StatusMessage)
        return self._message.info

    def trace(self) -> dict[str, Any] | None:
        """Of a TRACE that is ready. Raises its error."""
        if self._error is not None:
            raise self._error
        assert isinstance(self._message, protocol.TraceMessage)
        return self._message.trace


class Session:
    """The running requests of one client, and what it knows about its router.

    send: takes a message if it can leave at once, and says whether it could. What must not be
    lost is sent by the caller, who then tells by `started` or `asked`. Times are monotonic.
    go_elsewhere: connects to another router, if there is one, and says whether there is.
    """

    def __init__(
        self,
        endpoint: str,
        silence_timeout_s: float,
        send: Callable[[bytes], bool],
        go_elsewhere: Callable[[], bool],
    ) -> None:
        self._endpoint = endpoint
        self._go_elsewhere = go_elsewhere
        self._silence_timeout_s = silence_timeout_s
        self._send = send
        self._requests: dict[str, Request] = {}
        self._dropped: deque[Request] = deque()  # streams that nobody holds: to be cancelled
        self._replies: list[Reply] = []  # asked for, not there yet
        self._router: int | None = None  # incarnation, from the last PONG
        self._nonce = 0  # of the last PING: they count up
        self._first_nonce = 0  # of the PING that asks who the router is
        self._next_ping_s = 0.0
        self._unanswered_s: float | None = None  # when we spoke first since the router did
        self._served_s = 0.0  # when the socket was last looked at
        self.strays = 0  # messages of requests that are not known (any more), ignored

    # ---- what the client wants ----

    def running(self, request_id: str) -> bool:
        return request_id in self._requests

    def started(self, request: Request, now_s: float) -> None:
        """The first message of `request` was sent; no other request of its id runs."""
        if not self._requests:
            self._router = None  # an idle client does not watch the router: learn it anew
        self.spoke(now_s)
        request.sent_nonce = self._nonce
        self._requests[request.request_id] = request
        if self._router is None:
            self._first_nonce = self._ping(now_s)

    def cancel_sent(self, request: Request, now_s: float) -> None:
        """CANCEL was sent for a request that is not of this client: `request` gets the answer."""
        self.spoke(now_s)
        request.sent_nonce = NEVER_COMPARED
        self._requests.setdefault(request.request_id, request)

    def drop(self, request: Request) -> None:
        """Forgets a request: the next tick cancels it. Safe in a finalizer."""
        self._dropped.append(request)

    def new_ping(self) -> Reply:
        self._nonce += 1
        return Reply(protocol.ping(self._nonce), self._nonce)

    def new_status(self) -> Reply:
        return Reply(protocol.status_query())

    def new_trace(self, request_id: str) -> Reply:
        return Reply(protocol.trace_query(request_id), request_id=request_id)

    def asked(self, reply: Reply, now_s: float) -> None:
        """Its question was sent."""
        self.spoke(now_s)
        reply.sent_s = now_s
        self._replies.append(reply)

    def forget(self, reply: Reply) -> None:
        self._replies = [other for other in self._replies if other is not reply]

    def close(self) -> bool:
        """Ends and cancels what runs. True: there are CANCELs on their way."""
        farewell = False
        for request in self._requests.values():
            farewell |= self._send(protocol.cancel(request.request_id))
        self._fail_all(closed())
        return farewell

    # ---- the link ----

    def spoke(self, now_s: float) -> None:
        """Something was sent: silence is measured from here."""
        if self._unanswered_s is None:
            self._unanswered_s = now_s

    def tick(self, now_s: float) -> None:
        """Says what is due. To be called before every look at the socket."""
        while self._dropped:
            self._cancel_dropped(self._dropped.popleft(), now_s)
        if self._unanswered_s is not None and now_s - self._served_s > PING_INTERVAL_S:
            self._unanswered_s = now_s  # it was us who did not listen
        self._served_s = now_s
        if self._requests and now_s >= self._next_ping_s:
            self._ping(now_s)

    @property
    def next_tick_s(self) -> float | None:
        """When `tick` is due at the latest; None: nothing is waited for."""
        if not self._requests and self._unanswered_s is None:
            return None
        next_s = self._served_s + PING_INTERVAL_S / 2  # a longer gap counts as not listening
        if self._requests:
            next_s = min(next_s, self._next_ping_s)
        if self._unanswered_s is not None:
            next_s = min(next_s, self._unanswered_s + self._silence_timeout_s)
        return next_s

    def on_quiet(self, now_s: float) -> bool:
        """A look at the socket found nothing. True: the router was given up."""
        since_s = self._unanswered_s
        if since_s is None:
            return False
        if now_s - since_s < self._silence_timeout_s:
            if now_s - since_s >= link.ELSEWHERE_S and self._go_elsewhere():
                self._next_ping_s = now_s  # whose answer tells that it is another one
            return False
        self._unanswered_s = None
        why = f"the router is silent for {self._silence_timeout_s:g} s"
        self._fail_all(unreachable(self._endpoint, why))
        return True

    def on_bytes(self, body: bytes, now_s: float) -> None:
        self._unanswered_s = None
        try:
            message = protocol.decode(body)
        except ChatLoopError as error:  # whose it is cannot be told
            self._fail_all(error)
            return
        if isinstance(message, protocol.PongMessage):
            self._on_pong(message, now_s)
        elif isinstance(message, protocol.StatusMessage):
            # The view is one and the same for all who ask.
            waiting = [r for r in self._replies if r.nonce is None and r.request_id is None]
            self._answer(waiting, message, now_s)
        elif isinstance(message, protocol.TraceMessage):
            waiting = [r for r in self._replies if r.request_id == message.request_id]
            self._answer(waiting, message, now_s)
        elif message.request_id is None:
            assert isinstance(message, protocol.Failure)  # the only one without an id
            self._on_failure(message)
        else:
            self._on_request_message(message.request_id, message, now_s)

    # ---- helpers ----

    def _try_send(self, message: bytes, now_s: float) -> None:
        self._send(message)  # no link just now: silence is measured, the router notices as well
        self.spoke(now_s)

    def _ping(self, now_s: float) -> int:
        self._next_ping_s = now_s + PING_INTERVAL_S
        self._nonce += 1
        self._try_send(protocol.ping(self._nonce), now_s)
        return self._nonce

    def _cancel_dropped(self, request: Request, now_s: float) -> None:
        request.abandoned = True
        if self._requests.get(request.request_id) is request and not request.ended:
            # It stays until its end comes, so that late pieces meet no request of that name.
            self._try_send(protocol.cancel(request.request_id), now_s)

    def _fail_all(self, error: ChatLoopError) -> None:
        requests, self._requests = self._requests, {}
        replies, self._replies = self._replies, []
        endings: list[Request | Reply] = [*requests.values(), *replies]
        for ending in endings:  # each with an error of its own
            ending.fail(ChatLoopError(error.code, error.message, error.retryable))

    def _on_request_message(
        self, request_id: str, message: protocol.RequestMessage, now_s: float
    ) -> None:
        request = self._requests.get(request_id)
        if request is None:  # late, of a request that was forgotten
            self.strays += 1
            return
        if isinstance(message, protocol.Failure) and message.code == CLIENT_LOST:
            self._try_next(request, now_s)  # our connection broke, or we did not read for long
            return
        if request.withdrawn:
            if isinstance(message, (protocol.Done, protocol.Failure)):
                self._submit_anew(request, now_s)
            return
        request.on_message(message)
        if request.lost and not request.ended:
            self._take_up(request, now_s)
            return
        if request.ended:
            del self._requests[request_id]
            if not isinstance(message, (protocol.Done, protocol.Failure)):
                # We gave it up, the router did not.
                self._try_send(protocol.cancel(request_id), now_s)

    def _on_failure(self, failure: protocol.Failure) -> None:
        """An answer to a message that named no request: a query, else what is not accepted."""
        if self._replies:
            replies, self._replies = self._replies, []
            for reply in replies:
                reply.fail(failure.error())
            return
        for request in list(self._requests.values()):
            if not request.accepted:
                request.fail(failure.error())
                del self._requests[request.request_id]

    def _on_pong(self, pong: protocol.PongMessage, now_s: float) -> None:
        self._answer([reply for reply in self._replies if reply.nonce == pong.nonce], pong, now_s)
        if pong.nonce < self._first_nonce:
            return  # late, from before the oldest running request
        if self._router is None:  # a lost first PING: the router went before we knew its name
            restarted = pong.nonce != self._first_nonce
        else:
            restarted = self._router != pong.router_incarnation
        self._router = pong.router_incarnation
        if restarted:
            self._attempt_again(now_s)
        elif pong.requests is not None:
            self._compare(pong.requests, pong.nonce, now_s)

    def _compare(
        self, running: dict[str, protocol.RunningRequest], nonce: int, now_s: float
    ) -> None:
        """All that the router sent before its PONG has come, or was lost with a connection that was
        made anew before anybody noticed."""
        for request in list(self._requests.values()):
            if request.sent_nonce >= nonce:
                continue  # the PING left before it
            there = running.get(request.request_id)
            if request.withdrawn:
                if there is None:
                    self._submit_anew(request, now_s)
                else:
                    self._withdraw(request, now_s)
            elif there is None:
                self._try_next(request, now_s)
            elif there.tokens > request.committed:
                self._take_up(request, now_s)

    def _take_up(self, request: Request, now_s: float) -> None:
        """Something of it is lost, and the router has it still."""
        if request.accepted:
            self._try_next(request, now_s)
        else:
            self._withdraw(request, now_s)

    def _withdraw(self, request: Request, now_s: float) -> None:
        """Its ACCEPTED is lost, without which it cannot be resumed."""
        request.withdrawn, request.lost = True, False
        request.sent_nonce = self._nonce
        self._try_send(protocol.cancel(request.request_id), now_s)

    def _submit_anew(self, request: Request, now_s: float) -> None:
        request.withdrawn = False
        self._try_next(request, now_s)

    def _attempt_again(self, now_s: float) -> None:
        """Another router answers: it does not know what the one before it was asked."""
        for request in list(self._requests.values()):
            if request.sent_nonce != NEVER_COMPARED:
                self._try_next(request, now_s)

    def _try_next(self, request: Request, now_s: float) -> None:
        """The router does not know the request any more: it hears of it again."""
        if request.abandoned:
            del self._requests[request.request_id]
        elif request.attempt + 1 >= ATTEMPTS_MAX:
            text = f"the request was lost {ATTEMPTS_MAX} times"
            request.fail(ChatLoopError(UNREACHABLE, text, retryable=True))
            del self._requests[request.request_id]
        else:
            request.sent_nonce = self._nonce
            self._try_send(request.next_attempt(), now_s)

    def _answer(
        self,
        replies: list[Reply],
        message: Answer,
        now_s: float,
    ) -> None:
        for reply in replies:
            self.forget(reply)
            reply.answer(message, now_s)
