"""The socket to the router: a DEALER with a bound on everything, and none of its traps."""

from __future__ import annotations

import math
import os
import secrets
import weakref
from typing import Any

import zmq

from .errors import CLOSED, UNREACHABLE, ChatLoopError

# The options that apply to every client, with the reason for each. Milliseconds, messages, bytes.
_OPTIONS = (
    (zmq.LINGER, 0),  # closing never waits for a router that is not there
    (zmq.IMMEDIATE, 1),  # no queue to nobody: a send without a router fails at once
    (zmq.SNDHWM, 1000),
    (zmq.RCVHWM, 1000),
    (zmq.RECONNECT_IVL, 200),
    (zmq.RECONNECT_IVL_MAX, 5000),
    (zmq.CONNECT_TIMEOUT, 2000),
    (zmq.HANDSHAKE_IVL, 5000),  # a peer that accepts and says nothing is given up
    (zmq.TCP_MAXRT, 10000),  # so is one that no longer acknowledges
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 30),
    (zmq.TCP_KEEPALIVE_INTVL, 10),
    (zmq.TCP_KEEPALIVE_CNT, 3),
    (zmq.MAXMSGSIZE, 64 << 20),
)
_FAREWELL_MS = 200  # for the CANCELs of a client that closes with running requests


class Link:
    """Belongs to one process: sockets do not survive a fork. Not thread-safe."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._pid = os.getpid()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        # A link in a reference cycle must not leave its end to the order of the garbage collector:
        # a context that goes before its socket waits for it without end.
        self._finalizer = weakref.finalize(self, _destroy, self._socket, self._context, self._pid)
        for option, value in _OPTIONS:
            self._socket.setsockopt(option, value)
        # A name of its own lets the router find the client again after a reconnect.
        self._socket.setsockopt(zmq.ROUTING_ID, f"client:{secrets.token_hex(8)}".encode())
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            text = f"{endpoint} is not an endpoint such as tcp://127.0.0.1:7101"
            raise ChatLoopError("invalid_request", text) from error

    @property
    def inherited(self) -> bool:
        """This process is a fork of the one that made the link."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        return bool(self._socket.closed)

    def check_usable(self) -> None:
        """Raises ChatLoopError("closed") after close, and in a fork."""
        if self.inherited or self._socket.closed:
            raise ChatLoopError(CLOSED, "the client was closed, or made before a fork")

    def send(self, message: bytes, timeout_s: float = 0.0) -> None:
        """Raises ChatLoopError("unreachable") when no router takes it within `timeout_s`."""
        self.check_usable()
        if not self._socket.poll(_milliseconds(timeout_s), zmq.POLLOUT):
            raise self.no_router(timeout_s)
        try:
            self._socket.send(message, zmq.DONTWAIT)
        except zmq.Again as error:
            raise self._unreachable("the router went away") from error

    def try_send(self, message: bytes) -> bool:
        """False when there is no router to take it just now."""
        try:
            self.send(message)
        except ChatLoopError:
            return False
        return True

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, or None when there is none for `timeout_s`."""
        self.check_usable()
        if not self._socket.poll(_milliseconds(timeout_s), zmq.POLLIN):
            return None
        try:
            parts = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        return b"".join(parts)

    def close(self, farewell: bool = False) -> None:
        """Takes at most 200 ms with `farewell` (sent messages may still leave), else no time."""
        self._finalizer.detach()
        _destroy(self._socket, self._context, self._pid, _FAREWELL_MS if farewell else 0)

    def no_router(self, waited_s: float) -> ChatLoopError:
        return self._unreachable(f"no router answers within {waited_s:g} s")

    def fileno(self) -> int:
        """Readable when `events` is worth a look. Edge-triggered: send, receive and `events`
        itself may take the edge, so that all three must be followed by a look at `events`."""
        return int(self._socket.getsockopt(zmq.FD))

    def events(self) -> int:
        """What is possible at once: zmq.POLLIN, zmq.POLLOUT."""
        self.check_usable()
        return int(self._socket.getsockopt(zmq.EVENTS))

    def _unreachable(self, why: str) -> ChatLoopError:
        return ChatLoopError(UNREACHABLE, f"{self._endpoint}: {why}", retryable=True)


def _destroy(
    socket: zmq.Socket[bytes], context: zmq.Context[Any], pid: int, linger_ms: int = 0
) -> None:
    if os.getpid() == pid:
        socket.close(linger_ms)
        context.term()


def _milliseconds(timeout_s: float) -> int:
    return math.ceil(max(timeout_s, 0.0) * 1000)
