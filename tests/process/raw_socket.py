"""A bare ZeroMQ peer, for messages that the client library would never send."""

from __future__ import annotations

from typing import Any

import msgpack
import zmq

REPLY_TIMEOUT_S = 20.0


class RawSocket:
    """DEALER to `front` and `ctrl`, PUSH to `result` and a worker's `in`."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, routing_id: bytes | None = None):
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 2000)  # what was sent arrives, also at `with`'s end
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDTIMEO, int(REPLY_TIMEOUT_S * 1000))
        if routing_id is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._socket.connect(endpoint)

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def receive(self, timeout_s: float = REPLY_TIMEOUT_S) -> Any:
        """The next message, decoded. Fails when there is none."""
        assert self._socket.poll(int(timeout_s * 1000)), "no answer"
        return msgpack.unpackb(self._socket.recv())

    def ask(self, message: Any) -> Any:
        self.send(message if isinstance(message, bytes) else msgpack.packb(message))
        return self.receive()
