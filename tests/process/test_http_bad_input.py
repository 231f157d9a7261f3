"""What clients get wrong over HTTP: the right status in OpenAI's shape, and nobody else notices."""

from __future__ import annotations

import json
import socket
import time

import models
import pytest
from cluster import Cluster
from http_peer import HttpPeer, RawHttp, post_bytes
from process_info import cpu_s

GOOD = {"prompt": "The sea", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def peer(http_cluster):
    """And an answer of another client, amid which it happens and which must come out the same."""
    with HttpPeer(http_cluster.endpoints["http"]) as peer, HttpPeer(
            http_cluster.endpoints["http"]) as other:
        asked = {**GOOD, "max_tokens": 30}
        want = peer.post("/v1/completions", asked).json["choices"][0]["text"]
        lines = other.stream("/v1/completions", {**asked, "stream": True})
        first = next(lines)
        yield peer
        events = [json.loads(line[6:]) for line in [first, *lines]
                  if line.startswith("data: {")]
        assert "".join(event["choices"][0]["text"] for event in events) == want
        assert peer.post("/v1/completions", asked).json["choices"][0]["text"] == want


WRONG = [
    ("prompt", None, "prompt"), ("prompt", 3, "prompt"), ("prompt", [], "prompt"),
    ("prompt", [[]], "prompt"), ("prompt", [-1], "prompt"), ("prompt", [1.5], "prompt"),
    ("prompt", ["a", 3], "prompt"), ("prompt", {"a": 1}, "prompt"),
    ("prompt", [2**32], "prompt"), ("prompt", ["a"] * 257, "prompt"),
    ("max_tokens", "3", "max_tokens"), ("max_tokens", -1, "max_tokens"),
    ("max_tokens", 1.5, "max_tokens"), ("max_tokens", True, "max_tokens"),
    ("max_tokens", 1e300, "max_tokens"), ("max_tokens", 2**63, "max_tokens"),
    ("temperature", "hot", "temperature"), ("temperature", -0.1, "temperature"),
    ("top_p", 0, "top_p"), ("top_p", 1.1, "top_p"), ("top_p", [0.5], "top_p"),
    ("n", 0, "n"), ("n", 17, "n"), ("n", "2", "n"), ("seed", "x", "seed"), ("seed", 0.5, "seed"),
    ("stop", 7, "stop"), ("stop", [""], "stop"), ("stop", ["a"] * 17, "stop"),
    ("stop", ["a", 7], "stop"), ("stop", "x" * 257, "stop"),
    ("logit_bias", [1], "logit_bias"), ("logit_bias", {"a": 1}, "logit_bias"),
    ("logit_bias", {"1": 101}, "logit_bias"), ("logit_bias", {"1": "1"}, "logit_bias"),
    ("logprobs", True, "logprobs"), ("logprobs", 21, "logprobs"),
    ("frequency_penalty", 3, "frequency_penalty"), ("presence_penalty", {}, "presence_penalty"),
    ("stream", "yes", "stream"), ("stream_options", 1, "stream_options"),
    ("echo", 1, "echo"), ("suffix", "x", "suffix"), ("best_of", 3, "best_of"),
    ("model", 7, "model"), ("stop_token_ids", ["a"], "stop_token_ids"),
    ("priority", 101, "priority"), ("deadline_ms", 0, "deadline_ms"),
    ("ignore_eos", 0, "ignore_eos"), ("response_format", "json", "response_format.type"),
    ("response_format", {"type": "xml"}, "response_format.type"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema.schema"),
    ("regex", 7, "regex"), ("choice", "a", "choice"), ("json_schema", "a", "json_schema"),
]


@pytest.mark.parametrize("field, value, param", WRONG)
def test_a_wrong_field_is_named(http_cluster, field, value, param):
    with HttpPeer(http_cluster.endpoints["http"]) as peer:
        refused = peer.post("/v1/completions", {**GOOD, field: value})
        assert refused.status == 400, refused.body
        assert refused.error["param"] == param
        assert refused.error["type"] == "invalid_request_error"
        assert refused.headers["x-should-retry"] == "false"


WRONG_CHATS = [
    (None, "messages"), ([], "messages"), ("Hi", "messages"), ({}, "messages"),
    (["Hi"], "messages[0].role"), ([{"content": "Hi"}], "messages[0].role"),
    ([{"role": "king", "content": "Hi"}], "messages[0].role"),
    ([*CHAT, {"role": "user", "content": 7}], "messages[1].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
     "messages[0].content[0]"),
    ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]"),
    (CHAT * 1025, "messages"),
]


@pytest.mark.parametrize("messages, param", WRONG_CHATS)
def test_a_wrong_message_is_named(http_cluster, messages, param):
    with HttpPeer(http_cluster.endpoints["http"]) as peer:
        refused = peer.post("/v1/chat/completions", {"messages": messages})
        assert refused.status == 400, refused.body
        assert refused.error["param"] == param


def test_what_only_the_router_knows(peer):
    unknown = peer.post("/v1/completions", {**GOOD, "model": "gpt-4"})
    assert unknown.status == 404 and unknown.error["code"] == "model_not_found"
    assert unknown.error["param"] == "model"
    long = peer.post("/v1/completions", {**GOOD, "prompt": "word " * 20000})
    assert long.status == 400 and long.error["code"] == "context_length_exceeded"
    longer = peer.post("/v1/completions", {**GOOD, "prompt": "a" * (4 << 20)})
    assert longer.status == 400 and longer.error["code"] == "context_length_exceeded"
    assert peer.post("/v1/completions", {**GOOD, "prompt": [999999]}).status == 400
    assert peer.post("/v1/completions", {**GOOD, "logit_bias": {"999999": 1}}).status == 400
    late = peer.post("/v1/completions", {**GOOD, "max_tokens": 4000, "deadline_ms": 50})
    assert late.status == 408 and late.error["code"] == "deadline_exceeded"
    assert late.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [
    b"", b"{", b"null", b"[]", b'"text"', b"{}{}", b'{"prompt": "a",}', b"{'prompt': 'a'}",
    b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}', b"\x00" * 100, b"\xef\xbb\xbf[1]",
    b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 100_000,
    b'{"prompt": [' + b"1," * 500_000 + b"1]}",
    b"{" + b",".join(b'"k%d": 1' % i for i in range(2000)) + b"}",
], ids=range(16))
def test_bodies_that_are_no_json_object(http_cluster, body):
    with HttpPeer(http_cluster.endpoints["http"]) as peer:
        refused = peer.post("/v1/completions", body)
        assert refused.status == 400, refused.body
        assert refused.error["code"] == "invalid_json"


