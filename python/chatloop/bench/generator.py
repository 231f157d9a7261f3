"""Sends a load and notes when each piece came. One thread and no event loop: for a token it takes
little more than half of the CPU that AsyncClient takes, on the cores that it measures."""

from __future__ import annotations

import contextlib
import select
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from ..errors import ChatLoopError, no_answer
from ..link import Link
from ..parameters import parameters_map
from ..request import Request
from ..session import Session
from .metrics import Outcome

SILENCE_TIMEOUT_S = 10.0


class Peer:
    """One client of the router: a link, and the requests that run over it."""

    def __init__(self, endpoint: str, connect_timeout_s: float = 5.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._link = Link(endpoint.split(","))
        self._session = Session(
            endpoint, SILENCE_TIMEOUT_S, self._link.send, self._link.go_elsewhere
        )
        self.endpoint = endpoint
        self.running = 0

    def fileno(self) -> int:
        return self._link.fileno()

    @property
    def next_tick_s(self) -> float | None:
        return self._session.next_tick_s

    def start(
        self,
        parameters: dict[str, Any],
        start_s: float | None = None,
        on_end: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Submits a request, whose outcome grows while `serve` is called. `start_s`: when it was
        due, if that is not now."""
        request = Request(uuid.uuid4().hex, parameters_map(parameters))
        message = request.first_message()
        outcome = Outcome(time.monotonic() if start_s is None else start_s)
        request.on_news = lambda: self._note(request, outcome, on_end)
        if not self._link.send(message, self._connect_timeout_s):
            raise self._link.no_router(self._connect_timeout_s)
        self.running += 1
        self._session.started(request, time.monotonic())
        return outcome

    def serve(self) -> bool:
        """Takes what is there. False: there was nothing, and the descriptor tells of more."""
        session, link = self._session, self._link
        session.tick(time.monotonic())
        received = False
        while link.events() & zmq.POLLIN and (body := link.receive(0.0)) is not None:
            received = True
            session.on_bytes(body, time.monotonic())
        if not received and session.on_quiet(time.monotonic()):
            link.renew()
        return received

    def close(self) -> None:
        self._link.close(farewell=self._session.close())

    def _note(
        self, request: Request, outcome: Outcome, on_end: Callable[[Outcome], None] | None
    ) -> None:
        now_s = time.monotonic()
        while request.pieces:
            tokens = len(request.pieces.popleft().token_ids)
            if tokens:
                outcome.piece_s.append(now_s)
                outcome.output_tokens += tokens
        if not request.ended or outcome.end_s:
            return
        outcome.end_s = now_s
        self.running -= 1
        try:
            outcome.prompt_tokens = request.generation().usage.prompt_tokens
        except ChatLoopError as error:
            outcome.error = str(error)
        if on_end is not None:
            on_end(outcome)


@contextlib.contextmanager
def peers(endpoint: str, count: int = 1, connect_timeout_s: float = 5.0) -> Iterator[list[Peer]]:
    made: list[Peer] = []
    try:
        for _ in range(count):
            made.append(Peer(endpoint, connect_timeout_s))
        yield made
    finally:
        for peer in made:
            peer.close()


def nothing_due(_: float) -> None:
    """A load that has begun."""


def serve_all(
    clients: Sequence[Peer],
    start_due: Callable[[float], float | None] = nothing_due,
    timeout_s: float = 600.0,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Serves until nothing runs and nothing is to come, or `until()`, which messages may change.

    start_due: starts what is due at that time, and tells when it wants the next call at the
    latest; None: when a request has ended. timeout_s: the longest wait for any message.
    """
    poll = select.poll()
    for peer in clients:
        poll.register(peer.fileno(), select.POLLIN)
    heard_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        due_s = start_due(now_s)
        if until() or (due_s is None and not any(peer.running for peer in clients)):
            return
        if any([peer.serve() for peer in clients]):
            heard_s = now_s
            continue
        if not any(peer.running for peer in clients):
            heard_s = now_s
        elif now_s - heard_s > timeout_s:
            raise no_answer(clients[0].endpoint, "requests", timeout_s)
        wake_s = [s for s in (due_s, heard_s + timeout_s, *(p.next_tick_s for p in clients))
                  if s is not None]
        poll.poll(max(1000 * (min(wake_s) - time.monotonic()), 0.0))


def closed_loop(
    clients: Sequence[Peer],
    requests: Sequence[dict[str, Any]],
    concurrency: int,
    timeout_s: float = 600.0,
) -> list[Outcome]:
    """So many run at any time, each client's share of them; in the order of the requests."""
    waiting = deque(requests)
    outcomes: list[Outcome] = []

    def start_due(_: float) -> None:
        while waiting and sum(peer.running for peer in clients) < concurrency:
            peer = min(clients, key=lambda peer: peer.running)
            outcomes.append(peer.start(waiting.popleft()))

    serve_all(clients, start_due, timeout_s)
    return outcomes


def open_loop(
    clients: Sequence[Peer],
    requests: Sequence[dict[str, Any]],
    arrivals_s: Sequence[float],
    timeout_s: float = 600.0,
) -> list[Outcome]:
    """Each is sent at its time, however many run; the clients take turns. Its time counts from
    then, also when this program was late."""
    began_s = time.monotonic()
    waiting = deque(zip(requests, arrivals_s, strict=True))
    outcomes: list[Outcome] = []

    def start_due(now_s: float) -> float | None:
        while waiting and began_s + waiting[0][1] <= now_s:
            parameters, due_s = waiting.popleft()
            outcomes.append(clients[len(outcomes) % len(clients)].start(
                parameters, began_s + due_s
            ))
        return began_s + waiting[0][1] if waiting else None

    serve_all(clients, start_due, timeout_s)
    return outcomes
