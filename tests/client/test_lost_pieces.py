"""Messages that were lost on a connection that was made anew before anybody noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Connect
from fake_router import CANCEL, RESUME, SUBMIT, FakeRouter
from test_stream import eventually

from chatloop import ChatLoopError

WORDS = ["Paris", " is", " not", " Rome"]
Say = Callable[[FakeRouter, str], None]


@pytest.fixture(autouse=True)
def fast_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)


def say_words(router: FakeRouter, name: str, first: int, end: int) -> None:
    for index in range(first, end):
        offset = len("".join(WORDS[:index]))
        router.piece(name, index, [10 + index], WORDS[index], offset)


def loses(after_two: Say) -> Callable[[FakeRouter, list[Any]], None]:
    """Half of the answer, then `after_two`, in which something is lost; all when it is resumed."""

    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        if message[0] == SUBMIT:
            router.accept(name, [1, 2, 3])
            say_words(router, name, 0, 2)
            after_two(router, name)
        elif message[0] == RESUME:
            progress = message[4]
            assert progress["token_ids"] == [10, 11]
            router.running = [[name, message[2], 2]]
            say_words(router, name, 3, 4)  # of the attempt before, still on its way
            router.accept(name, progress["prompt_ids"], seed=progress["seed"])
            say_words(router, name, 2, 4)
            router.done(name, "length", tokens=4)

    return handler


def runs_ahead(router: FakeRouter, name: str) -> None:
    router.running = [[name, 0, 3]]


def has_ended(router: FakeRouter, _: str) -> None:
    router.running = []


@pytest.mark.parametrize(
    "after_two",
    [
        lambda router, name: say_words(router, name, 3, 4),
        lambda router, name: router.piece(name, 2, [12], " not", 9),  # a byte of text is missing
        lambda router, name: router.done(name, "length", tokens=4),
        runs_ahead,
        has_ended,
    ],
)
def test_what_was_lost_is_asked_for(connect: Connect, after_two: Say) -> None:
    with FakeRouter(loses(after_two)) as router, connect(router.endpoint, timeout_s=8) as client:
        stream = client.stream(prompt="x", request_id="r")
        assert "".join(piece.text for piece in stream) == "Paris is not Rome"
        assert stream.result.token_ids == [10, 11, 12, 13]
        [resume] = router.heard_of(RESUME)
        assert resume[2] == 1
        assert not router.heard_of(CANCEL)


def test_a_lost_end_of_a_choice_is_asked_for(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        if message[0] == SUBMIT:
            router.accept(name, [1])
            router.choice_done(name, 0, "length")
            router.done(name, "length")
        elif message[0] == RESUME:
            router.accept(name, [1])
            for choice in range(2):
                router.choice_done(name, choice, "length")
            router.done(name, "length")

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=8) as client:
        assert len(client.generate(prompt="x", n=2).choices) == 2
        assert len(router.heard_of(RESUME)) == 1


@pytest.mark.parametrize("piece", [False, True])
def test_without_its_accepted_a_request_begins_anew(connect: Connect, piece: bool) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        if message[0] == CANCEL:
            router.running = None
            say_words(router, name, 2, 3)
            router.done(name, "cancelled", tokens=3)
        elif len(router.heard_of(SUBMIT)) == 1:
            router.running = [[name, 0, 2]]
            if piece:
                say_words(router, name, 1, 2)
        else:
            router.accept(name, [1, 2, 3])
            say_words(router, name, 0, 4)
            router.done(name, "length", tokens=4)

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=8) as client:
        assert client.generate(prompt="x").text == "Paris is not Rome"
        assert len(router.heard_of(SUBMIT)) == 2
        assert len(router.heard_of(CANCEL)) == 1


def test_a_lost_submit_is_sent_again(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.running = []
        if len(router.heard_of(SUBMIT)) == 2:
            router.running = None
            router.accept(message[1], [1, 2, 3])
            say_words(router, message[1], 0, 4)
            router.done(message[1], "length", tokens=4)

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=8) as client:
        assert client.generate(prompt="x").text == "Paris is not Rome"


def test_a_pong_that_agrees_asks_for_nothing(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.running = [["r", 0, 2], ["another", 0, 9]]
        router.accept("r", [1, 2, 3])
        say_words(router, "r", 0, 2)

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=8) as client:
        stream = client.stream(prompt="x", request_id="r")
        assert next(stream).text
        count = len(router.heard)

        def many_pongs() -> bool:
            client.keep_alive()
            return len(router.heard) > count + 5

        assert eventually(many_pongs)
        assert not router.heard_of(RESUME)
        router.running = None
        say_words(router, "r", 2, 4)
        router.done("r", "length", tokens=4)
        assert "".join(piece.text for piece in stream).endswith(" not Rome")


def test_what_is_lost_again_and_again_ends(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] in (SUBMIT, RESUME):
            router.accept(message[1], [1, 2, 3])
            say_words(router, message[1], 1, 2)

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=8) as client:
        with pytest.raises(ChatLoopError, match="the request was lost 5 times") as caught:
            client.generate(prompt="x")
        assert caught.value.retryable


def test_a_cancel_of_another_clients_request_is_not_compared(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.running = []

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=0.4) as client:
        with pytest.raises(ChatLoopError, match="no answer to CANCEL"):
            client.cancel("foreign")
        assert not router.heard_of(SUBMIT)
