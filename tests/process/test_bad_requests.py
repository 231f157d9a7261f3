"""Requests that are wrong: a clear error to that client, counted, and nobody else notices."""

from __future__ import annotations

import math
import random
from typing import Any

import models
import msgpack
import pytest
from chatloop import protocol
from counts import counts, rising
from hostile_bytes import GOOD, NO_MESSAGES, SUBMIT
from raw_socket import RawSocket, assert_serves

pytestmark = pytest.mark.usefixtures("witness")


@pytest.fixture
def front(tiny_cluster):
    with RawSocket(tiny_cluster.endpoints["front"]) as socket_:
        yield socket_


def not_utf8(value: Any) -> bytes:
    """msgpack with \\udcff written as the byte 0xff."""
    return msgpack.packb(value, unicode_errors="surrogateescape")


# ---- parameters ----

INVALID, TOO_LONG, NOT_UTF8 = "invalid_request", "prompt_too_long", "not_utf8"
MESSAGE = {"role": "user", "content": "a"}
# What is wrong: parameters, code, what the message names.
BAD_PARAMETERS: dict[str, list[tuple[Any, str, str]]] = {
    "empty-prompt": [
        ({}, INVALID, "exactly one"),
        ({"prompt": ""}, INVALID, "empty"),
        ({"token_ids": []}, INVALID, "empty"),
        ({"messages": []}, INVALID, "messages"),
    ],
    "out-of-range": [
        ({"prompt": "a", "token_ids": [2]}, INVALID, "exactly one"),
        ({"token_ids": [2, 10]}, INVALID, "vocabulary"),
        ({**GOOD, "temperature": -0.5}, INVALID, "temperature"),
        ({**GOOD, "temperature": 100.5}, INVALID, "temperature"),
        ({**GOOD, "top_p": 0}, INVALID, "top_p"),
        ({**GOOD, "top_p": 1.5}, INVALID, "top_p"),
        ({**GOOD, "min_p": 2}, INVALID, "min_p"),
        ({**GOOD, "typical_p": 0.0}, INVALID, "typical_p"),
        ({**GOOD, "stop": ""}, INVALID, "stop"),
        ({**GOOD, "stop": []}, INVALID, "stop"),
        ({**GOOD, "repetition_penalty": 0}, INVALID, "repetition_penalty"),
        ({**GOOD, "repetition_penalty": 10.5}, INVALID, "repetition_penalty"),
        ({**GOOD, "presence_penalty": 2.5}, INVALID, "presence_penalty"),
        ({**GOOD, "frequency_penalty": -2.5}, INVALID, "frequency_penalty"),
        ({**GOOD, "logit_bias": {2: 101}}, INVALID, "logit_bias"),
        ({**GOOD, "logit_bias": {10: 1.0}}, INVALID, "vocabulary"),
        ({**GOOD, "min_tokens": 1, "stop_token_ids": list(range(10))}, INVALID, "min_tokens"),
        ({**GOOD, "n": 0}, INVALID, "n is not an integer from 1 to 16"),
        ({**GOOD, "n": 17}, INVALID, "n is not an integer from 1 to 16"),
        ({**GOOD, "max_tokens": 4, "min_tokens": 5}, INVALID, "min_tokens"),
        ({**GOOD, "priority": 101}, INVALID, "priority"),
    ],
    "deadline-over": [
        ({**GOOD, "deadline_ms": 0}, INVALID, "deadline_ms"),
        ({**GOOD, "deadline_ms": -1000}, INVALID, "deadline_ms"),
        ({**GOOD, "deadline_ms": -0.5}, INVALID, "deadline_ms"),
    ],
    "wrong-type": [
        ({"prompt": 5}, INVALID, "prompt"),
        ({"prompt": None}, INVALID, "prompt"),
        ({"prompt": b"abc"}, INVALID, "prompt"),
        ({"messages": "a"}, INVALID, "messages"),
        ({"messages": [{"role": "user"}]}, INVALID, "content"),
        ({"messages": [{"role": 1, "content": "a"}]}, INVALID, "role"),
        ({"token_ids": ["2"]}, INVALID, "token_ids"),
        ({"token_ids": {"2": 2}}, INVALID, "token_ids"),
        ({**GOOD, "model": 5}, INVALID, "model"),
        ({**GOOD, "max_tokens": 1.5}, INVALID, "max_tokens"),
        ({**GOOD, "max_tokens": "8"}, INVALID, "max_tokens"),
        ({**GOOD, "max_tokens": True}, INVALID, "max_tokens"),
        ({**GOOD, "temperature": "hot"}, INVALID, "temperature"),
        ({**GOOD, "seed": 0.5}, INVALID, "seed"),
        ({**GOOD, "stop": [5]}, INVALID, "stop"),
        ({**GOOD, "stop_token_ids": "2"}, INVALID, "stop_token_ids"),
        ({**GOOD, "echo": 1}, INVALID, "echo"),
        ({**GOOD, "ignore_eos": "yes"}, INVALID, "ignore_eos"),
        ({**GOOD, "repetition_penalty": "1"}, INVALID, "repetition_penalty"),
        ({**GOOD, "logit_bias": [2, 1.0]}, INVALID, "logit_bias"),
        ({**GOOD, "logit_bias": {"two": 1.0}}, INVALID, "logit_bias"),
        ({**GOOD, "logit_bias": {2: "1"}}, INVALID, "logit_bias"),
        ({**GOOD, "n": 1.5}, INVALID, "n"),
        ({**GOOD, "priority": 0.5}, INVALID, "priority"),
        ({**GOOD, "deadline_ms": "soon"}, INVALID, "deadline_ms"),
        ([], INVALID, "parameters"),
        (None, INVALID, "parameters"),
    ],
    "not-utf8": [
        ({"prompt": "a\udcff"}, NOT_UTF8, "prompt"),
        ({"prompt": "a\udced\udca0\udc80"}, NOT_UTF8, "prompt"),  # a surrogate
        ({"prompt": "a\udcc0\udc80"}, NOT_UTF8, "prompt"),        # an overlong NUL
        ({"messages": [{**MESSAGE, "content": "\udcff"}]}, NOT_UTF8, "content"),
        ({**GOOD, "stop": "\udcff"}, NOT_UTF8, "stop"),
    ],
    "unknown-key": [
        ({"messages": [{**MESSAGE, "names": "x"}]}, INVALID, "messages"),
        ({**GOOD, "top_q": 1}, INVALID, "top_q"),
        ({**GOOD, 5: 1}, INVALID, ""),
    ],
    "negative-or-huge": [
        ({"messages": [MESSAGE] * 1025}, INVALID, "messages"),
        ({"token_ids": [-1]}, INVALID, "token_ids"),
        ({"token_ids": [2 ** 32]}, INVALID, "token_ids"),
        ({**GOOD, "max_tokens": -1}, INVALID, "max_tokens"),
        ({**GOOD, "max_tokens": 2 ** 40}, INVALID, "max_tokens"),
        ({**GOOD, "max_tokens": -(2 ** 63)}, INVALID, "max_tokens"),
        ({**GOOD, "top_k": 2 ** 64 - 1}, INVALID, "top_k"),
        ({**GOOD, "stop_token_ids": [2 ** 64 - 1]}, INVALID, "stop_token_ids"),
        ({**GOOD, "top_k": -1}, INVALID, "top_k"),
        ({**GOOD, "seed": -1}, INVALID, "seed"),
        ({**GOOD, "logprobs": 33}, INVALID, "logprobs"),
        ({**GOOD, "prompt_logprobs": -1}, INVALID, "prompt_logprobs"),
    ],
    "too-long": [
        ({"token_ids": [2] * (models.TINY_CONTEXT + 1)}, TOO_LONG, str(models.TINY_CONTEXT)),
        ({"token_ids": [2] * models.TINY_CONTEXT}, TOO_LONG, str(models.TINY_CONTEXT)),
        ({"prompt": "ab" * models.TINY_CONTEXT + "a"}, TOO_LONG, str(models.TINY_CONTEXT)),
        ({"prompt": "a" * ((1 << 20) + 1)}, TOO_LONG, "bytes"),
    ],
    "unknown-model": [
        ({**GOOD, "model": "other"}, "unknown_model", "other"),
    ],
    "nan-or-inf": [
        ({**GOOD, "temperature": math.nan}, INVALID, "temperature"),
        ({**GOOD, "temperature": math.inf}, INVALID, "temperature"),
        ({**GOOD, "top_p": math.nan}, INVALID, "top_p"),
        ({**GOOD, "min_p": math.nan}, INVALID, "min_p"),
        ({**GOOD, "typical_p": math.nan}, INVALID, "typical_p"),
        ({**GOOD, "max_tokens": math.nan}, INVALID, "max_tokens"),
        ({**GOOD, "seed": math.inf}, INVALID, "seed"),
        *[({**GOOD, f"{name}_penalty": value}, INVALID, f"{name}_penalty")
          for name in ("repetition", "presence", "frequency") for value in (math.nan, math.inf)],
        ({**GOOD, "logit_bias": {2: math.nan}}, INVALID, "logit_bias"),
        ({**GOOD, "deadline_ms": math.nan}, INVALID, "deadline_ms"),
    ],
    "lists-too-long": [
        ({**GOOD, "stop_token_ids": [2] * 1025}, INVALID, "stop_token_ids"),
        ({**GOOD, "logit_bias": {i: 1.0 for i in range(1025)}}, INVALID, "logit_bias"),
        ({**GOOD, "stop": [f"stop {i}" for i in range(10_000)]}, INVALID, "stop"),
        ({**GOOD, "stop": ["a"] * 17}, INVALID, "stop"),
        ({**GOOD, "stop": "a" * 257}, INVALID, "stop"),
    ],
}


