"""Whole answers: every message of the client front, and every field of the result."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from conftest import Connect
from fake_router import (
    CANCEL,
    DONE,
    ERROR,
    FINGERPRINT,
    PROMPT_PIECE,
    STATUS_INFO,
    SUBMIT,
    WORDS,
    FakeRouter,
    silent_handler,
    word_handler,
)

from chatloop import ChatLoopError, Durations, TokenLogprob, Usage


def f32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_a_generation_has_every_field_of_the_answer(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        result = client.generate(prompt="The capital?", max_tokens=5, request_id="r1")
    assert result.request_id == "r1"
    assert result.text == "Paris is not Rome."
    assert result.token_ids == [10, 11, 12, 13, 14]
    assert result.prompt_ids == [1, 2, 3]
    assert result.finish_reason == "stop"
    assert result.stop is None
    assert result.usage == Usage(3, 5, 8)
    assert result.durations == Durations(0.5, 2.0, 8.25)
    assert (result.model, result.fingerprint, result.seed) == ("fake", FINGERPRINT, 5)
    assert result.logprobs is None
    assert result.prompt_logprobs is None


def test_parameters_are_sent_under_their_names_and_only_when_given(connect: Connect) -> None:
    given: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "m",
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "min_p": 0.1,
        "typical_p": 0.8,
        "seed": 2**64 - 1,
        "stop": ["a", "b"],
        "stop_token_ids": [7],
        "echo": False,
        "ignore_eos": True,
    }
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        client.generate(**given)
        client.generate(token_ids=range(3), stop=None)
        sent = [message[2] for message in router.heard_of(SUBMIT)]
    assert sent == [given, {"token_ids": [0, 1, 2]}]


def test_constraints_and_tools_are_sent_as_json_text(connect: Connect) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": "c"},
        {"role": "user", "content": [{"type": "image_url"}]},
    ]
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        client.generate(messages=messages, tools=iter([{"type": "function"}]),
                        json_schema={"type": "object"}, chat_template_kwargs={"a": True})
        client.generate(prompt="x", choice=iter(["a", "b"]))
        client.generate(prompt="x", json_schema="{}")
        sent = [message[2] for message in router.heard_of(SUBMIT)]
    calls = json.dumps([call])
    assert sent[0] == {
        "messages": [
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "x", "tool_call_id": "c"},
            {"role": "user", "content": [{"type": "image_url"}]},  # the router's to refuse
        ],
        "tools": '[{"type": "function"}]',
        "json_schema": '{"type": "object"}',
        "chat_template_kwargs": '{"a": true}',
    }
    assert sent[1:] == [{"prompt": "x", "choice": ["a", "b"]}, {"prompt": "x", "json_schema": "{}"}]
    assert messages[1]["tool_calls"] == [call]  # the caller's own stays as it is


def test_a_sampled_request_without_a_seed_gets_one_of_its_own(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        for temperature in (1.0, 1.0, 0.0):
            client.generate(prompt="x", temperature=temperature)
        first, second, greedy = (message[2] for message in router.heard_of(SUBMIT))
    assert 0 <= first["seed"] < 2**64
    assert first["seed"] != second["seed"]
    assert "seed" not in greedy


def test_logprobs_are_the_float32_of_the_wire(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        name = message[1]
        router.accept(name, [1, 2, 3])
        router.send(name, PROMPT_PIECE, name, 0, [None, [2, -0.1, [[9, -3.3]]]])
        router.send(name, PROMPT_PIECE, name, 2, [[3, -1.7, []]])
        router.piece(
            name, 0, [10, 11], "ab", 0, [[10, -0.3, [[10, -0.3], [4, -2.2]]], [11, 0.0, []]]
        )
        router.done(name, "length", tokens=2)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        result = client.generate(prompt="x", logprobs=2, prompt_logprobs=1)
    assert result.prompt_logprobs == [
        None,
        TokenLogprob(2, f32(-0.1), [(9, f32(-3.3))]),
        TokenLogprob(3, f32(-1.7), []),
    ]
    assert result.logprobs == [
        TokenLogprob(10, f32(-0.3), [(10, f32(-0.3)), (4, f32(-2.2))]),
        TokenLogprob(11, 0.0, []),
    ]
    assert result.finish_reason == "length"


def test_an_echoed_prompt_is_the_first_piece_and_the_start_of_the_text(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.accept(message[1], [1, 2], prompt_text="Grüße, ")
        router.piece(message[1], 0, [5], "Welt", 0)
        router.done(message[1], stop="!", tokens=1)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="Grüße, ", echo=True)
        pieces = list(stream)
    assert [piece.text for piece in pieces] == ["Grüße, ", "Welt"]
    assert [piece.text_offset for piece in pieces] == [0, len("Grüße, ".encode())]
    assert stream.result.text == "Grüße, Welt"
    assert stream.result.token_ids == [5]
    assert stream.result.stop == "!"


@pytest.mark.parametrize("retryable", [True, False])
def test_an_error_of_the_router_arrives_whole(connect: Connect, retryable: bool) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.error(message[1], "queue_full", retryable, committed=4)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x")
    error = caught.value
    assert (error.code, error.message) == ("queue_full", "no luck")
    assert (error.retryable, error.committed) == (retryable, 4)


def test_an_error_without_a_request_ends_what_was_not_accepted(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        router.send(message[1], ERROR, None, "malformed", "what?", False, 0, None)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        with pytest.raises(ChatLoopError, match="what?"):
            client.generate(prompt="x")


def test_what_cannot_be_encoded_is_refused_here_and_the_client_goes_on(connect: Connect) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint) as client:
        for parameters, code in (
            ({"prompt": object()}, "invalid_request"),
            ({"prompt": "x", "seed": 2**64}, "invalid_request"),
            ({"prompt": "\ud800"}, "not_utf8"),
            ({"prompt": "x" * (5 << 20)}, "prompt_too_long"),
        ):
            with pytest.raises(ChatLoopError) as caught:
                client.generate(**parameters)
            assert caught.value.code == code
        assert client.generate(prompt="x").text == "".join(WORDS)
        assert len(router.heard_of(SUBMIT)) == 1


def test_cancel_by_name_ends_the_stream_with_cancelled(connect: Connect) -> None:
    with FakeRouter(silent_handler) as router, connect(router.endpoint) as client:
        stream = client.stream(prompt="x", request_id="mine")
        client.cancel("mine")
        assert list(stream) == []
        assert stream.result.finish_reason == "cancelled"


def test_cancel_of_an_unknown_request_is_answered_by_the_router(connect: Connect) -> None:
    def handler(router: FakeRouter, message: list[Any]) -> None:
        if message[1] == "elsewhere":
            router.send("elsewhere", DONE, "elsewhere", DONE_CANCELLED)
        else:
            router.error(message[1], "invalid_request", False)

    with FakeRouter(handler) as router, connect(router.endpoint) as client:
        client.cancel("elsewhere")
        with pytest.raises(ChatLoopError) as caught:
            client.cancel("nobody")
        assert caught.value.code == "invalid_request"
        assert [message[1] for message in router.heard_of(CANCEL)] == ["elsewhere", "nobody"]


DONE_CANCELLED = {
    "finish_reason": "cancelled",
    "stop": None,
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "queue_ms": 0.0,
    "prefill_ms": 0.0,
    "decode_ms": 0.0,
}


def test_ping_and_status(connect: Connect) -> None:
    with FakeRouter(word_handler, incarnation=99) as router, connect(router.endpoint) as client:
        pong = client.ping()
        assert pong.router_incarnation == 99
        assert 0.0 < pong.round_trip_s < 5.0
        assert client.status() == STATUS_INFO
