"""What plain libzmq does that the bus is built around. Each docstring ends with what ours does and
the test that shows it. When one fails, libzmq has changed, and the workaround may go."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
import zmq
from cluster import wait_until

COUNT = 100
QUIET_MS = 300
SOON_MS = 10_000


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    with zmq.Context() as made:
        yield made


def configured(context: zmq.Context, kind: int, **options: int) -> zmq.Socket:
    made = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    for name, value in options.items():
        made.setsockopt(getattr(zmq, name.upper()), value)
    return made


def bound(context: zmq.Context, kind: int, **options: int) -> tuple[zmq.Socket, str]:
    made = configured(context, kind, **options)
    made.bind("tcp://127.0.0.1:*")
    return made, made.getsockopt_string(zmq.LAST_ENDPOINT)


def drain(pull: zmq.Socket) -> list[bytes]:
    """All until it is quiet."""
    found = []
    while pull.poll(QUIET_MS):
        found.append(pull.recv())
    return found


def takes(push: zmq.Socket) -> bool:
    try:
        push.send(b"", zmq.DONTWAIT)
    except zmq.Again:
        return False
    return True


def test_what_was_sent_is_lost_with_its_peer(context):
    """Every send() said that all is well. Ours: what no RESULT confirms is sent again
    (test_failover.py)."""
    pull, endpoint = bound(context, zmq.PULL)
    with pull, configured(context, zmq.PUSH, immediate=1) as push:
        push.connect(endpoint)
        for i in range(COUNT):
            push.send(b"%d" % i)
        assert pull.poll(SOON_MS) and pull.recv() == b"0"
        assert pull.poll(SOON_MS)  # more of them are here, and nobody will read them
        pull.close()
        wait_until(lambda: not takes(push), SOON_MS / 1000, "the pipe is gone, with all in it")


def test_one_push_to_two_peers_takes_turns(context):
    """Half of a sequence's frames would be at the wrong stage. Ours: a socket for each peer
    (bus/link.hpp, link_test.cpp)."""
    with contextlib.ExitStack() as stack:
        pulls = [bound(context, zmq.PULL) for _ in range(2)]
        push = stack.enter_context(configured(context, zmq.PUSH, immediate=1))
        monitor = push.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for pull, endpoint in pulls:
            stack.enter_context(pull)
            push.connect(endpoint)
            assert monitor.poll(SOON_MS)
            monitor.recv_multipart()
        for i in range(COUNT):
            push.send(b"%d" % i)
        assert [len(drain(pull)) for pull, _ in pulls] == [COUNT // 2] * 2
        push.disable_monitor()
        monitor.close()


def test_without_immediate_a_message_waits_for_a_peer_of_the_future(context):
    """It arrives at whoever listens there later, however stale it is. Ours: IMMEDIATE, and each
    frame names the incarnation that it is for (socket_test.cpp: "without a peer nothing is
    queued")."""
    with socket.socket() as nobody:  # a port that is free
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
    with configured(context, zmq.PUSH, reconnect_ivl=20) as push:
        push.connect(endpoint)
        push.send(b"stale", zmq.DONTWAIT)
        with configured(context, zmq.PULL) as later:
            later.bind(endpoint)
            assert later.poll(SOON_MS) and later.recv() == b"stale"


@pytest.mark.parametrize("heartbeats", [False, True], ids=["ours", "heartbeats"])
def test_heartbeats_end_the_link_of_one_who_is_only_slow(context, heartbeats):
    """A full receive queue stops the reading, so that PONG is not read. Ours: libzmq's heartbeats
    are off (bus/socket.cpp), and the same link lives."""
    beats = {"heartbeat_ivl": 50, "heartbeat_timeout": 200} if heartbeats else {}
    pull, endpoint = bound(context, zmq.PULL, rcvhwm=1, rcvbuf=4096, **beats)
    with pull, configured(context, zmq.PUSH, sndhwm=1, sndbuf=4096, immediate=1) as push:
        monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        push.connect(endpoint)
        push.send(bytes(1000))
        full = time.monotonic() + 1.0
        while time.monotonic() < full:
            with contextlib.suppress(zmq.Again):
                push.send(bytes(1000), zmq.DONTWAIT)
        assert bool(monitor.poll(1000)) == heartbeats
        push.disable_monitor()
        monitor.close()


def test_a_session_with_a_protocol_error_never_comes_back(context):
    """One wrong answer, and the socket stays without a peer for ever. Ours: a link without a
    handshake gets another socket after 3 s (link_test.cpp)."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with configured(context, zmq.PUSH, reconnect_ivl=20, immediate=1) as push:
            push.connect(f"tcp://127.0.0.1:{port}")
            with stranger.accept()[0] as connection:
                # A whole greeting of ZMTP 3, NULL, then a command that is none.
                connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0")
                                   + bytes(32) + b"\x04\x05\x04NOPE")
                connection.settimeout(SOON_MS / 1000)
                while connection.recv(4096):
                    pass
            stranger.settimeout(1.0)  # fifty times the interval
            with pytest.raises(TimeoutError):
                stranger.accept()
