"""Several answers to one prompt: pieces, ends, results, and what a second router gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Connect
from fake_router import CANCEL, RESUME, SUBMIT, FakeRouter

from chatloop import ChatLoopError, Choice, Piece, Progress

# What each choice says: (token, text)...
ANSWERS = [[(10, "Par"), (11, "is")], [(20, "Rome")], []]


def two_of_three(router: FakeRouter, message: list[Any]) -> None:
    """The pieces of ANSWERS, the last first."""
    router.accept(message[1], [1, 2, 3], prompt_text="In" if message[2].get("echo") else None)
    for choice, answer in reversed(list(enumerate(ANSWERS))):
        offset = 0
        for index, (token, text) in enumerate(answer):
            router.piece(message[1], index, [token], text, offset, choice=choice)
            offset += len(text)


def ends(router: FakeRouter, message: list[Any]) -> None:
    for choice, reason, stop, tokens in [(2, "stop", 7, 0), (0, "length", None, 2),
                                         (1, "stop", "!", 1)]:  # fmt: skip
        router.choice_done(message[1], choice, reason, stop, tokens)
    router.done(message[1], "length", tokens=3)


def three_answers(router: FakeRouter, message: list[Any]) -> None:
    if message[0] == SUBMIT:
        two_of_three(router, message)
        ends(router, message)


EXPECTED = [
    Choice(0, "Paris", [10, 11], None, "length", None),
    Choice(1, "Rome", [20], None, "stop", "!"),
    Choice(2, "", [], None, "stop", 7),
]


def test_pieces_and_results_of_all_choices(connect: Connect) -> None:
    with FakeRouter(three_answers) as router, connect(router.endpoint) as client:
        with client.stream(prompt="x", n=3) as stream:
            pieces = list(stream)
            result = stream.result
        [submit] = router.heard_of(SUBMIT)
    assert submit[2] == {"prompt": "x", "n": 3}
    assert pieces == [
        Piece(0, [20], "Rome", 0, None, choice=1),
        Piece(0, [10], "Par", 0, None),
        Piece(1, [11], "is", 3, None),
    ]
    assert result.choices == EXPECTED
    first = (result.text, result.token_ids, result.finish_reason, result.stop)
    assert first == ("Paris", [10, 11], "length", None)
    assert result.usage.completion_tokens == 3


def test_one_choice_is_the_answer(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.accept(message[1], [1])
        router.piece(message[1], 0, [5], "a", 0)
        router.done(message[1], "stop", 9, tokens=1)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        result = client.generate(prompt="x")
    assert result.choices == [Choice(0, "a", [5], None, "stop", 9)]


def test_the_echo_is_of_the_first_choice(connect: Connect) -> None:
    with FakeRouter(three_answers) as router, connect(router.endpoint) as client:
        with client.stream(prompt="x", n=3, echo=True) as stream:
            pieces = list(stream)
            result = stream.result
    assert pieces[0] == Piece(0, [], "In", 0, None)
    assert [(piece.choice, piece.text_offset) for piece in pieces[1:]] == [(1, 0), (0, 2), (0, 5)]
    assert [choice.text for choice in result.choices] == ["InParis", "Rome", ""]


def piece(choice: int) -> Callable[[FakeRouter, str], None]:
    return lambda router, name: router.piece(name, 0, [9], "?", 0, choice=choice)


def contradicting_end(router: FakeRouter, name: str) -> None:
    router.choice_done(name, 2, "stop", 7)
    router.choice_done(name, 2, "length")


def piece_behind_the_end(router: FakeRouter, name: str) -> None:
    router.choice_done(name, 2, "stop", 7)
    piece(2)(router, name)


@pytest.mark.parametrize(
    ("n", "say", "code"),
    [
        (3, piece(3), "malformed"),
        (1, piece(1), "malformed"),
        (3, piece_behind_the_end, "malformed"),
        (3, contradicting_end, "internal"),
        (3, lambda router, name: router.choice_done(name, 3), "malformed"),
        (1, lambda router, name: router.choice_done(name, 0), "malformed"),
        (3, lambda router, name: router.choice_done(name, -1), "malformed"),
    ],
)
def test_what_no_router_says(connect: Connect, n: int, say: Any, code: str) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            router.accept(message[1], [1])
            say(router, message[1])

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", n=n)
    assert caught.value.code == code


def test_cancelled_choices_are_those_without_an_end(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == CANCEL:
            router.done(message[1], "cancelled", tokens=3)
        else:
            two_of_three(router, message)
            router.choice_done(message[1], 2, "stop", 7)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with client.stream(prompt="x", n=3) as stream:
            for _ in range(3):
                next(stream)
            stream.cancel()
            assert list(stream) == []
            reasons = [choice.finish_reason for choice in stream.result.choices]
    assert reasons == ["cancelled", "cancelled", "stop"]


def test_an_error_has_the_progress_of_all_choices_and_resume_continues_them(
    connect: Connect,
) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            two_of_three(router, message)
            router.choice_done(message[1], 1, "stop", "!", 1)
            router.error(message[1], "worker_lost", True, committed=3)
        elif message[0] == RESUME:
            router.accept(message[1], [1, 2, 3])
            router.piece(message[1], 2, [12], "!", 5, choice=0)
            ends(router, message)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", n=3)
        progress = caught.value.progress
        assert isinstance(progress, Progress)
        assert caught.value.committed == 3
        assert [choice.token_ids for choice in progress.choices] == [[10, 11], [20], []]
        assert (progress.token_ids, progress.text) == ([10, 11], "Paris")
        with client.resume(progress) as stream:
            assert [(p.choice, p.token_ids) for p in stream] == [(0, [12])]
            texts = [choice.text for choice in stream.result.choices]
        [resume] = router.heard_of(RESUME)
    assert resume[4] == {
        "prompt_ids": [1, 2, 3],
        "choices": [[10, 11], [20], []],
        "seed": 5,
        "fingerprint": "00c0ffee00c0ffee",
    }
    assert texts == ["Paris!", "Rome", ""]


def test_an_error_says_when_to_ask_again(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        later = None if message[2]["prompt"] == "x" else 1500
        router.error(message[1], "queue_full", True, retry_after_ms=later)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        for prompt, expected in [("x", None), ("y", 1500)]:
            with pytest.raises(ChatLoopError) as caught:
                client.generate(prompt=prompt)
            assert caught.value.retry_after_ms == expected
