"""Routers that are missing, mute, restarted; forks; closing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from conftest import Connect
from fake_router import (
    CANCEL,
    FINGERPRINT,
    RESUME,
    SUBMIT,
    WORDS,
    FakeRouter,
    silent_handler,
    word_handler,
)

from chatloop import ChatLoopError, Client


@pytest.fixture
def mute_port() -> Any:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_missing_router_is_unreachable_after_the_connect_timeout(connect: Connect) -> None:
    started_s = time.monotonic()
    port = free_port()
    with connect(f"tcp://127.0.0.1:{port}", connect_timeout_s=0.3) as client:
        for call in (lambda: client.generate(prompt="x"), client.ping, client.status):
            with pytest.raises(ChatLoopError) as caught:
                call()
            assert (caught.value.code, caught.value.retryable) == ("unreachable", True)
            assert f"127.0.0.1:{port}: no router answers within 0.3 s" in str(caught.value)
            assert "check that one runs" in str(caught.value)
    assert 0.9 <= time.monotonic() - started_s < 3.0


def test_a_port_that_is_no_router_is_unreachable(connect: Connect, mute_port: int) -> None:
    with connect(f"tcp://127.0.0.1:{mute_port}", connect_timeout_s=0.3) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.ping()
    assert caught.value.code == "unreachable"


def test_a_router_that_comes_later_is_found(connect: Connect) -> None:
    port = free_port()
    with connect(f"tcp://127.0.0.1:{port}", connect_timeout_s=0.1) as client:
        with pytest.raises(ChatLoopError):
            client.ping()
        with FakeRouter(word_handler, port=port):
            deadline_s = time.monotonic() + 8.0
            text = ""
            while not text and time.monotonic() < deadline_s:
                try:
                    text = client.generate(prompt="x").text
                except ChatLoopError as error:
                    assert error.code == "unreachable"
            assert text == "".join(WORDS)


def test_an_endpoint_that_is_none_is_an_error_in_the_request(connect: Connect) -> None:
    with connect("nonsense") as client, pytest.raises(ChatLoopError) as caught:
        client.ping()
    assert (caught.value.code, caught.value.retryable) == ("invalid_request", False)


def test_an_answer_that_does_not_come_times_out_and_is_cancelled(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router, connect(router.endpoint) as client:
        started_s = time.monotonic()
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", timeout_s=0.2)
        assert 0.2 <= time.monotonic() - started_s < 2.0
        assert (caught.value.code, caught.value.retryable) == ("timeout", True)
        client.ping()
        assert len(router.heard_of(CANCEL)) == 1


def test_queries_time_out_and_leave_no_trace(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint, timeout_s=0.1) as client:
        router.mute = True
        for call in (client.ping, client.status, lambda: client.trace("r")):
            with pytest.raises(ChatLoopError) as caught:
                call()
            assert caught.value.code == "timeout"
        router.mute = False
        assert client.status()["router"] == "fake"
        assert client.ping().router_incarnation == 7


def test_a_router_that_falls_silent_is_unreachable(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[0] == SUBMIT:
            router.mute = True
            router.accept(message[1], [1])
            router.piece(message[1], 0, [1, 2], "ab", 0)

    with FakeRouter(handler) as router:
        with connect(router.endpoint, silence_timeout_s=0.4) as client:
            stream = client.stream(prompt="x")
            assert next(stream).text == "ab"
            with pytest.raises(ChatLoopError) as caught:
                next(stream)
    error = caught.value
    assert (error.code, error.retryable, error.committed) == ("unreachable", True, 2)


def first_half(router: FakeRouter, message: list[Any]) -> None:
    if message[0] == SUBMIT:
        router.accept(message[1], [1, 2, 3], seed=message[2]["seed"])
        router.piece(message[1], 0, [10, 11], "Paris is", 0)


def second_half(router: FakeRouter, message: list[Any]) -> None:
    """Goes on after a RESUME, and repeats a token to be dropped."""
    if message[0] == RESUME:
        name, progress = message[1], message[4]
        router.accept(name, progress["prompt_ids"], seed=progress["seed"])
        router.piece(name, 1, [11, 12], " is not", 5)
        router.piece(name, 3, [13], " Rome", 12)
        router.done(name, "length", tokens=4)


@pytest.mark.parametrize("mute", [False, True])  # True: it goes before its first PONG
def test_a_restarted_router_is_asked_to_go_on(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, mute: bool
) -> None:
    monkeypatch.setattr("chatloop.session.PING_INTERVAL_S", 0.05)
    with FakeRouter(first_half, incarnation=1) as router:
        port = router.port
        router.mute = mute
        client = connect(router.endpoint, timeout_s=8)
        stream = client.stream(prompt="x", seed=17, request_id="r")
        assert next(stream).text == "Paris is"
    with client, FakeRouter(second_half, incarnation=2, port=port) as router:
        assert [piece.text for piece in stream] == [" not", " Rome"]
        assert stream.result.token_ids == [10, 11, 12, 13]
        assert stream.result.text == "Paris is not Rome"
        [resume] = router.heard_of(RESUME)
    progress = {"prompt_ids": [1, 2, 3], "token_ids": [10, 11], "seed": 17}
    parameters = {"prompt": "x", "seed": 17}
    assert resume[1:] == ["r", 1, parameters, {**progress, "fingerprint": FINGERPRINT}]


def lost_half(router: FakeRouter, message: list[Any]) -> None:
    """Takes its client for gone after half of the answer."""
    first_half(router, message)
    if message[0] == SUBMIT:
        router.error(message[1], "client_lost", True, 2)
    second_half(router, message)


def test_one_that_was_taken_for_gone_goes_on(connect: Connect) -> None:
    with FakeRouter(lost_half) as router, connect(router.endpoint, timeout_s=8) as client:
        stream = client.stream(prompt="x", seed=17, request_id="r")
        assert [piece.text for piece in stream] == ["Paris is", " not", " Rome"]
        assert stream.result.token_ids == [10, 11, 12, 13]
        [resume] = router.heard_of(RESUME)
        assert resume[2] == 1


def test_one_that_is_lost_again_and_again_ends(connect: Connect) -> None:
    def lose(router: FakeRouter, message: list[Any]) -> None:
        if message[0] in (SUBMIT, RESUME):
            router.error(message[1], "client_lost", True)

    with FakeRouter(lose) as router, connect(router.endpoint, timeout_s=8) as client:
        with pytest.raises(ChatLoopError, match="the request was lost 5 times") as caught:
            client.generate(prompt="x")
        assert caught.value.retryable
        assert len(router.heard_of(SUBMIT)) == 5  # never accepted, so it begins anew


def test_a_router_that_vanishes_is_reported_with_the_answer_so_far(connect: Connect) -> None:
    with FakeRouter(first_half) as router:
        port = router.port
        client = connect(router.endpoint, silence_timeout_s=0.4, connect_timeout_s=0.2)
        stream = client.stream(prompt="x", seed=17)
        assert next(stream).text == "Paris is"
    started_s = time.monotonic()
    with client:
        with pytest.raises(ChatLoopError) as caught:
            next(stream)
        assert time.monotonic() - started_s < 4.0
        error = caught.value
        assert (error.code, error.retryable, error.committed) == ("unreachable", True, 2)
        assert f"127.0.0.1:{port}: the router is silent for 0.4 s" in str(error)
        with FakeRouter(second_half, incarnation=2, port=port):
            assert text_of_the_rest(client, error.progress) == "Paris is not Rome"


def text_of_the_rest(client: Any, progress: Any) -> str:
    deadline_s = time.monotonic() + 20.0
    while time.monotonic() < deadline_s:
        try:
            with client.resume(progress) as stream:
                for _ in stream:
                    pass
                return str(stream.result.text)
        except ChatLoopError as error:
            assert error.code == "unreachable"
    return ""


def test_a_lost_worker_is_a_retryable_error_and_the_answer_can_be_resumed(
    connect: Connect,
) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        first_half(router, message)
        if message[0] == SUBMIT:
            router.error(message[1], "worker_lost", True, committed=2)
        second_half(router, message)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", seed=17)
        error = caught.value
        assert (error.code, error.retryable, error.committed) == ("worker_lost", True, 2)
        assert error.progress is not None
        assert (error.progress.token_ids, error.progress.text) == ([10, 11], "Paris is")
        assert text_of_the_rest(client, error.progress) == "Paris is not Rome"


def test_progress_continues_on_another_client_and_router(connect: Connect) -> None:
    with FakeRouter(first_half) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="x", seed=17)
        next(stream)
        progress = stream.progress
    assert progress is not None
    with FakeRouter(second_half) as router, connect(router.endpoint) as client:
        resumed = client.resume(progress)
        assert [piece.text for piece in resumed] == [" not", " Rome"]
    assert resumed.result.text == "Paris is not Rome"
    assert resumed.result.seed == 17


def test_close_does_not_hang_and_cancels(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router:
        client = connect(router.endpoint)
        stream = client.stream(prompt="x", request_id="r")
        client.ping()  # the request has left before it
        started_s = time.monotonic()
        client.close()
        client.close()
        assert time.monotonic() - started_s < 1.0
        for call in (lambda: next(stream), client.ping):
            with pytest.raises(ChatLoopError) as caught:
                call()
            assert caught.value.code == "closed"
        deadline_s = time.monotonic() + 5.0
        while not router.heard_of(CANCEL) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert router.heard_of(CANCEL) == [[CANCEL, "r"]]


def test_close_does_not_hang_without_a_router(connect: Connect, mute_port: int) -> None:
    client = connect(f"tcp://127.0.0.1:{mute_port}", connect_timeout_s=0.05)
    with pytest.raises(ChatLoopError):
        next(client.stream(prompt="x"))
    started_s = time.monotonic()
    client.close()
    assert time.monotonic() - started_s < 1.0


def test_a_process_that_never_closes_its_client_still_ends() -> None:
    script = (
        "import sys; from chatloop import Client\n"
        "client = Client(sys.argv[1]); stream = client.stream(prompt='x'); print('running')"
    )
    with FakeRouter(silent_handler) as router:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, router.endpoint]
        ended = subprocess.run(
            command, env=environment, timeout=10, capture_output=True, check=True
        )
    assert ended.stdout == b"running\n"
    assert ended.stderr == b""


def test_a_fork_gets_a_link_of_its_own() -> None:
    with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=5) as client:
        inherited = client.stream(prompt="x")
        child = os.fork()
        if child == 0:  # reports by its exit code and runs nothing of pytest's
            code = 1
            try:
                signal.alarm(10)
                try:
                    next(inherited)
                except ChatLoopError as error:
                    inherited.close()
                    answered = client.generate(prompt="y").text == "".join(WORDS)
                    client.close()
                    code = 0 if answered and error.code == "closed" else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert [piece.text for piece in inherited] == WORDS
        assert client.generate(prompt="z").text == "".join(WORDS)
