"""What a client takes from a router is bounded, and thousands of requests leave nothing behind."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from conftest import Connect
from fake_router import (
    CANCEL,
    DONE,
    PIECE,
    PROMPT_PIECE,
    SUBMIT,
    WORDS,
    FakeRouter,
    silent_handler,
    word_handler,
)

from chatloop import ChatLoopError
from chatloop.choice import ANSWER_BYTES_MAX, ANSWER_TOKENS_MAX


def test_answers_to_nobody_are_counted_and_ignored(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        for _ in range(3):
            router.send(message[1], PIECE, "nobody", 0, [1], "x", 0, None, 0)
        word_handler(router, message)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        assert client.stray_messages == 0
        assert client.generate(prompt="x").text == "".join(WORDS)
        assert client.stray_messages == 3


@pytest.mark.parametrize("what", ["tokens", "text", "prompt log-probabilities"])
def test_an_answer_without_end_is_given_up(connect: Connect, what: str) -> None:
    """A router that goes on for ever fills no client's memory, although nobody takes a piece."""

    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        if message[0] == CANCEL:
            return
        router.accept(name, [1, 2, 3])
        for n in range(17):
            if what == "tokens":
                router.piece(name, n << 14, [7] * (1 << 14), "", 0)
            elif what == "text":
                router.piece(name, n, [7], "x" * (1 << 20), n << 20)
            else:
                router.send(name, PROMPT_PIECE, name, n, [None])

    with FakeRouter(handler) as router, connect(router.endpoint, timeout_s=20) as client:
        stream = client.stream(prompt="x")
        with pytest.raises(ChatLoopError) as caught:
            for _ in stream:
                pass
    error = caught.value
    assert (error.code, error.retryable) == ("malformed", False)
    assert error.progress is not None
    assert len(error.progress.token_ids) <= ANSWER_TOKENS_MAX
    assert len(error.progress.text) <= ANSWER_BYTES_MAX
    assert len(error.progress.prompt_logprobs) <= 3


def test_what_is_quoted_of_a_bad_message_is_short(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.send_raw(message[1], msgpack.packb([1, DONE, ["x" * (1 << 20)], {}]))

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x")
    assert caught.value.code == "malformed"
    assert len(str(caught.value)) < 400


def test_a_message_beyond_bounds_does_not_arrive_and_the_client_goes_on(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT and message[2]["prompt"] == "big":
            router.send_raw(message[1], bytes(65 << 20))
        else:
            word_handler(router, message)

    with FakeRouter(handler) as router:
        with connect(router.endpoint, connect_timeout_s=0.3, silence_timeout_s=0.5) as client:
            with pytest.raises(ChatLoopError) as caught:
                client.generate(prompt="big")
            assert (caught.value.code, caught.value.retryable) == ("unreachable", True)
            assert text_of_a_later_request(client) == "".join(WORDS)


def test_a_port_that_another_program_had_is_not_given_up(connect: Connect) -> None:
    """libzmq never connects again to a peer that once answered with another protocol."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"GUARDED".ljust(20, b"\0") + bytes(32)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answering = threading.Thread(target=lambda: server.accept()[0].sendall(greeting))
        answering.start()
        client = connect(
            f"tcp://127.0.0.1:{port}", connect_timeout_s=0.3, silence_timeout_s=0.5
        )
        with pytest.raises(ChatLoopError) as caught:
            client.ping()
        assert caught.value.code == "unreachable"
        answering.join()
    with client, FakeRouter(word_handler, port=port):
        assert text_of_a_later_request(client) == "".join(WORDS)


def text_of_a_later_request(client: Any) -> str:
    deadline_s = time.monotonic() + 20.0
    while time.monotonic() < deadline_s:
        try:
            return str(client.generate(prompt="x").text)
        except ChatLoopError as error:
            assert error.code == "unreachable"
    return ""


def test_thousands_of_requests_leave_nothing_behind(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint, timeout_s=20) as client:

        def ask(count: int) -> None:
            for number in range(count):
                if number % 10 == 9:
                    client.stream(prompt="x").close()
                    client.ping()
                else:
                    client.generate(prompt="x")
            router.heard.clear()
            router._peers.clear()
            gc.collect()

        ask(200)
        descriptors = len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        ask(200)
        before, _ = tracemalloc.get_traced_memory()
        ask(2000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert after - before < 100_000  # 50 bytes a request; a request that is kept takes thousands


def test_clients_that_come_and_go_leave_no_descriptor(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router:
        for number in range(30):
            with connect(router.endpoint) as client:
                client.stream(prompt="x")
                client.ping()
            if number == 4:
                descriptors = len(os.listdir("/proc/self/fd"))
        # The router's ends of closed links may live a moment longer.
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 10
