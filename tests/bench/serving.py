"""Loads for a server, ours or a peer's, with the same outcomes. A request is the map of our
parameters: token_ids and max_tokens; the end of a sequence is ignored, sampling is greedy."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from chatloop.bench.generator import closed_loop, peers, serve_all
from chatloop.bench.metrics import Outcome

Requests = Sequence[dict[str, Any]]


class Server(Protocol):
    def closed_loop(self, requests: Requests, concurrency: int) -> list[Outcome]:
        """So many at any time, until all are done."""

    def newcomer(self, streams: Requests, started: int, settle_s: float,
                 request: dict[str, Any]) -> tuple[list[Outcome], Outcome]:
        """All streams at once; when so many of them have a token and `settle_s` is over comes a
        request of another client. When that is done, what still runs is cancelled."""


class OurFront:
    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def closed_loop(self, requests: Requests, concurrency: int) -> list[Outcome]:
        with peers(self._endpoint) as clients:
            return checked(closed_loop(clients, requests, concurrency))

    def newcomer(self, streams: Requests, started: int, settle_s: float,
                 request: dict[str, Any]) -> tuple[list[Outcome], Outcome]:
        with peers(self._endpoint, 2) as clients:
            outcomes = [clients[0].start(stream) for stream in streams]
            serve_all(clients, until=lambda: sum(bool(o.piece_s) for o in outcomes) >= started)
            settled_s = time.monotonic() + settle_s
            serve_all(clients, until=lambda: time.monotonic() >= settled_s)
            late = clients[1].start(request)
            serve_all(clients, until=lambda: late.end_s > 0.0)
            checked([*outcomes, late])
            # As they are now: the end of the clients ends what runs.
            return [replace(outcome, piece_s=[*outcome.piece_s]) for outcome in outcomes], late


def checked(outcomes: list[Outcome]) -> list[Outcome]:
    """Raises RuntimeError when one failed."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(outcomes)} requests failed: {errors[0]}")
    return outcomes


def gaps_s(outcomes: Sequence[Outcome], now_s: float) -> list[tuple[float, float]]:
    """The start and end of each wait between two tokens of a sequence. One that is not over counts
    as far as it went: a stall must show."""
    found: list[tuple[float, float]] = []
    for outcome in outcomes:
        times = [*outcome.piece_s]
        if times and not outcome.end_s and times[-1] < now_s:
            times.append(now_s)
        found += itertools.pairwise(times)
    return found


def lengths_ms(gaps: Iterable[tuple[float, float]]) -> list[float]:
    return [1000 * (end_s - start_s) for start_s, end_s in gaps]
