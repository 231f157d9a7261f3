"""A session over a link, for programs with an asyncio event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from . import protocol
from .errors import ChatLoopError, closed, duplicate
from .link import Link
from .request import Request
from .results import Pong, Progress
from .session import DRAIN_MAX, Reply, Session

FAREWELL_S = 0.2  # how long close waits for the router to hear the CANCELs


class Departure:
    """A message that leaves as soon as there is a link to the router, or fails."""

    def __init__(
        self, message: bytes, on_sent: Callable[[float], None], request: Request | None = None
    ) -> None:
        self.message = message
        self.on_sent = on_sent  # gets the time
        self.request = request  # that it starts
        self.posted_s = time.monotonic()
        self.settled = False
        self.error: ChatLoopError | None = None  # why it could not leave
        self.news = asyncio.Event()  # it is settled

    @property
    def abandoned(self) -> bool:
        return self.request is not None and self.request.abandoned

    def starts(self, request_id: str) -> bool:
        request = self.request
        return request is not None and request.request_id == request_id and not request.abandoned

    def leave(self, now_s: float) -> None:
        self.settled = True
        self.news.set()
        self.on_sent(now_s)

    def fail(self, error: ChatLoopError) -> None:
        self.settled = True
        self.error = error
        self.news.set()
        if self.request is not None:
            self.request.fail(error)


class AsyncConnection:
    """The running requests of one client in one process and one event loop.

    The loop serves the socket: its descriptor wakes `_look`, and so does a timer when a PING is
    due or patience ends. Callers wait for an asyncio.Event that the news of their request sets.
    """

    def __init__(
        self, endpoints: Sequence[str], connect_timeout_s: float, silence_timeout_s: float
    ) -> None:
        self._link = Link(endpoints)
        self._connect_timeout_s = connect_timeout_s
        self._session = Session(
            ", ".join(endpoints), silence_timeout_s, self._try_send, self._link.go_elsewhere
        )
        self._departures: deque[Departure] = deque()  # in the order of their deadlines
        self._loop = asyncio.get_running_loop()
        self._fd = self._link.fileno()
        self._loop.add_reader(self._fd, self._look)
        self._timer: asyncio.TimerHandle | None = None
        self._look_again = False  # is scheduled

    @property
    def usable(self) -> bool:
        """False in a fork, and when the event loop was closed."""
        return not self._link.inherited and not self._loop.is_closed()

    @property
    def strays(self) -> int:
        return self._session.strays

    def check_here(self) -> None:
        """Raises RuntimeError when another event loop than the connection's runs here."""
        if self.usable and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the client is used in another event loop")

    def start(self, request: Request, progress: Progress | None = None) -> Departure:
        """Submits `request`, or continues `progress` with it, as soon as there is a link."""
        message = request.first_message() if progress is None else request.restore(progress)
        if self.running(request.request_id):
            raise duplicate(request.request_id)
        return self._post(
            Departure(message, lambda now_s: self._session.started(request, now_s), request)
        )

    async def send_cancel(self, request_id: str) -> None:
        await self._depart(Departure(protocol.cancel(request_id), self._session.spoke))

    async def cancel_unknown(self, request: Request, timeout_s: float) -> bool:
        """CANCELs a request that is not of this connection; `request` ends with the answer.

        False: no answer within `timeout_s`.
        """
        news = asyncio.Event()
        request.on_news = news.set
        message = protocol.cancel(request.request_id)
        try:
            await self._depart(
                Departure(message, lambda now_s: self._session.cancel_sent(request, now_s))
            )
            return await self.wait(lambda: request.ended, news, timeout_s)
        finally:
            if not request.ended:
                self.drop(request)

    def drop(self, request: Request) -> None:
        """Forgets a request and cancels it soon. Safe in a finalizer, in any thread."""
        self._session.drop(request)
        if self.usable:
            with contextlib.suppress(RuntimeError):  # the loop was closed just now
                self._loop.call_soon_threadsafe(self._look)

    def running(self, request_id: str) -> bool:
        """Also when its first message has yet to leave."""
        return self._session.running(request_id) or any(
            departure.starts(request_id) for departure in self._departures
        )

    def serve(self) -> None:
        """Takes what is there and sends the PING that is due, without waiting."""
        self._check_usable()
        self._look()

    async def ping(self, timeout_s: float) -> Pong | None:
        """None: no answer within `timeout_s`."""
        reply = await self._ask(self._session.new_ping(), timeout_s)
        return reply.pong() if reply.ready else None

    async def status(self, timeout_s: float) -> dict[str, Any] | None:
        """None: no answer within `timeout_s`."""
        reply = await self._ask(self._session.new_status(), timeout_s)
        return reply.status() if reply.ready else None

    async def departed(self, departure: Departure) -> None:
        """Waits until it has left. Raises ChatLoopError("unreachable") when it could not."""
        await self.wait(lambda: departure.settled, departure.news, None)
        if departure.error is not None:
            raise departure.error

    async def wait(
        self, ready: Callable[[], bool], news: asyncio.Event, timeout_s: float | None
    ) -> bool:
        """Until `ready()`, which can change when `news` is set. False: not for `timeout_s`."""
        if ready():
            return True
        self._check_usable()
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            news.set()

        timer = None if timeout_s is None else self._loop.call_later(max(timeout_s, 0.0), expire)
        try:
            while not ready() and not expired:
                news.clear()
                await news.wait()
        finally:
            if timer is not None:
                timer.cancel()
        return ready()

    async def close(self) -> None:
        """Cancels what still runs. Takes at most 200 ms, in which the loop goes on."""
        try:
            while self._departures:
                self._departures.popleft().fail(closed())
            if self.usable and self._session.close():
                await self._say_farewell()
        finally:
            if self.usable:
                self._loop.remove_reader(self._fd)
                if self._timer is not None:
                    self._timer.cancel()
            self._link.close()

    def abandon(self) -> None:
        """Closes a connection that is not usable; its streams end with "closed"."""
        self._link.close()

    async def _ask(self, reply: Reply, timeout_s: float) -> Reply:
        try:
            await self._depart(
                Departure(reply.question, lambda now_s: self._session.asked(reply, now_s))
            )
            await self._answered(reply, timeout_s)
        finally:
            self._session.forget(reply)
        return reply

    async def _answered(self, reply: Reply, timeout_s: float) -> None:
        news = asyncio.Event()
        reply.on_news = news.set
        await self.wait(lambda: reply.ready, news, timeout_s)

    async def _say_farewell(self) -> None:
        """Waits for the answer to a PING: by then the router has heard what went before it."""
        reply = self._session.new_ping()
        if self._link.send(reply.question):
            self._session.asked(reply, time.monotonic())
            await self._answered(reply, FAREWELL_S)

    async def _depart(self, departure: Departure) -> None:
        try:
            await self.departed(self._post(departure))
        finally:
            if not departure.settled:  # its task was cancelled: nobody waits for an answer
                with contextlib.suppress(ValueError):
                    self._departures.remove(departure)

    def _post(self, departure: Departure) -> Departure:
        self._check_usable()
        self._departures.append(departure)
        self._look()
        return departure

    def _check_usable(self) -> None:
        self._link.check_usable()
        self.check_here()

    def _try_send(self, message: bytes) -> bool:
        sent = self._link.send(message)
        self._look_soon()  # sending may have taken the edge
        return sent

    def _look_soon(self) -> None:
        if not self._look_again:
            self._look_again = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self.usable:
            with self._link.lock:  # which the end of the program takes, too
                self._look_at_link()

    def _look_at_link(self) -> None:
        """Serves the link until it has nothing to say, as an edge-triggered descriptor asks for.

        After DRAIN_MAX messages the rest of the program has its turn first.
        """
        if self._link.closed:
            return
        self._look_again = False
        self._session.tick(time.monotonic())
        received = False
        for _ in range(DRAIN_MAX):
            events = self._link.events()
            if events & zmq.POLLIN and (body := self._link.receive(0.0)) is not None:
                received = True
                self._session.on_bytes(body, time.monotonic())
            elif events & zmq.POLLOUT and self._departures:
                self._send_first()
            else:
                break
        else:
            self._look_soon()
        now_s = time.monotonic()
        if not received and self._session.on_quiet(now_s):
            self._link.renew()
        self._give_up(now_s)
        self._set_timer(now_s)

    def _send_first(self) -> None:
        departure = self._departures[0]
        if departure.abandoned:
            self._departures.popleft()
        elif self._link.send(departure.message):
            self._departures.popleft()
            departure.leave(time.monotonic())

    def _give_up(self, now_s: float) -> None:
        """Fails what waited too long for a link."""
        while self._departures:
            if now_s < self._departures[0].posted_s + self._connect_timeout_s:
                return
            self._departures.popleft().fail(self._link.no_router(self._connect_timeout_s))
            self._look_soon()  # the new link may be up before its edge is waited for

    def _set_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_s = self._session.next_tick_s
        if self._departures:
            deadline_s = self._departures[0].posted_s + self._connect_timeout_s
            next_s = deadline_s if next_s is None else min(next_s, deadline_s)
        if next_s is not None:
            self._timer = self._loop.call_later(max(next_s - now_s, 0.0), self._look)