@pytest.mark.parametrize("parameters, code, names", [
    pytest.param(*row, id=f"{name}-{i}") for name, rows in BAD_PARAMETERS.items()
    for i, row in enumerate(rows)])
def test_bad_parameters(front, witness, parameters, code, names):
    with rising(witness, {"rejected": 1, f"errors.{code}": 1}):
        answer = front.ask(not_utf8([1, protocol.SUBMIT, "bad", parameters]))
    assert answer[:4] == [1, protocol.ERROR, "bad", code]
    message, retryable, committed, retry_after_ms = answer[4:]
    assert names in message and len(message) < 400 and "\n" not in message
    assert (retryable, committed, retry_after_ms) == (False, 0, None)
    assert_serves(front)


def test_a_key_that_comes_twice(front):
    message = msgpack.packb([1, protocol.SUBMIT, "bad"])
    message = b"\x94" + message[1:] + b"\x82" + 2 * (msgpack.packb("prompt") + msgpack.packb("a"))
    assert front.ask(message)[1:4] == [protocol.ERROR, "bad", INVALID]
    assert_serves(front)


def test_a_duplicate_request_id(front, witness):
    long = {**GOOD, "max_tokens": 3000, "ignore_eos": True}
    front.send(msgpack.packb([1, protocol.SUBMIT, "twice", long]))
    front.send(msgpack.packb([1, protocol.SUBMIT, "twice", GOOD]))
    seen: list[Any] = []
    while not seen or seen[-1][1] != protocol.DONE:
        seen.append(front.receive())
        if seen[-1][1] == protocol.ERROR:
            front.send(msgpack.packb([1, protocol.CANCEL, "twice"]))
    errors = [message for message in seen if message[1] == protocol.ERROR]
    assert [error[2:4] for error in errors] == [[None, "duplicate_id"]]
    assert seen[-1][3]["finish_reason"] == "cancelled"
    assert counts(witness)["errors.duplicate_id"] >= 1


