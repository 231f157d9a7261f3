"""AsyncClient in a running event loop: many tasks, cancellation, pauses, forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_router import (
    CANCEL,
    PING,
    RESUME,
    SUBMIT,
    WORDS,
    FakeRouter,
    silent_handler,
    word_handler,
)

from chatloop import AsyncClient, AsyncStream, ChatLoopError


async def eventually(condition: Callable[[], Any], timeout_s: float = 5.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)
    return bool(condition())


def test_many_streams_at_once_get_their_own_pieces() -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        router.accept(name, [1])
        for index in range(20):
            router.piece(name, index, [index], f"{name} ", index * (len(name) + 1))
        router.done(name, tokens=20)

    async def read(client: AsyncClient, name: str) -> str:
        return "".join([piece.text async for piece in client.stream(prompt="x", request_id=name)])

    async def main(endpoint: str) -> list[str]:
        async with AsyncClient(endpoint, timeout_s=10) as client:
            return await asyncio.gather(*(read(client, f"r{number}") for number in range(200)))

    with FakeRouter(handler) as router:
        texts = asyncio.run(main(router.endpoint))
    assert texts == [f"r{number} " * 20 for number in range(200)]


def test_queries_and_answers_run_beside_each_other() -> None:
    async def main(endpoint: str) -> None:
        async with AsyncClient(endpoint, timeout_s=10) as client:
            pongs = asyncio.gather(*(client.ping() for _ in range(50)))
            states = asyncio.gather(*(client.status() for _ in range(50)))
            answers = asyncio.gather(*(client.generate(prompt="x") for _ in range(50)))
            assert {pong.router_incarnation for pong in await pongs} == {7}
            assert all(state["ready"] for state in await states)
            assert {answer.text for answer in await answers} == {"".join(WORDS)}

    with FakeRouter(word_handler) as router:
        asyncio.run(main(router.endpoint))


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_cancelled_task_cancels_its_request(way: str) -> None:
    held: list[AsyncStream] = []  # no finalizer may cancel it

    async def ask(client: AsyncClient) -> None:
        if way == "generate":
            await client.generate(prompt="x", request_id="r")
        else:
            held.append(client.stream(prompt="x", request_id="r"))
            async for _ in held[0]:
                pass

    async def main(router: FakeRouter) -> None:
        async with AsyncClient(router.endpoint) as client:
            task = asyncio.create_task(ask(client))
            assert await eventually(lambda: router.heard_of(SUBMIT))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await eventually(lambda: [CANCEL, "r"] in router.heard)
            assert (await client.ping()).router_incarnation == 7

    with FakeRouter(silent_handler) as router:
        asyncio.run(main(router))


def test_a_task_cancelled_before_there_is_a_link_sends_nothing() -> None:
    async def main(router: FakeRouter) -> None:
        async with AsyncClient(router.endpoint) as client:
            stream = client.stream(prompt="x", request_id="r")
            await stream.close()
            async with client.stream(prompt="y", request_id="r") as again:
                assert "".join([piece.text async for piece in again]) == "".join(WORDS)
        assert [message[2]["prompt"] for message in router.heard_of(SUBMIT)] == ["y"]

    with FakeRouter(word_handler) as router:
        asyncio.run(main(router))


def test_a_paused_consumer_stays_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)

    async def main(router: FakeRouter) -> None:
        async with AsyncClient(router.endpoint) as client:
            stream = client.stream(prompt="x")
            assert (await anext(stream)).text == WORDS[0]
            assert await eventually(lambda: len(router.heard_of(PING)) >= 5)
            router.done(stream.request_id, tokens=1)
            assert [piece async for piece in stream] == []
            await asyncio.sleep(0.2)
            pings = len(router.heard_of(PING))
            await asyncio.sleep(0.2)
            assert len(router.heard_of(PING)) == pings  # an idle client is silent

    def first_word(router: FakeRouter, message: list[Any]) -> None:
        router.accept(message[1], [1])
        router.piece(message[1], 0, [1], WORDS[0], 0)

    with FakeRouter(first_word) as router:
        asyncio.run(main(router))


def test_streams_wait_for_a_router_that_comes_and_survive_one_that_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)

    def second(router: FakeRouter, message: list[Any]) -> None:
        if message[0] in (SUBMIT, RESUME):
            word_handler(router, message)

    async def main() -> None:
        with FakeRouter(silent_handler, incarnation=1) as router:
            port = router.port
            client = AsyncClient(router.endpoint, timeout_s=8)
            streams = [client.stream(prompt="x", request_id=f"r{n}") for n in range(20)]
            assert await eventually(lambda: len(router.heard_of(SUBMIT)) == 20)
            await client.ping()
        async with client:
            with FakeRouter(second, incarnation=2, port=port) as router:
                for stream in streams:
                    assert [piece.text async for piece in stream] == WORDS
                assert len(router.heard_of(RESUME)) == 20

    asyncio.run(main())


def test_a_query_cancelled_before_there_is_a_link_leaves_no_trace() -> None:
    async def main() -> None:
        with FakeRouter(word_handler) as router:
            port = router.port
        async with AsyncClient(f"tcp://127.0.0.1:{port}", connect_timeout_s=8) as client:
            for call in (client.ping(), client.status(), client.cancel("r")):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(call, 0.02)
            with FakeRouter(word_handler, port=port) as router:
                assert (await client.generate(prompt="x")).text == "".join(WORDS)
                assert router.heard[0][0] == SUBMIT  # the cancelled PING would be before it
                assert {message[0] for message in router.heard} <= {SUBMIT, PING}

    asyncio.run(main())


def test_a_missing_router_fails_all_who_wait_while_the_loop_goes_on() -> None:
    async def main() -> None:
        async with AsyncClient("tcp://127.0.0.1:9", connect_timeout_s=0.3) as client:
            started_s = time.monotonic()
            calls = [client.generate(prompt="x") for _ in range(10)]
            errors = await asyncio.gather(
                *calls, client.ping(), client.cancel("r"), return_exceptions=True
            )
            assert 0.3 <= time.monotonic() - started_s < 2.0
            for error in errors:
                assert isinstance(error, ChatLoopError)
                assert (error.code, error.retryable) == ("unreachable", True)

    asyncio.run(main())


def test_close_ends_the_tasks_that_wait_and_tells_the_router() -> None:
    async def main(router: FakeRouter) -> None:
        client = AsyncClient(router.endpoint)
        tasks = [asyncio.create_task(client.generate(prompt="x")) for _ in range(5)]
        assert await eventually(lambda: len(router.heard_of(SUBMIT)) == 5)
        router.mute = True  # it hears the CANCELs and answers nothing
        started_s = time.monotonic()
        await client.close()
        assert time.monotonic() - started_s < 1.0
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ChatLoopError)
            assert error.code == "closed"
        assert await eventually(lambda: len(router.heard_of(CANCEL)) == 5)

    with FakeRouter(silent_handler) as router:
        asyncio.run(main(router))


def test_close_hears_the_router_behind_pieces_that_nobody_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CANCEL takes the descriptor's edge for the pieces; the PONG behind them gives none."""
    monkeypatch.setattr("chatloop.async_connection.FAREWELL_S", 10.0)
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 20.0)  # no timer helps

    async def main(router: FakeRouter) -> None:
        client = AsyncClient(router.endpoint)
        stream = client.stream(prompt="x", request_id="r")
        assert await eventually(lambda: stream.progress is not None)
        for index in range(10):
            router.piece("r", index, [index], "a", index)
        time.sleep(0.2)  # they arrive while the loop is blocked
        started_s = time.monotonic()
        await client.close()
        assert time.monotonic() - started_s < 5.0

    with FakeRouter(silent_handler) as router:
        asyncio.run(main(router))