BOMB = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}"


def test_a_template_bomb_runs_out_of_fuel(build, tmp_path):
    """Of the model: what is asked of it by a chat is refused, and nobody waits for it."""
    model = models.split_tiny(tmp_path / "bomb", 2, keys={"tokenizer.chat_template": BOMB})
    with Cluster(build, model, tmp_path / "run", router=["--http", "127.0.0.1:*"]) as cluster:
        with HttpPeer(cluster.endpoints["http"]) as peer, HttpPeer(
                cluster.endpoints["http"]) as other:
            asked = {**GOOD, "prompt": [2, 3, 4], "max_tokens": 100}
            want = peer.post("/v1/completions", asked).json["choices"][0]["text"]
            lines = other.stream("/v1/completions", {**asked, "stream": True})
            first = next(lines)
            for path in ("/v1/chat/completions", "/apply-template", "/tokenize"):
                refused = peer.post(path, {"messages": CHAT})
                assert refused.status == 400, refused.body
                assert refused.error["code"] == "invalid_request"
                assert "too much work" in refused.error["message"]
            events = [json.loads(line[6:]) for line in [first, *lines]
                      if line.startswith("data: {")]
            assert "".join(event["choices"][0]["text"] for event in events) == want
        cluster.stop()


def test_a_body_that_is_too_large(peer):
    refused = peer.post("/v1/completions", b"x" * ((8 << 20) + 1))
    assert refused.status == 413 and refused.error["code"] == "body_too_large"
    assert peer.get("/healthz").status == 200  # on the same connection


