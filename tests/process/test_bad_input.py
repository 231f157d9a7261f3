"""Requests and bytes that are wrong: an error to that client, and nobody else notices.

Beside every test a witness runs: another client's answer, which must come out bit for bit.
"""

from __future__ import annotations

import math
import random
import socket
from typing import Any

import crc32c
import models
import msgpack
import pytest
import zmq
from answers import Answer, of_generation
from chatloop import Client, protocol
from cluster import wait_until
from raw_socket import RawSocket

WITNESS = {"token_ids": [2, 3, 4, 5, 6], "ignore_eos": True, "max_tokens": 150, "logprobs": 1,
           "temperature": 0.9, "seed": 11}
GOOD = {"token_ids": [2, 3], "max_tokens": 2}
EXIT_CONFIG = 64


@pytest.fixture(scope="module")
def witness_answer(tiny_cluster) -> Answer:
    return of_generation(tiny_cluster.client().generate(**WITNESS))


@pytest.fixture(autouse=True)
def witness(tiny_cluster, witness_answer):
    with Client(tiny_cluster.endpoints["front"], timeout_s=60.0) as client:
        with client.stream(**WITNESS) as stream:
            next(stream)
            yield client
            for _ in stream:
                pass
            assert of_generation(stream.result) == witness_answer
    assert all(process.exit_code is None for process in tiny_cluster.processes.values())


@pytest.fixture
def front(tiny_cluster):
    with RawSocket(tiny_cluster.endpoints["front"]) as socket_:
        yield socket_


def assert_serves(front: RawSocket) -> None:
    """The same client's next request is answered: whatever came before did not harm its link."""
    front.send(msgpack.packb([1, protocol.SUBMIT, "good", GOOD]))
    while (message := front.receive())[1] != protocol.DONE:
        assert message[1] != protocol.ERROR, message
    assert message[2] == "good"


def not_utf8(value: Any) -> bytes:
    """msgpack with \\udcff written as the byte 0xff."""
    return msgpack.packb(value, unicode_errors="surrogateescape")


# ---- parameters ----

