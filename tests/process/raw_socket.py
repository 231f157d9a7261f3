"""A bare ZeroMQ peer, for messages that the client library would never send."""

from __future__ import annotations

from typing import Any

import msgpack
import zmq
from chatloop import protocol

REPLY_TIMEOUT_S = 20.0


class RawSocket:
    """DEALER to `front` and `ctrl`, PUSH to `result` and a worker's `in`."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, routing_id: bytes | None = None,
                 receive_max: int = 0, linger_ms: int = 2000):
        """`receive_max`: messages and kilobytes that it takes in without being read; 0 is no
        bound."""
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(kind)
        # What was sent arrives, also at `with`'s end.
        self._socket.setsockopt(zmq.LINGER, linger_ms)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDTIMEO, int(REPLY_TIMEOUT_S * 1000))
        self._socket.setsockopt(zmq.RCVHWM, receive_max)
        if receive_max:
            self._socket.setsockopt(zmq.RCVBUF, receive_max << 10)
        if routing_id is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(endpoint)

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def send_uncopied(self, data: memoryview) -> None:
        self._socket.send(data, copy=False)

    def wait_disconnected(self, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        assert self._monitor.poll(int(timeout_s * 1000)), "the link was not dropped"

    def readable(self, timeout_s: float) -> bool:
        return bool(self._socket.poll(int(timeout_s * 1000)))

    def receive(self, timeout_s: float = REPLY_TIMEOUT_S) -> Any:
        """The next message, decoded. Fails when there is none."""
        assert self._socket.poll(int(timeout_s * 1000)), "no answer"
        return msgpack.unpackb(self._socket.recv())

    def ask(self, message: Any) -> Any:
        self.send(message if isinstance(message, bytes) else msgpack.packb(message))
        return self.receive()


def assert_serves(front: RawSocket) -> None:
    """This peer's next request is answered: whatever came before did not harm its link."""
    front.send(msgpack.packb([1, protocol.SUBMIT, "good", {"token_ids": [2, 3], "max_tokens": 2}]))
    while (message := front.receive())[1] != protocol.DONE:
        assert message[1] != protocol.ERROR, message
    assert message[2] == "good"
