"""Streams at once, by bare sockets and one thread: over HTTP, ours or llama-server's, and over the
ZeroMQ front. And the crowd beside them: who is idle, reads slowly, vanishes."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgpack
import zmq

from chatloop.bench.metrics import percentile

TIMEOUT_S = 600.0
SUBMIT, PIECE, DONE, ERROR = 1, 66, 68, 69  # docs/protocol.md
Requests = Sequence[dict[str, Any]]  # token_ids, max_tokens, maybe resumable
Idle = Callable[[], None]


class Times:
    """When each stream began and each of its tokens came."""

    def __init__(self, streams: int) -> None:
        self.began = [0.0] * streams
        self.came: list[list[float]] = [[] for _ in range(streams)]
        self.tokens = 0  # as the servers count them: not all have text

    def rate(self) -> float:
        return self.tokens / (max(came[-1] for came in self.came) - min(self.began))

    def first_ms(self, share: float) -> float:
        return float(percentile([1000 * (came[0] - began) for began, came
                                 in zip(self.began, self.came, strict=True)], 100 * share))

    def all_have_one_at(self) -> float:
        return max(came[0] for came in self.came)

    def between_ms(self, share: float, since: float = 0.0) -> float:
        """Of the waits that began then or later."""
        return float(percentile([1000 * (b - a) for came in self.came
                                 for a, b in zip(came, came[1:], strict=False) if a >= since],
                                100 * share))


def connect(url: str, receive_bytes: int = 0) -> socket.socket:
    parts = urlsplit(url)
    raw = socket.socket()
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.settimeout(TIMEOUT_S)
    raw.connect((parts.hostname, parts.port))
    return raw


def completion(request: dict[str, Any]) -> bytes:
    body = json.dumps({"prompt": request["token_ids"], "max_tokens": request["max_tokens"],
                       "stream": True,
                       "stream_options": {"include_usage": True,
                                          "resumable": request.get("resumable", False)},
                       "temperature": 0, "ignore_eos": True, "cache_prompt": False}).encode()
    return post("/v1/completions", body)


def post(path: str, body: bytes) -> bytes:
    return (b"POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)


class HttpStreams:
    """Served by serve(); each connection is closed when its stream has ended."""

    def __init__(self, url: str, requests: Requests) -> None:
        self.times = Times(len(requests))
        self.open = len(requests)
        self._selector = selectors.DefaultSelector()
        for stream, request in enumerate(requests):
            raw = connect(url)
            self.times.began[stream] = time.monotonic()
            raw.sendall(completion(request))
            raw.setblocking(False)
            self._selector.register(raw, selectors.EVENT_READ, (stream, bytearray()))

    def serve(self, until: Callable[[], bool] = lambda: False, beside: Idle = lambda: None,
              beside_s: float = 0.05) -> Times:
        """Until all have ended, or `until`. `beside` is called every `beside_s`."""
        deadline = time.monotonic() + TIMEOUT_S
        beside_at = time.monotonic()
        while self.open and not until():
            now = time.monotonic()
            if now > deadline:
                raise RuntimeError("the server is stuck")
            if now >= beside_at:
                beside_at = now + beside_s
                beside()
            for key, _ in self._selector.select(beside_s):
                self._read(key.fileobj, *key.data)
        return self.times

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _read(self, raw: Any, stream: int, rest: bytearray) -> None:
        data = raw.recv(1 << 16)
        now = time.monotonic()
        rest += data
        events = rest.split(b"\n\n")
        rest[:] = events.pop()
        for event in events:
            if b'"error"' in event:
                raise RuntimeError(event.decode(errors="replace")[:300])
            if b'"completion_tokens"' in event:
                told = json.loads(event[event.index(b"{", event.index(b"data:")):])
                self.times.tokens += told["usage"]["completion_tokens"]
            elif b"data: {" in event and b'"text":""' not in event:
                self.times.came[stream].append(now)
        ended = any(b"data: [DONE]" in event for event in events)
        if data and not ended:
            return
        self._selector.unregister(raw)
        raw.close()
        self.open -= 1
        if not ended:
            raise RuntimeError(f"a stream ended early: {bytes(rest)[-300:]!r}")


def over_http(url: str, requests: Requests) -> Times:
    with contextlib.closing(HttpStreams(url, requests)) as streams:
        return streams.serve()


def over_zeromq(endpoint: str, requests: Requests) -> Times:
    """One DEALER, as the client library has it."""
    times = Times(len(requests))
    context = zmq.Context(io_threads=1)
    link = context.socket(zmq.DEALER)
    link.linger = 0
    try:
        link.connect(endpoint)
        for stream, request in enumerate(requests):
            times.began[stream] = time.monotonic()
            link.send(msgpack.packb([1, SUBMIT, str(stream), request]))
        open_streams = len(requests)
        while open_streams:
            if not link.poll(int(TIMEOUT_S * 1000)):
                raise RuntimeError("the router is stuck")
            message = msgpack.unpackb(link.recv())
            if message[1] == PIECE and message[5]:
                times.came[int(message[2])].append(time.monotonic())
            elif message[1] == ERROR:
                raise RuntimeError(str(message))
            elif message[1] == DONE:
                open_streams -= 1
    finally:
        link.close()
        context.term()
    times.tokens = sum(request["max_tokens"] for request in requests)
    return times


class Crowd:
    """Connections that cost the server something and ask the model for nothing: `idle` ones, and
    `slow` ones, whose answers are ready and who read a few bytes at a time."""

    def __init__(self, url: str, idle: int, slow: Requests) -> None:
        self._idle = [connect(url) for _ in range(idle)]
        self._slow = []
        for request in slow:
            self._slow.append(connect(url, receive_bytes=1))
            self._slow[-1].sendall(completion(request))
        for raw in self._slow:
            raw.recv(1)
            raw.setblocking(False)

    def read_a_little(self) -> None:
        for raw in self._slow:
            with contextlib.suppress(BlockingIOError):
                raw.recv(8)

    def close(self) -> None:
        for raw in [*self._idle, *self._slow]:
            raw.close()


def in_mid_stream(url: str, requests: Requests) -> list[socket.socket]:
    """Their streams have begun."""
    found = [connect(url) for _ in requests]
    for raw, request in zip(found, requests, strict=True):
        raw.sendall(completion(request))
    for raw in found:
        raw.recv(1)
    return found


class Probe:
    """Asks for /healthz: how long the loop takes to look at it, in milliseconds."""

    def __init__(self, url: str) -> None:
        self._raw = connect(url)
        self.worst_ms = 0.0
        self._sent_at = 0.0

    def __call__(self) -> None:
        if self._sent_at:
            try:
                self._raw.recv(1 << 16)
            except BlockingIOError:
                return
            self.worst_ms = max(self.worst_ms, 1000 * (time.monotonic() - self._sent_at))
        self._raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
        self._sent_at = time.monotonic()
        self._raw.setblocking(False)

    def close(self) -> None:
        self._raw.close()


@contextlib.contextmanager
def closing_all(sockets: Sequence[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for raw in sockets:
            raw.close()
