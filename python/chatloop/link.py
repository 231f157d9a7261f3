"""The socket to a router: a DEALER with a bound on everything, and none of its traps.

Of several routers it is connected to one at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import zmq

from .errors import CLOSED, ChatLoopError, closed, unreachable

# The options that apply to every client, with the reason for each. Milliseconds, messages, bytes.
_OPTIONS = (
    (zmq.LINGER, 0),  # closing never waits for a router that is not there
    (zmq.IMMEDIATE, 1),  # no queue to nobody: a send without a router fails at once
    (zmq.SNDHWM, 1000),
    # What may wait for a caller that pauses. Above it TCP's window closes, and the rest waits at
    # the router, within its bounds (docs/protocol.md).
    (zmq.RCVHWM, 65536),
    (zmq.RECONNECT_IVL, 200),
    (zmq.RECONNECT_IVL_MAX, 500),  # a router that is restarted is back within a second or two
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
_RENEW_S = 2.0  # the least age of a connection that is given up for a new one
ELSEWHERE_S = 2.0  # a router without a sign of life for so long is left for the next one
_EXIT_S = 1.0  # how long the end of the program waits for a daemon thread amid a call


class Link:
    """Belongs to one process: sockets do not survive a fork.

    Not thread-safe: threads that share it hold `lock`. A signal handler or a finalizer of the
    thread that holds it may call everything, too.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        if not endpoints:
            raise ChatLoopError("invalid_request", "there is no endpoint of a router")
        self._endpoints = endpoints
        self._at = 0  # which of them it is connected to
        self._pid = os.getpid()
        self.lock = threading.RLock()
        self._polling = False
        self._close_linger_ms: int | None = None  # closed amid a poll of this thread
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        # A link in a reference cycle must not leave its end to the order of the garbage collector:
        # a context that goes before its socket waits for it without end.
        self._finalizer = weakref.finalize(
            self, _destroy, self._socket, self._context, self._pid, self.lock
        )
        for option, value in _OPTIONS:
            self._socket.setsockopt(option, value)
        # A name of its own lets the router find the client again after a reconnect.
        self._socket.setsockopt(zmq.ROUTING_ID, f"client:{secrets.token_hex(8)}".encode())
        self._connected_s = self._alive_s = time.monotonic()
        for endpoint in (*endpoints[1:], endpoints[0]):  # and stays with the first
            try:
                self._socket.connect(endpoint)
                if endpoint != endpoints[0]:
                    self._socket.disconnect(endpoint)
            except zmq.ZMQError as error:
                self.close()
                text = f"{endpoint} is not an endpoint such as tcp://127.0.0.1:7101"
                raise ChatLoopError("invalid_request", text) from error

    @property
    def endpoint(self) -> str:
        return self._endpoints[self._at]

    @property
    def inherited(self) -> bool:
        """This process is a fork of the one that made the link."""
        return os.getpid() != self._pid

    @property
    def closed(self) -> bool:
        return self._close_linger_ms is not None or bool(self._socket.closed)

    def check_usable(self) -> None:
        """Raises ChatLoopError("closed") after close, and in a fork."""
        if self.inherited:
            raise ChatLoopError(CLOSED, "it belongs to the process before the fork")
        if self.closed:
            raise closed()

    def send(self, message: bytes, timeout_s: float = 0.0) -> bool:
        """False when no router takes it within `timeout_s`."""
        if not self._poll(zmq.POLLOUT, timeout_s):
            return self._not_sent()
        try:
            self._socket.send(message, zmq.DONTWAIT)
        except zmq.Again:  # it went away just now
            return self._not_sent()
        self._alive_s = time.monotonic()
        return True

    def _not_sent(self) -> bool:
        if time.monotonic() - self._alive_s >= ELSEWHERE_S:
            self.go_elsewhere()
        return False

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message, or None when there is none for `timeout_s`."""
        self.check_usable()
        if timeout_s > 0.0 and not self._poll(zmq.POLLIN, timeout_s):
            return None
        try:
            parts = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        return b"".join(parts)

    def close(self, farewell: bool = False) -> None:
        """Takes at most 200 ms with `farewell` (sent messages may still leave), else no time."""
        if self.inherited:
            return
        linger_ms = _FAREWELL_MS if farewell else 0
        if self._polling:  # by a signal handler or finalizer: the poll must not lose its socket
            self._close_linger_ms = linger_ms
            return
        with self.lock:
            self._finalizer.detach()
            self._socket.close(linger_ms)
            self._context.term()

    def go_elsewhere(self) -> bool:
        """Connects to the next router, if there is another one; False too when it just did."""
        self.check_usable()
        waited_s = time.monotonic() - self._connected_s
        if len(self._endpoints) == 1 or waited_s < ELSEWHERE_S:
            return False
        with contextlib.suppress(zmq.ZMQError):  # as in renew
            self._socket.disconnect(self.endpoint)
        self._at = (self._at + 1) % len(self._endpoints)
        self._socket.connect(self.endpoint)
        self._connected_s = self._alive_s = time.monotonic()
        return True

    def renew(self) -> None:
        """Connects anew. libzmq gives up for good on a peer that once broke its protocol: another
        program that had the router's port, or a message beyond MAXMSGSIZE."""
        self.check_usable()
        now_s = time.monotonic()
        if now_s - self._connected_s < _RENEW_S:  # it may be just about to come up
            return
        self._connected_s = now_s
        with contextlib.suppress(zmq.ZMQError):  # it was given up: there is nothing to disconnect
            self._socket.disconnect(self.endpoint)
        self._socket.connect(self.endpoint)

    def no_router(self, waited_s: float) -> ChatLoopError:
        """What is raised after so long without a link, which is made anew for the next call."""
        self.renew()
        return unreachable(", ".join(self._endpoints), f"no router answers within {waited_s:g} s")

    def fileno(self) -> int:
        """Readable when `events` is worth a look. Edge-triggered: send, receive and `events`
        itself may take the edge, so that all three must be followed by a look at `events`."""
        return int(self._socket.getsockopt(zmq.FD))

    def events(self) -> int:
        """What is possible at once: zmq.POLLIN, zmq.POLLOUT."""
        self.check_usable()
        return int(self._socket.getsockopt(zmq.EVENTS))

    def _poll(self, events: int, timeout_s: float) -> bool:
        self.check_usable()
        outer, self._polling = self._polling, True
        try:
            possible = bool(self._socket.poll(_milliseconds(timeout_s), events))
        finally:
            self._polling = outer
            if self._close_linger_ms is not None:
                self.close(farewell=self._close_linger_ms > 0)
        self.check_usable()
        return possible


def _destroy(
    socket: zmq.Socket[bytes], context: zmq.Context[Any], pid: int, lock: threading.RLock
) -> None:
    if os.getpid() != pid:
        return
    if lock.acquire(timeout=_EXIT_S):  # for good: it keeps daemon threads from a closed socket
        socket.close(0)
        context.term()


def _milliseconds(timeout_s: float) -> int:
    return math.ceil(max(timeout_s, 0.0) * 1000)