INVALID, TOO_LONG, NOT_UTF8 = "invalid_request", "prompt_too_long", "not_utf8"
MESSAGE = {"role": "user", "content": "a"}
# parameters, code, what the message names
BAD_PARAMETERS: list[tuple[Any, str, str]] = [
    ({}, INVALID, "exactly one"),
    ({"prompt": "a", "token_ids": [2]}, INVALID, "exactly one"),
    ({"prompt": ""}, INVALID, "empty"),
    ({"token_ids": []}, INVALID, "empty"),
    ({"messages": []}, INVALID, "messages"),
    ({"prompt": 5}, INVALID, "prompt"),
    ({"prompt": None}, INVALID, "prompt"),
    ({"prompt": b"abc"}, INVALID, "prompt"),
    ({"prompt": "a\udcff"}, NOT_UTF8, "prompt"),
    ({"prompt": "a\udced\udca0\udc80"}, NOT_UTF8, "prompt"),  # a surrogate
    ({"prompt": "a\udcc0\udc80"}, NOT_UTF8, "prompt"),        # an overlong NUL
    ({"messages": [{**MESSAGE, "content": "\udcff"}]}, NOT_UTF8, "content"),
    ({"messages": "a"}, INVALID, "messages"),
    ({"messages": [{"role": "user"}]}, INVALID, "content"),
    ({"messages": [{**MESSAGE, "name": "x"}]}, INVALID, "messages"),
    ({"messages": [{"role": 1, "content": "a"}]}, INVALID, "role"),
    ({"messages": [MESSAGE] * 1025}, INVALID, "messages"),
    ({"token_ids": [2, 10]}, INVALID, "vocabulary"),
    ({"token_ids": [-1]}, INVALID, "token_ids"),
    ({"token_ids": ["2"]}, INVALID, "token_ids"),
    ({"token_ids": [2 ** 32]}, INVALID, "token_ids"),
    ({"token_ids": {"2": 2}}, INVALID, "token_ids"),
    ({"token_ids": [2] * (models.TINY_CONTEXT + 1)}, TOO_LONG, str(models.TINY_CONTEXT)),
    ({"token_ids": [2] * models.TINY_CONTEXT}, TOO_LONG, str(models.TINY_CONTEXT)),
    ({"prompt": "ab" * models.TINY_CONTEXT + "a"}, TOO_LONG, str(models.TINY_CONTEXT)),
    ({"prompt": "a" * ((1 << 20) + 1)}, TOO_LONG, "bytes"),
    ({**GOOD, "model": "other"}, "unknown_model", "other"),
    ({**GOOD, "model": 5}, INVALID, "model"),
    ({**GOOD, "max_tokens": -1}, INVALID, "max_tokens"),
    ({**GOOD, "max_tokens": 1.5}, INVALID, "max_tokens"),
    ({**GOOD, "max_tokens": "8"}, INVALID, "max_tokens"),
    ({**GOOD, "max_tokens": True}, INVALID, "max_tokens"),
    ({**GOOD, "max_tokens": 2 ** 40}, INVALID, "max_tokens"),
    ({**GOOD, "temperature": -0.5}, INVALID, "temperature"),
    ({**GOOD, "temperature": 100.5}, INVALID, "temperature"),
    ({**GOOD, "temperature": math.nan}, INVALID, "temperature"),
    ({**GOOD, "temperature": math.inf}, INVALID, "temperature"),
    ({**GOOD, "temperature": "hot"}, INVALID, "temperature"),
    ({**GOOD, "top_p": 0}, INVALID, "top_p"),
    ({**GOOD, "top_p": 1.5}, INVALID, "top_p"),
    ({**GOOD, "top_k": -1}, INVALID, "top_k"),
    ({**GOOD, "min_p": 2}, INVALID, "min_p"),
    ({**GOOD, "typical_p": 0.0}, INVALID, "typical_p"),
    ({**GOOD, "seed": -1}, INVALID, "seed"),
    ({**GOOD, "seed": 0.5}, INVALID, "seed"),
    ({**GOOD, "stop": ""}, INVALID, "stop"),
    ({**GOOD, "stop": []}, INVALID, "stop"),
    ({**GOOD, "stop": ["a"] * 17}, INVALID, "stop"),
    ({**GOOD, "stop": "a" * 257}, INVALID, "stop"),
    ({**GOOD, "stop": [5]}, INVALID, "stop"),
    ({**GOOD, "stop": "\udcff"}, NOT_UTF8, "stop"),
    ({**GOOD, "stop_token_ids": "2"}, INVALID, "stop_token_ids"),
    ({**GOOD, "echo": 1}, INVALID, "echo"),
    ({**GOOD, "ignore_eos": "yes"}, INVALID, "ignore_eos"),
    ({**GOOD, "logprobs": 33}, INVALID, "logprobs"),
    ({**GOOD, "prompt_logprobs": -1}, INVALID, "prompt_logprobs"),
    ({**GOOD, "top_q": 1}, INVALID, "top_q"),
    ({**GOOD, 5: 1}, INVALID, ""),
    ([], INVALID, "parameters"),
    (None, INVALID, "parameters"),
]


@pytest.mark.parametrize("parameters, code, names", BAD_PARAMETERS,
                         ids=lambda value: str(value)[:60] if isinstance(value, dict) else "")
def test_bad_parameters(front, parameters, code, names):
    answer = front.ask(not_utf8([1, protocol.SUBMIT, "bad", parameters]))
    assert answer[:4] == [1, protocol.ERROR, "bad", code]
    message, retryable, committed = answer[4:]
    assert names in message and len(message) < 400 and "\n" not in message
    assert (retryable, committed) == (False, 0)
    assert_serves(front)


def test_a_key_that_comes_twice(front):
    message = msgpack.packb([1, protocol.SUBMIT, "bad"])
    message = b"\x94" + message[1:] + b"\x82" + 2 * (msgpack.packb("prompt") + msgpack.packb("a"))
    assert front.ask(message)[1:4] == [protocol.ERROR, "bad", INVALID]
    assert_serves(front)


