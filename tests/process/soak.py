"""Thousands of requests of random shapes, some of which their clients end: what comes of each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from answers import Answer, of_generation
from chatloop import AsyncClient, AsyncStream

PROMPT_MAX, ANSWER_MAX = 32, 32
CANCELLED = 0.15  # of the requests
CLIENTS, TASKS = 4, 12  # tasks of each client
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Shape:
    """A request, and after how many pieces its client ends it (None: never), how."""

    parameters: dict[str, Any]
    ends_after: int | None
    leaves: bool  # drops the stream, or cancels and reads on


def shape(number: int, ids: range, seed: int) -> Shape:
    rng = random.Random(f"{seed} soak {number}")
    tokens = rng.randint(1, ANSWER_MAX)
    parameters = {"token_ids": rng.choices(ids, k=rng.randint(1, PROMPT_MAX)),
                  "max_tokens": tokens, "ignore_eos": True, "seed": rng.getrandbits(64),
                  "temperature": rng.choice([0.0, 0.7, 1.1]), "top_k": rng.choice([0, 5]),
                  "logprobs": rng.choice([None, 0, 3]), "n": rng.choice([1] * 9 + [3]),
                  "repetition_penalty": rng.choice([1.0] * 4 + [1.2])}
    ends_after = rng.randrange(tokens) if rng.random() < CANCELLED else None
    return Shape(parameters, ends_after, rng.random() < 0.5)


@dataclass
class Soak:
    """Runs requests 0 to n - 1 in slices, many at a time."""

    front: str
    ids: range
    seed: int
    is_kept: Callable[[int], bool]  # whose answers are wanted
    kept: dict[int, Answer] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)

    def run(self, numbers: Iterable[int]) -> None:
        async def clients() -> None:
            waiting = iter(numbers)
            await asyncio.gather(*(self._client(waiting) for _ in range(CLIENTS)))

        asyncio.run(clients())

    async def _client(self, waiting: Iterator[int]) -> None:
        async with AsyncClient(self.front, timeout_s=TIMEOUT_S) as client:
            await asyncio.gather(*(self._task(client, waiting) for _ in range(TASKS)))

    async def _task(self, client: AsyncClient, waiting: Iterator[int]) -> None:
        for number in waiting:
            wanted = shape(number, self.ids, self.seed)
            async with client.stream(**wanted.parameters) as stream:
                if await self._read(stream, wanted):
                    self._check(number, stream, wanted)
                else:
                    self.ended["left"] += 1

    async def _read(self, stream: AsyncStream, wanted: Shape) -> bool:
        """False: it was left before its end. Any error is raised: nobody asked for one."""
        pieces = 0
        if wanted.ends_after == 0 and wanted.leaves:
            return False
        async for _ in stream:
            pieces += 1
            if pieces == wanted.ends_after:
                if wanted.leaves:
                    return False
                await stream.cancel()
        return True

    def _check(self, number: int, stream: AsyncStream, wanted: Shape) -> None:
        result = stream.result
        self.ended[result.finish_reason] += 1
        if wanted.ends_after is not None and result.finish_reason == "cancelled":
            return
        assert result.finish_reason == "length", (number, result)
        assert len(result.choices) == wanted.parameters["n"], (number, result)
        for choice in result.choices:
            assert len(choice.token_ids) == wanted.parameters["max_tokens"], (number, result)
        assert result.prompt_ids == wanted.parameters["token_ids"], (number, result)
        if wanted.ends_after is None and self.is_kept(number):
            self.kept[number] = of_generation(result)
