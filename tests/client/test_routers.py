"""A client with the addresses of several routers: one at a time, the next when it is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Connect
from fake_router import RESUME, SUBMIT, WORDS, FakeRouter, word_handler
from test_faults import first_half, free_port, second_half

from chatloop import AsyncClient, ChatLoopError, Client


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)
    monkeypatch.setattr("chatloop.link.ELSEWHERE_S", 0.3)


def test_the_first_one_is_used(connect: Connect) -> None:
    with FakeRouter(word_handler) as first, FakeRouter(word_handler) as second:
        with Client([first.endpoint, second.endpoint]) as client:
            assert client.generate(prompt="x").text == "".join(WORDS)
        assert len(first.heard_of(SUBMIT)) == 1
        assert second.heard == []


def test_a_first_one_that_is_missing_is_left(connect: Connect) -> None:
    with FakeRouter(word_handler) as second:
        with Client([f"tcp://127.0.0.1:{free_port()}", second.endpoint]) as client:
            assert client.generate(prompt="x").text == "".join(WORDS)


@pytest.mark.parametrize("gone", [False, True])  # False: it is there, and says nothing
def test_another_one_goes_on_with_the_answer(gone: bool) -> None:
    with FakeRouter(second_half, incarnation=2) as second:
        first = FakeRouter(first_half, incarnation=1)
        with Client([first.endpoint, second.endpoint], timeout_s=8) as client:
            with client.stream(prompt="x", seed=17, request_id="r") as stream:
                assert next(stream).text == "Paris is"
                first.mute = True
                if gone:
                    first.__exit__()
                assert [piece.text for piece in stream] == [" not", " Rome"]
                assert stream.result.token_ids == [10, 11, 12, 13]
        if not gone:
            first.__exit__()
        [resume] = second.heard_of(RESUME)
        assert resume[2] == 1
        assert resume[4]["token_ids"] == [10, 11]


def test_an_async_client_goes_on_too() -> None:
    async def main(endpoints: list[str], first: FakeRouter) -> Any:
        async with AsyncClient(endpoints, timeout_s=8) as client:
            stream = client.stream(prompt="x", seed=17, request_id="r")
            assert (await anext(stream)).text == "Paris is"
            first.__exit__()
            return [piece.text async for piece in stream]

    with FakeRouter(second_half, incarnation=2) as second:
        first = FakeRouter(first_half, incarnation=1)
        assert asyncio.run(main([first.endpoint, second.endpoint], first)) == [" not", " Rome"]


def test_none_of_them_answers() -> None:
    first, second = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    with Client([first, second], connect_timeout_s=0.8) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.ping()
    assert caught.value.code == "unreachable"
    assert first in str(caught.value) and second in str(caught.value)


def test_no_endpoint_and_a_bad_one_behind_a_good_one() -> None:
    for endpoints in ([], ["tcp://127.0.0.1:7101", "nonsense"]):
        with Client(endpoints) as client, pytest.raises(ChatLoopError) as caught:
            client.ping()
        assert caught.value.code == "invalid_request"