def test_an_id_that_runs_already(front):
    long = {**GOOD, "max_tokens": 3000, "ignore_eos": True}
    front.send(msgpack.packb([1, protocol.SUBMIT, "twice", long]))
    front.send(msgpack.packb([1, protocol.SUBMIT, "twice", GOOD]))
    seen = []
    while not seen or seen[-1][1] != protocol.DONE:
        seen.append(front.receive())
        if seen[-1][1] == protocol.ERROR:
            front.send(msgpack.packb([1, protocol.CANCEL, "twice"]))
    errors = [message for message in seen if message[1] == protocol.ERROR]
    assert [error[2:4] for error in errors] == [[None, "duplicate_id"]]
    assert seen[-1][3]["finish_reason"] == "cancelled"


# ---- messages ----

SUBMIT = msgpack.packb([1, protocol.SUBMIT, "id", GOOD])
DEEP = b"\x91" * 1000 + b"\xc0"
# A map32 and an array32 of four billion elements that are not there.
PROMISES = [b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff\x01"]
NO_MESSAGES = [
    b"", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, DEEP, *PROMISES, SUBMIT + b"\x00",
    *(msgpack.packb(value) for value in (
        None, 5, "text", [], {}, [1], [1, 99], [1, "1", "id", GOOD],
        [2, protocol.SUBMIT, "id", GOOD],
        [1, protocol.ACCEPTED, "id", {}], [1, protocol.SUBMIT], [1, protocol.SUBMIT, "id"],
        [1, protocol.SUBMIT, "id", GOOD, 0], [1, protocol.SUBMIT, 5, GOOD],
        [1, protocol.SUBMIT, "i" * 129, GOOD], [1, protocol.CANCEL], [1, protocol.CANCEL, 7],
        [1, protocol.PING], [1, protocol.PING, -1], [1, protocol.STATUS_QUERY, 1],
        [1, protocol.RESUME, "id", 1, GOOD], [1, protocol.SUBMIT, msgpack.ExtType(1, b"x"), GOOD],
    )),
]


def assert_error(answer: Any) -> None:
    version, kind, _, code, message, retryable, committed = answer
    assert (version, kind, retryable, committed) == (1, protocol.ERROR, False, 0)
    assert code in ("malformed", INVALID, NOT_UTF8) and message


def test_no_messages(front):
    for message in NO_MESSAGES:
        assert_error(front.ask(message))
    assert_serves(front)


def test_messages_cut_anywhere(front):
    resume = msgpack.packb([1, protocol.RESUME, "id", 1, GOOD, {
        "prompt_ids": [2, 3], "token_ids": [4], "seed": 1, "fingerprint": "0" * 16}])
    for message in (SUBMIT, resume):
        for length in range(len(message)):
            assert_error(front.ask(message[:length]))
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


def test_a_message_of_several_parts(front):
    front.send(SUBMIT[:10], SUBMIT[10:])
    assert_serves_eventually(front)


def test_a_message_beyond_the_bound_costs_the_link_only(tiny_cluster, front):
    front.send(b"\xc4" * (5 << 20))  # the router's socket closes the connection
    with RawSocket(tiny_cluster.endpoints["front"]) as another:
        assert_serves(another)


def assert_serves_eventually(front: RawSocket) -> None:
    """As assert_serves, whether or not an error came before."""
    front.send(msgpack.packb([1, protocol.PING, 5]))
    answer = front.receive()
    if answer[1] == protocol.ERROR:
        answer = front.receive()
    assert answer[1:3] == [protocol.PONG, 5]
    assert_serves(front)


# ---- every socket of every process ----

SOCKETS = {"front": zmq.DEALER, "ctrl": zmq.DEALER, "result": zmq.PUSH, "stage-0": zmq.PUSH,
           "stage-1": zmq.PUSH, "sampler": zmq.PUSH}


def endpoint_of(cluster, name: str) -> str:
    return cluster.endpoints.get(name) or cluster.listens_at(name)


def hello(**changes: Any) -> bytes:
    """HELLO of a stage worker that belongs to another cluster."""
    body = {"name": "stranger", "roles": 1, "layer_first": 0, "layer_end": 2, "layers": 4,
            "width": 64, "vocab": 10, "endpoint": "tcp://127.0.0.1:1", "model_id": "0" * 32,
            "cut_id": "0" * 16, "fingerprint": 1, "kernels": "avx2", "self_test": 1,
            "share": [32, 64 << 20, 8, 100], **changes}
    return msgpack.packb([1, 1, 77, 1, *body.values()])


def frame(kind: int) -> bytes:
    """A data frame (1) or RESULT (2) with a valid header, of a router that nobody knows."""
    def u8(value: int) -> bytes: return b"\xcc" + bytes([value])
    def u32(value: int) -> bytes: return b"\xce" + value.to_bytes(4, "big")
    def u64(value: int) -> bytes: return b"\xcf" + value.to_bytes(8, "big")

    head = (b"\x9f" if kind == 1 else b"\x9c") + u8(1) + u8(kind) + u64(123) + u64(1) + u64(1)
    head += u8(0) + u64(456) + u32(0)
    assert len(head) == 48
    return head + u32(crc32c.crc32c(head)) + msgpack.packb({}) + b"garbage"


def garbage() -> list[bytes]:
    rng = random.Random(7)
    noise = [rng.randbytes(rng.randrange(400)) for _ in range(100)]
    frames = [frame(1), frame(2), frame(1)[:53], frame(1)[:40], b"\x9f" * 200]
    control = [hello()[:length] for length in range(0, len(hello()), 5)]
    return [*NO_MESSAGES, *noise, *frames, *control, SUBMIT[:-1], rng.randbytes(1 << 19)]


@pytest.mark.parametrize("name", SOCKETS)
def test_garbage(tiny_cluster, name):
    with RawSocket(endpoint_of(tiny_cluster, name), SOCKETS[name]) as peer:
        for message in garbage():
            peer.send(message)
        peer.send(b"two", b"parts")
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        assert_serves(front)


@pytest.mark.parametrize("name", SOCKETS)
def test_bytes_that_are_not_zeromq(tiny_cluster, name):
    host, port = endpoint_of(tiny_cluster, name).removeprefix("tcp://").split(":")
    for opening in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500,
                    b"\xff" + b"\x00" * 8 + b"\x7f\x03", b""):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(opening)
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        assert_serves(front)


