"""What both clients must do is tested with both: `connect` makes one or the other."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest

from chatloop import AsyncClient, AsyncStream, Client, Generation, Piece, Pong, Progress

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
Connect: TypeAlias = Callable[..., Any]  # with the parameters of Client


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    if request.param == "sync":
        yield Client
        return
    loop = asyncio.new_event_loop()
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    yield lambda *arguments, **options: SteppedClient(
        loop.run_until_complete, *arguments, **options
    )
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert unexpected == []


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as a terminal's programs have it; a program in the background inherits it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SteppedStream:
    """Stream's face before an AsyncStream. Its loop runs while a call waits, and only then."""

    def __init__(self, run: Run, stream: AsyncStream) -> None:
        self._run = run
        self._stream = stream

    @property
    def request_id(self) -> str:
        return self._stream.request_id

    @property
    def result(self) -> Generation:
        return self._stream.result

    @property
    def progress(self) -> Progress | None:
        return self._stream.progress

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            piece: Piece = self._run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None
        return piece

    def cancel(self) -> None:
        self._run(self._stream.cancel())

    def close(self) -> None:
        self._run(self._stream.close())

    def __enter__(self) -> SteppedStream:
        self._run(self._stream.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._stream.__aexit__(*error))


class SteppedClient:
    """Client's face before an AsyncClient."""

    def __init__(self, run: Run, *arguments: Any, **options: Any) -> None:
        self._run = run
        self._client = AsyncClient(*arguments, **options)

    def generate(self, **parameters: Any) -> Generation:
        result: Generation = self._run(self._client.generate(**parameters))
        return result

    def stream(self, **parameters: Any) -> SteppedStream:
        async def start() -> AsyncStream:
            return self._client.stream(**parameters)

        return SteppedStream(self._run, self._run(start()))

    def resume(self, progress: Progress) -> SteppedStream:
        async def start() -> AsyncStream:
            return self._client.resume(progress)

        return SteppedStream(self._run, self._run(start()))

    def cancel(self, request_id: str) -> None:
        self._run(self._client.cancel(request_id))

    def ping(self) -> Pong:
        pong: Pong = self._run(self._client.ping())
        return pong

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._run(self._client.status())
        return status

    def trace(self, request_id: str) -> dict[str, Any] | None:
        trace: dict[str, Any] | None = self._run(self._client.trace(request_id))
        return trace

    def keep_alive(self) -> None:
        self._run(self._client.keep_alive())
        self._run(asyncio.sleep(0))

    @property
    def stray_messages(self) -> int:
        return self._client.stray_messages

    def close(self) -> None:
        self._run(self._client.close())

    def __enter__(self) -> SteppedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