@pytest.mark.parametrize("n, tokens, names", [
    (2, {"token_ids": [3]}, "choices"),
    (2, {"choices": [[3]]}, "choices"),
    (2, {"choices": [[3], [3], [3]]}, "choices"),
    (2, {"choices": [[3], [3]], "token_ids": [3]}, "progress"),
    (2, {"choices": [[3], [10]]}, "vocabulary"),
    (1, {"choices": [[3]]}, "token_ids"),
])
def test_a_resume_with_other_choices_than_it_asks_for(front, witness, n, tokens, names):
    fingerprint = witness.status()["fingerprint"]
    progress = {"prompt_ids": [2, 3], **tokens, "seed": 1, "fingerprint": fingerprint}
    answer = front.ask([1, protocol.RESUME, "bad", 1, {**GOOD, "n": n}, progress])
    assert answer[1:4] == [protocol.ERROR, "bad", INVALID] and names in answer[4]
    assert_serves(front)


# ---- messages ----

MALFORMED_MAX = 128  # then a peer is in quarantine


def assert_error(answer: Any) -> None:
    version, kind, _, code, message, retryable, committed, _ = answer
    assert (version, kind, retryable, committed) == (1, protocol.ERROR, False, 0)
    assert code in ("malformed", INVALID, NOT_UTF8) and message


