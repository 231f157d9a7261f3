"""Pieces while they come: order, duplicates, several streams, leaving early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from conftest import Connect
from fake_router import (
    CANCEL,
    PIECE,
    PING,
    SUBMIT,
    WORDS,
    FakeRouter,
    silent_handler,
    word_handler,
)

from chatloop import ChatLoopError, Client


def eventually(condition: Callable[[], Any], timeout_s: float = 5.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    return bool(condition())


def test_pieces_come_in_order_and_make_the_result(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="x")
        with pytest.raises(RuntimeError):
            _ = stream.result
        pieces = list(stream)
    assert [piece.text for piece in pieces] == WORDS
    assert [piece.index for piece in pieces] == [0, 1, 2, 3, 4]
    assert [piece.text_offset for piece in pieces] == [0, 5, 8, 12, 17]
    assert [piece.logprobs for piece in pieces] == [None] * 5
    assert stream.result.text == "".join(piece.text for piece in pieces)


def test_interleaved_streams_get_their_own_pieces(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.accept(message[1], [1])
        names = [submit[1] for submit in router.heard_of(SUBMIT)]
        if len(names) < 3:
            return
        for index in range(4):
            for name in reversed(names):
                router.piece(name, index, [ord(name)], f"{name}{index}", 2 * index)
        for name in names:
            router.done(name, tokens=4)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        streams = [client.stream(prompt="x", request_id=name) for name in "abc"]
        turns = [[next(stream).text for stream in streams] for _ in range(4)]
        assert all(list(stream) == [] for stream in streams)
    assert turns == [[f"{name}{index}" for name in "abc"] for index in range(4)]
    assert [stream.result.token_ids for stream in streams] == [[ord(name)] * 4 for name in "abc"]


def test_threads_may_share_a_client() -> None:
    texts: list[str] = []
    with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=10) as client:

        def ask() -> None:
            texts.extend(client.generate(prompt="x").text for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == ["".join(WORDS)] * 40


def test_repeated_pieces_are_dropped_also_when_they_overlap(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        router.accept(name, [1])
        router.piece(name, 0, [1, 2], "añ", 0)
        router.accept(name, [1])
        router.piece(name, 0, [1], "a", 0)
        router.piece(name, 1, [2, 3], "ño", 1)
        router.piece(name, 3, [], "!", 4)  # text that was held back, without a token
        router.done(name, tokens=3)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="x")
        pieces = [(piece.index, piece.token_ids, piece.text) for piece in stream]
    assert pieces == [(0, [1, 2], "añ"), (2, [3], "o"), (3, [], "!")]
    assert (stream.result.text, stream.result.token_ids) == ("año!", [1, 2, 3])


@pytest.mark.parametrize(
    ("index", "ids", "text", "offset", "code"),
    [
        (0, [9], "a", 0, "internal"),  # another token
        (0, [1], "b", 0, "internal"),  # another text
    ],
)
def test_a_piece_that_contradicts_ends_the_request(
    connect: Connect, index: int, ids: list[int], text: str, offset: int, code: str
) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            router.accept(message[1], [1])
            router.piece(message[1], 0, [1, 2], "ab", 0)
            router.piece(message[1], index, ids, text, offset)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="x")
        assert next(stream).text == "ab"
        with pytest.raises(ChatLoopError) as caught:
            next(stream)
        assert (caught.value.code, caught.value.committed) == (code, 2)
        assert eventually(lambda: router.heard_of(CANCEL))


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", msgpack.packb([2, PIECE, "r"]), msgpack.packb([1, 200, "r"]),
     msgpack.packb([1, PIECE, "r", 0, [1], "text"]),
     msgpack.packb([1, PIECE, "r", 0, [-1], "text", 0, None, 0])],
)  # fmt: skip
def test_bytes_that_are_no_message_end_the_running_requests(
    connect: Connect, message: bytes
) -> None:
    def handler(router: FakeRouter, submit: list[Any]) -> None:
        if submit[0] == SUBMIT:
            router.accept(submit[1], [1])
            router.send_raw(submit[1], message)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", request_id="r")
        assert caught.value.code == "malformed"


def test_leaving_a_stream_cancels_its_request(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router, connect(router.endpoint) as client:
        client.ping()  # with a link, requests leave at once
        with client.stream(prompt="x", request_id="with"):
            pass
        assert eventually(lambda: [CANCEL, "with"] in router.heard)
        client.stream(prompt="x", request_id="close").close()
        assert eventually(lambda: [CANCEL, "close"] in router.heard)
        client.stream(prompt="x", request_id="forgotten")
        client.keep_alive()
        assert eventually(lambda: [CANCEL, "forgotten"] in router.heard)
        closed = client.stream(prompt="x")
        closed.close()
        assert list(closed) == []


def test_a_finished_stream_is_not_cancelled(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        with client.stream(prompt="x") as stream:
            list(stream)
        client.ping()
        assert router.heard_of(CANCEL) == []


def test_a_name_that_is_running_is_refused_without_harm_to_the_first(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router, connect(router.endpoint) as client:
        first = client.stream(prompt="x", request_id="same")
        with pytest.raises(ChatLoopError) as caught:
            client.stream(prompt="x", request_id="same")
        assert caught.value.code == "duplicate_id"
        first.cancel()
        assert list(first) == []
        assert len(router.heard_of(SUBMIT)) == 1


def test_a_running_request_is_accompanied_by_pings(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)
    with FakeRouter(silent_handler) as router, connect(router.endpoint, timeout_s=0.5) as client:
        with pytest.raises(ChatLoopError):
            client.generate(prompt="x")
        assert len(router.heard_of(PING)) >= 4
