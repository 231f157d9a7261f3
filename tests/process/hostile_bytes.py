"""Bytes that are no message of the protocol, for every socket."""

from __future__ import annotations

import random
from typing import Any

import crc32c
import msgpack
from chatloop import protocol

GOOD = {"token_ids": [2, 3], "max_tokens": 2}
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


def hello(**changes: Any) -> bytes:
    """HELLO of a stage worker that belongs to another cluster."""
    body = {"name": "stranger", "roles": 1, "layer_first": 0, "layer_end": 2, "layers": 4,
            "width": 64, "vocab": 10, "endpoint": "tcp://127.0.0.1:1", "model_id": "0" * 32,
            "cut_id": "0" * 16, "fingerprint": 1, "kernels": "avx2", "self_test": 1,
            "share": [32, 64 << 20, 8, 100], "kv_cache_dtype": "f16", **changes}
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