def test_truncated_recursive_and_other_msgpack(front, witness):
    with rising(witness, {"rejected": len(NO_MESSAGES), "front_malformed": len(NO_MESSAGES) // 2}):
        for message in NO_MESSAGES:
            assert_error(front.ask(message))
    assert_serves(front)


def test_truncated_anywhere(tiny_cluster):
    resume = msgpack.packb([1, protocol.RESUME, "id", 1, GOOD, {
        "prompt_ids": [2, 3], "token_ids": [4], "seed": 1, "fingerprint": "0" * 16}])
    for message in (SUBMIT, resume):
        for first in range(0, len(message), 100):  # fewer than bring a peer into quarantine
            with RawSocket(tiny_cluster.endpoints["front"]) as front:
                for length in range(first, min(first + 100, len(message))):
                    assert_error(front.ask(message[:length]))
                assert_serves(front)


def test_who_sends_only_garbage_is_not_read_for_a_while(tiny_cluster, front, witness):
    """Its running request goes on; what it says is not heard, what others say is."""
    with RawSocket(tiny_cluster.endpoints["front"]) as peer:
        peer.send(msgpack.packb([1, protocol.SUBMIT, "id", {**GOOD, "max_tokens": 20}]))
        with rising(witness, {"front_malformed": MALFORMED_MAX, "front_quarantined": 20}):
            for _ in range(MALFORMED_MAX + 20):
                peer.send(b"\xc1")
        kinds = [peer.receive()[1]]
        while kinds[-1] != protocol.DONE:
            kinds.append(peer.receive()[1])
        assert kinds.count(protocol.ERROR) <= MALFORMED_MAX
        assert_serves(front)


def test_messages_with_a_byte_changed(front):
    """Whatever is still a request is answered as one: exactly one DONE or ERROR each."""
    rng = random.Random(3)
    for number in range(200):
        message = bytearray(msgpack.packb([1, protocol.SUBMIT, "id", {
            **GOOD, "stop": ["x"], "temperature": 0.5, "seed": 2 ** 33, "logprobs": 2}]))
        message[rng.randrange(len(message))] = rng.randrange(256)
        front.send(bytes(message))
        while (answer := front.receive())[1] not in (protocol.DONE, protocol.ERROR, protocol.PONG,
                                                     protocol.STATUS):
            assert answer[1] in (protocol.ACCEPTED, protocol.PIECE, protocol.PROMPT_PIECE), number
    assert_serves(front)


def test_a_message_of_several_parts(front, witness):
    with rising(witness, {"front_malformed": 1}):
        front.send(SUBMIT[:10], SUBMIT[10:])
    assert_serves(front)