def test_a_client_serves_one_loop_after_the_other_but_not_two() -> None:
    with FakeRouter(word_handler) as router:
        client = AsyncClient(router.endpoint, timeout_s=5)

        async def ask() -> str:
            return (await client.generate(prompt="x")).text

        assert [asyncio.run(ask()), asyncio.run(ask())] == ["".join(WORDS)] * 2
        loop = asyncio.new_event_loop()
        with contextlib.closing(loop):
            assert loop.run_until_complete(ask()) == "".join(WORDS)
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(ask())
            loop.run_until_complete(client.close())


def test_a_deadline_around_generate_cancels_its_request() -> None:
    async def main(router: FakeRouter) -> None:
        async with AsyncClient(router.endpoint) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.generate(prompt="x", request_id="r"), 0.1)
            assert await eventually(lambda: [CANCEL, "r"] in router.heard)
            if sys.version_info >= (3, 11):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await client.generate(prompt="x", request_id="s")
                assert await eventually(lambda: [CANCEL, "s"] in router.heard)
            assert (await client.ping()).router_incarnation == 7

    with FakeRouter(silent_handler) as router:
        asyncio.run(main(router))


def test_close_in_another_event_loop_is_refused_and_harms_nothing() -> None:
    async def main(router: FakeRouter) -> None:
        client = AsyncClient(router.endpoint, timeout_s=5)
        assert (await client.generate(prompt="x")).text == "".join(WORDS)
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.close())
        assert (await client.generate(prompt="x")).text == "".join(WORDS)
        await client.close()
        with pytest.raises(ChatLoopError) as caught:
            client.stream(prompt="x")
        assert caught.value.code == "closed"

    with FakeRouter(word_handler) as router:
        asyncio.run(main(router))


