"""A router that answers as docs/protocol.md says, by a script that the test gives it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import zmq

SUBMIT, CANCEL, RESUME, PING, STATUS_QUERY, TRACE_QUERY = 1, 2, 3, 4, 5, 6
ACCEPTED, PIECE, PROMPT_PIECE, DONE, ERROR, PONG, STATUS = 65, 66, 67, 68, 69, 70, 71
CHOICE_DONE, TRACE = 72, 73

FINGERPRINT = "00c0ffee00c0ffee"
Handler = Callable[["FakeRouter", list[Any]], None]


def _work(role: int, busy_us: int) -> dict[str, Any]:
    return {"role": role, "frames": 4, "rows": 40, "busy_us": busy_us, "queue_us": busy_us // 3,
            "work_us": 2 * busy_us, "step_s": {"bounds": [0.001, 0.01], "counts": [2, 2, 0],
                                               "sum": 0.02}}


_COUNTERS = {"frames_executed": 3, "frames_gap": 0, "headers_bad": 4, "cpu_ms": 0,
             "memory_bytes": 0}

STATUS_INFO = {
    "router": "fake",
    "model": "fake",
    "ready": True,
    "workers": [
        {"name": "w0", "roles": 3, "layers": [0, 8], "state": "ready", "kernels": "avx2",
         "kv_cache_dtype": "f16", "frames_held": 2, "loop_gap_us": 1500,
         "counters": {"cpu_ms": 0, "memory_bytes": 64 << 20},
         "work": [_work(1, 750), _work(2, 250)]},
        {"name": "w1", "roles": 2, "layers": [0, 0], "state": "loading", "kernels": "avx2",
         "kv_cache_dtype": "", "frames_held": 0, "loop_gap_us": 0, "work": [],
         "counters": _COUNTERS},
    ],
    "routes": [{"generation": 3, "up": True, "running": 2,
                "hops": [{"worker": "w0", "busy_us": 750}, {"worker": "w1", "busy_us": 0}],
                "counters": {"work_us": 1000, "kv_held": 5, "kv_cached": 0, "kv_blocks": 20,
                             "in_flight": 2}}],
    "histograms": {"queue_ms": {"bounds": [1.0, 2.5, 5.0], "counts": [3, 96, 0, 1], "sum": 250.0},
                   "time_to_first_token_ms": {"bounds": [1.0], "counts": [0, 0], "sum": 0.0},
                   "inter_token_ms": {"bounds": [1.0], "counts": [0, 0], "sum": 0.0},
                   "decode_rows": {"bounds": [1.0], "counts": [0, 0], "sum": 0.0}},
    "counters": {"requests": 7, "rejected": 0, "routes_up": 1, "tokens_committed": 0,
                 "routes_down": 0, "workers_lost": 0, "preemptions": 0},
    "errors": {},
    "running": 2,
    "waiting": 0,
    "uptime_us": 10_000_000,
    "requests": [{"id": "r\x1b[2J", "state": "decode", "prompt_tokens": 3,
                  "completion_tokens": 5, "age_us": 1_500_000, "generation": 3}],
    "events": [{"number": 1, "age_us": 2_000_000, "warning": True, "text": "route 2 is down"}],
}


TRACE_INFO = {
    "trace_id": "0af7651916cd43dd8448eb211c80319c", "caller": "", "sampled": False,
    "spans": [
        ["request", 1, 0, 0, 100_000, {"request_id": "known", "prompt_tokens": 3}],
        ["queue", 2, 1, 0, 25_000, {}],
        ["decode", 3, 1, 25_000, 100_000, {"frames": 2}],
        ["decode stage 0", 4, 3, 50_000, 90_000,
         {"busy_us": 8000, "queue_us": 200, "frames": 2}],
    ],
}


class FakeRouter:
    """Serves one front socket in a thread.

    `handler(router, message)` gets every message but PING and STATUS, which are answered at once
    unless `mute`. `heard` has all messages, in order, without their version.
    """

    def __init__(self, handler: Handler, *, incarnation: int = 7, port: int = 0) -> None:
        self.heard: list[list[Any]] = []
        self.mute = False
        self.no_route = ""  # what STATUS says
        self.running: list[list[Any]] | None = None  # what PONG says of requests
        self.incarnation = incarnation
        self._handler = handler
        self._peers: dict[str, bytes] = {}  # request id -> the client that named it last
        self._outgoing: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self._stopping = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # a ROUTER drops what is above the mark
        self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.endpoint.rsplit(":", 1)[1])

    def heard_of(self, kind: int) -> list[list[Any]]:
        return [message for message in list(self.heard) if message[0] == kind]

    def __enter__(self) -> FakeRouter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._context.destroy()

    # ---- what a handler says; thread-safe ----

    def send(self, request_id: str, *body: Any) -> None:
        self.send_raw(request_id, msgpack.packb([1, *body], use_single_float=True))

    def send_raw(self, request_id: str, message: bytes) -> None:
        self._outgoing.put((self._peers[request_id], message))

    def accept(self, request_id: str, prompt_ids: list[int], seed: int = 5, **info: Any) -> None:
        info = {"fingerprint": FINGERPRINT, "model": "fake", **info}
        self.send(
            request_id, ACCEPTED, request_id, {"prompt_ids": prompt_ids, "seed": seed, **info}
        )

    def piece(
        self,
        request_id: str,
        index: int,
        ids: list[int],
        text: str,
        offset: int,
        logprobs: Any = None,
        choice: int = 0,
    ) -> None:
        self.send(request_id, PIECE, request_id, index, ids, text, offset, logprobs, choice)

    def choice_done(
        self, request_id: str, choice: int, reason: str = "stop", stop: Any = None, tokens: int = 0
    ) -> None:
        info = {"finish_reason": reason, "stop": stop, "completion_tokens": tokens}
        self.send(request_id, CHOICE_DONE, request_id, choice, info)

    def done(
        self, request_id: str, reason: str = "stop", stop: Any = None, tokens: int = 0
    ) -> None:
        info = {"finish_reason": reason, "stop": stop, "prompt_tokens": 3}
        times = {"queue_ms": 0.5, "prefill_ms": 2.0, "decode_ms": 8.25}
        self.send(request_id, DONE, request_id, {**info, "completion_tokens": tokens, **times})

    def error(
        self,
        request_id: str,
        code: str,
        retryable: bool,
        committed: int = 0,
        retry_after_ms: int | None = None,
    ) -> None:
        body = (request_id, code, "no luck", retryable, committed, retry_after_ms)
        self.send(request_id, ERROR, *body)

    def _run(self) -> None:
        while not self._stopping.is_set() or not self._outgoing.empty():
            if self._socket.poll(2, zmq.POLLIN):
                peer, body = self._socket.recv_multipart()
                self._on_message(peer, msgpack.unpackb(body, strict_map_key=False))
            while not self._outgoing.empty():
                self._socket.send_multipart(self._outgoing.get())

    def _on_message(self, peer: bytes, message: list[Any]) -> None:
        version, *body = message
        assert version == 1
        self.heard.append(body)
        if body[0] == PING:
            running = [] if self.running is None else [self.running]
            answer = [1, PONG, body[1], self.incarnation, *running]
        elif body[0] == STATUS_QUERY:
            unready = {"ready": False, "no_route": self.no_route} if self.no_route else {}
            answer = [1, STATUS, {**STATUS_INFO, **unready}]
        elif body[0] == TRACE_QUERY:
            answer = [1, TRACE, body[1], TRACE_INFO if body[1] == "known" else None]
        else:
            self._peers[body[1]] = peer
            self._handler(self, body)
            return
        if not self.mute:
            self._outgoing.put((peer, msgpack.packb(answer)))


WORDS = ["Paris", " is", " not", " Rome", "."]


def word_handler(router: FakeRouter, message: list[Any]) -> None:
    """Answers every SUBMIT with WORDS, one piece each, and CANCEL as the protocol says."""
    request_id = message[1]
    if message[0] == CANCEL:
        router.done(request_id, "cancelled")
        return
    router.accept(request_id, [1, 2, 3])
    offset = 0
    for index, word in enumerate(WORDS):
        router.piece(request_id, index, [10 + index], word, offset)
        offset += len(word.encode())
    router.done(request_id, tokens=len(WORDS))


def silent_handler(router: FakeRouter, message: list[Any]) -> None:
    """Accepts and then says nothing more, but ends what is cancelled."""
    if message[0] == SUBMIT:
        router.accept(message[1], [1, 2, 3])
    elif message[0] == CANCEL:
        router.done(message[1], "cancelled")