REQUEST = "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
GARBAGE = {
    "both lengths": REQUEST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": REQUEST + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "negative length": REQUEST + "Content-Length: -5\r\n\r\nabcde",
    "length with sign": REQUEST + "Content-Length: +5\r\n\r\nabcde",
    "huge length": REQUEST + "Content-Length: 18446744073709551617\r\n\r\nabcde",
    "no length": REQUEST + "Content-Length: five\r\n\r\nabcde",
    "strange encoding": REQUEST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": REQUEST + "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "negative chunk": REQUEST + "Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n",
    "no host": "GET /healthz HTTP/1.1\r\n\r\n",
    "not http": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\x00" * 200 + "\r\n\r\n",
    "no version": "GET /healthz\r\n\r\n",
    "spaces": "GET  /healthz  HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul in header": "GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    "pipelined garbage": "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + "\x01\x02\x03garbage\r\n" * 50
                         + "\r\n\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_bytes_that_are_no_request_end_their_connection(http_cluster, what):
    with HttpPeer(http_cluster.endpoints["http"]) as peer, RawHttp(peer.address) as raw:
        raw.send(GARBAGE[what].encode("latin-1"))
        raw.half_close()
        answer = raw.until_closed()
        lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        if what in ("both lengths", "two lengths", "negative length"):
            assert lines and lines[0].startswith(b"HTTP/1.1 400")
        for line in lines[1:] if what == "pipelined garbage" else lines:
            assert line.split()[1][:1] in (b"4", b"5") or what in ("nul in header", "spaces"), line
        assert peer.get("/healthz").status == 200


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
WRAPPINGS = {  # what a proxy in front may take for the length of a body
    "both": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            % (len(SMUGGLED) + 5),
    "space before the colon": b"Content-Length : %d\r\n\r\n" % len(SMUGGLED),
    "folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n%x\r\n" % len(SMUGGLED),
    "none": b"\r\n",
}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("what", WRAPPINGS)
def test_a_smuggled_request_is_not_served(http_cluster, what, method):
    """The second request would be the body of the first for a proxy in front."""
    if method == "GET" and what == "none":
        return  # two requests, for everybody
    with HttpPeer(http_cluster.endpoints["http"]) as peer, RawHttp(peer.address) as raw:
        raw.send(REQUEST.encode().replace(b"POST", method.encode()) + WRAPPINGS[what] + SMUGGLED)
        answer = raw.until_closed()
        assert answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 501")
        assert answer.count(b"HTTP/1.1 ") == 1 and b"max_model_len" not in answer


def test_headers_of_10_mb(peer):
    with RawHttp(peer.address) as raw:
        raw.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        filler = b"X-Filler: " + b"x" * 1000 + b"\r\n"
        sent = 0
        while sent < 10 << 20 and raw.send(filler * 100):
            sent += len(filler) * 100
        assert sent < 10 << 20
        assert b"200 OK" not in raw.until_closed()
    with RawHttp(peer.address) as raw:
        raw.send(b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" not in raw.until_closed()


def test_a_body_in_single_bytes(peer):
    body = json.dumps({**GOOD, "max_tokens": 1}).encode()
    with RawHttp(peer.address) as raw:
        for byte in post_bytes("/v1/completions", body, "Connection: close"):
            raw.send(bytes([byte]))
        assert raw.until_closed().startswith(b"HTTP/1.1 200")


def test_chunked_and_expected_bodies(peer):
    body = json.dumps({**GOOD, "max_tokens": 1}).encode()
    with RawHttp(peer.address) as raw:
        raw.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(body), 7):
            raw.send(b"%x\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]))
        raw.send(b"0\r\n\r\n")
        assert raw.until_closed().startswith(b"HTTP/1.1 200")
    with RawHttp(peer.address) as raw:
        head, _, data = post_bytes("/v1/completions", body, "Expect: 100-continue",
                                   "Connection: close").partition(b"\r\n\r\n")
        raw.send(head + b"\r\n\r\n")
        assert raw.receive().startswith(b"HTTP/1.1 100")
        raw.send(data)
        assert b"HTTP/1.1 200" in raw.until_closed()


# ---- many, slow and vanished ----


def test_a_thousand_idle_connections_lock_nobody_out(http_cluster, peer):
    idle = [RawHttp(peer.address) for _ in range(1000)]
    try:
        for i, raw in enumerate(idle):
            if i % 2:
                raw.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Le")  # slowloris
        began = time.monotonic()
        with HttpPeer(http_cluster.endpoints["http"]) as late:
            assert late.post("/v1/completions", GOOD).status == 200
        assert time.monotonic() - began < 10.0
    finally:
        for raw in idle:
            raw.close()


def test_connections_that_do_nothing_cost_nothing(http_cluster):
    router = http_cluster.processes["router"].pid
    with HttpPeer(http_cluster.endpoints["http"]) as peer:
        idle = [RawHttp(peer.address) for _ in range(200)]
        assert peer.get("/healthz").status == 200  # all are taken in
        window_s, before_s = 2.0, cpu_s(router)
        time.sleep(window_s)
        assert cpu_s(router) - before_s < 0.2 * window_s  # a loop that spins has all of it
        for raw in idle:
            raw.close()


def test_slow_readers_and_vanished_clients(http_cluster, peer):
    asked = json.dumps({**GOOD, "max_tokens": 60, "stream": True}).encode()
    slow = [RawHttp(peer.address, receive_bytes=2048) for _ in range(20)]
    vanish = [RawHttp(peer.address) for _ in range(20)]
    try:
        for raw in [*slow, *vanish]:
            raw.send(post_bytes("/v1/completions", asked))
        for raw in vanish:
            assert raw.receive(12) == b"HTTP/1.1 200"
            raw.close()
        assert peer.post("/v1/completions", GOOD).status == 200
        for raw in slow:
            data = b""
            while not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                piece = raw.receive(512)
                assert piece, "closed in mid-answer"
                data += piece
    finally:
        for raw in [*slow, *vanish]:
            raw.close()
    deadline = time.monotonic() + 20
    while http_cluster.client().status()["running"] > 1:  # the one of `peer`'s other client
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_connections_that_are_reset(http_cluster, peer):
    for _ in range(50):
        raw = socket.create_connection(peer.address)
        raw.sendall(post_bytes("/v1/completions", json.dumps({**GOOD, "max_tokens": 500}).encode()))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raw.close()
    deadline = time.monotonic() + 20
    while http_cluster.client().status()["running"] > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