def test_close_while_connecting_ends_those_who_wait() -> None:
    async def main() -> None:
        client = AsyncClient("tcp://127.0.0.1:9", connect_timeout_s=60)
        tasks = [asyncio.create_task(call) for call in (client.ping(), client.generate(prompt="x"))]
        await asyncio.sleep(0.05)
        started_s = time.monotonic()
        await asyncio.gather(client.close(), client.close())
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ChatLoopError)
            assert error.code == "closed"
        assert time.monotonic() - started_s < 2.0

    asyncio.run(main())


def test_a_fork_gets_a_link_of_its_own() -> None:
    async def ask(client: AsyncClient, inherited: Any) -> int:
        with pytest.raises(ChatLoopError) as caught:
            await anext(inherited)
        await inherited.close()
        answered = (await client.generate(prompt="y")).text == "".join(WORDS)
        await client.close()
        return 0 if answered and caught.value.code == "closed" else 2

    held: list[list[Any]] = []

    def hold_x(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT and message[2]["prompt"] == "x":
            held.append(message)
        else:
            word_handler(router, message)

    async def main(router: FakeRouter) -> None:
        async with AsyncClient(router.endpoint, timeout_s=5) as client:
            await client.ping()
            inherited = client.stream(prompt="x")
            child = os.fork()
            if child == 0:  # reports by its exit code and runs nothing of pytest's
                code = 1
                try:
                    signal.alarm(10)
                    code = asyncio.run(ask(client, inherited))
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            [message] = held
            word_handler(router, message)
            assert [piece.text async for piece in inherited] == WORDS
            assert (await client.generate(prompt="z")).text == "".join(WORDS)

    with FakeRouter(hold_x) as router:
        asyncio.run(main(router))


FORGETFUL = """
import asyncio, gc, sys
from chatloop import AsyncClient

async def main():
    client = AsyncClient(sys.argv[1])
    await client.ping()
    stream = client.stream(prompt="x")

asyncio.run(main())
gc.collect()
print("collected")
"""


def test_a_client_that_was_not_closed_hangs_neither_the_collector_nor_the_exit() -> None:
    with FakeRouter(silent_handler) as router:
        ended = subprocess.run(
            [sys.executable, "-c", FORGETFUL, router.endpoint],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=10,
            capture_output=True,
            check=True,
        )
    assert (ended.stdout, ended.stderr) == (b"collected\n", b"")