# ---- workers that do not belong here ----

UNKNOWN, REJECT = 38, 34


def test_a_stranger_on_ctrl(tiny_cluster):
    with RawSocket(tiny_cluster.endpoints["ctrl"], routing_id=b"worker:stranger:4d") as ctrl:
        beat = msgpack.packb([1, 6, 77, 1, 2, 0, 0, 0, []])
        assert ctrl.ask(beat)[1] == UNKNOWN
        answer = ctrl.ask(hello())
        assert answer[1] == REJECT and "model" in answer[5] and answer[6] is False


@pytest.mark.parametrize("seed, partitions", [(1, 2), (0, 3)], ids=["model", "cut"])
def test_a_worker_of_another(tiny_cluster, tmp_path, seed, partitions):
    """It ends with the configuration's exit code and says why; the cluster stays as it is."""
    model = models.split_tiny(tmp_path, partitions, seed=seed)
    stranger = tiny_cluster.start_worker(f"stranger-{seed}-{partitions}", "chatloop-stage",
                                         "--partition", 0, model=model)
    try:
        wait_until(lambda: stranger.exit_code is not None, 20, "the stranger ends")
        assert stranger.exit_code == EXIT_CONFIG, stranger.messages()
        assert stranger.messages()[-1].startswith("chatloop-stage: ")
    finally:
        stranger.kill()
        del tiny_cluster.processes[stranger.name]
