"""What plain libzmq does that the bus is built around. Each docstring ends with what ours does and
the test that shows it. When one fails, libzmq has changed, and the workaround may go."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from bare_libzmq import PollItem, bare_libzmq
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


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def in_fork(call: Callable[[], bool]) -> bool:
    """What it returns in a child, which ends without a word to its sockets."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            signal.alarm(60)
            code = 0 if call() else 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return code == 0


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
    frame names the incarnation that it is for (socket_test.cpp: "without a peer nothing is queued,
    and the message stays")."""
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


# ---- monitors ----


@contextlib.contextmanager
def traffic(context: zmq.Context) -> Iterator[Callable[[], bool]]:
    """Does the context's I/O thread carry messages? One of another context sends them."""
    pull, endpoint = bound(context, zmq.PULL)
    with pull, zmq.Context() as elsewhere, configured(elsewhere, zmq.PUSH) as push:
        push.connect(endpoint)

        def carries() -> bool:
            push.send(b"", zmq.DONTWAIT)
            return bool(pull.poll(QUIET_MS)) and pull.recv() == b""

        wait_until(carries, SOON_MS / 1000, "the sockets are connected")
        yield carries


@pytest.mark.parametrize("read", [True, False], ids=["ours", "unread"])
def test_a_monitor_that_nobody_reads_stops_every_socket(context, read):
    """The I/O thread waits for room in the monitor's queue. Ours: a mask of what is needed, and all
    events are read at every turn of the loop (link_test.cpp: "all that came at once is taken by one
    call")."""
    with traffic(context) as carries, configured(context, zmq.PULL) as monitored:
        monitored.monitor("inproc://events", zmq.EVENT_ALL)
        with configured(context, zmq.PAIR, rcvhwm=1) as monitor:
            monitor.connect("inproc://events")
            monitored.bind("tcp://127.0.0.1:*")
            port = port_of(monitored.getsockopt_string(zmq.LAST_ENDPOINT))
            for _ in range(400):  # three events each, and 1,001 have room
                socket.create_connection(("127.0.0.1", port)).close()
                while read and monitor.poll(0):
                    monitor.recv_multipart()
            if not read:
                wait_until(lambda: not carries(), SOON_MS / 1000, "nothing moves any more")
            while monitor.poll(QUIET_MS):
                monitor.recv_multipart()
            assert carries()
            monitored.disable_monitor()


@pytest.mark.parametrize("stopped", [True, False], ids=["ours", "closed first"])
def test_a_monitor_that_is_closed_before_it_is_stopped(stopped):
    """The next event waits for a reader for ever. Ours: stopped first (Link::close, link_test.cpp:
    "links can be closed at any moment")."""

    def works() -> bool:
        context = zmq.Context()
        monitored, endpoint = bound(context, zmq.PULL)
        with traffic(context) as carries:
            monitor = monitored.get_monitor_socket()
            if stopped:
                monitored.disable_monitor()
            monitor.close()
            with socket.create_connection(("127.0.0.1", port_of(endpoint))) as connection:
                if stopped:
                    assert connection.recv(1)  # so it was accepted, which would be an event
                else:
                    wait_until(lambda: not carries(), SOON_MS / 1000, "nothing moves any more")
            os._exit(0 if carries() else 1)  # for a context that is stuck cannot be left

    assert in_fork(works) == stopped


# ---- errors of calls ----


def test_the_rest_of_a_message_to_nobody_goes_to_somebody(context):
    """After EHOSTUNREACH the next part is taken for an address: it vanishes with the word that all
    is well, or another peer gets what follows. Ours: no part after one that was refused
    (Socket::send_to, socket_test.cpp: "after one to nobody the next message is whole")."""
    router, endpoint = bound(context, zmq.ROUTER, router_mandatory=1)
    with router, configured(context, zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.ROUTING_ID, b"bystander")
        dealer.connect(endpoint)
        dealer.send(b"")
        assert router.poll(SOON_MS) and router.recv_multipart() == [b"bystander", b""]
        for rest in ([b"secret"], [b"bystander", b"secret"]):
            with pytest.raises(zmq.ZMQError) as refused:
                router.send(b"nobody", zmq.SNDMORE)
            assert refused.value.errno == zmq.EHOSTUNREACH
            router.send_multipart(rest)
        assert drain(dealer) == [b"secret"]


@pytest.mark.parametrize("call", ["zmq_poll", "zmq_recv"])
def test_a_signal_ends_a_call_with_an_error(context, call):
    """C++ bindings throw then. Ours: called again, or another turn of the loop (poll_loop_test.cpp:
    "a signal that interrupts the wait changes nothing")."""
    library = bare_libzmq()
    pull, _ = bound(context, zmq.PULL)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        with pull:
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            if call == "zmq_poll":
                item = PollItem(pull.underlying, 0, zmq.POLLIN, 0)
                assert library.zmq_poll(ctypes.byref(item), 1, SOON_MS) == -1
            else:
                assert library.zmq_recv(pull.underlying, None, 0, 0) == -1
            assert library.zmq_errno() == errno.EINTR
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- who may use a socket ----


def test_two_threads_on_one_socket_abort_the_process():
    """Ours: one application thread, asserted (test_processes.py:
    test_three_threads_in_each_process_while_it_serves), and a lock in the Python client
    (tests/client/test_lifecycle.py)."""
    program = Path(__file__).with_name("two_threads.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGABRT, done
    assert "Assertion failed: !_current_out" in done.stderr


def test_a_fork_has_a_socket_that_lies(context):
    """Both get the message that had come, and what the child sends is taken and never leaves. Ours:
    no fork in the actors; a client in a fork makes a socket of its own
    (tests/client/test_faults.py: test_a_fork_gets_a_link_of_its_own)."""
    pull, endpoint = bound(context, zmq.PULL)
    with pull, configured(context, zmq.PUSH, immediate=1) as push:
        push.connect(endpoint)
        push.send(b"once")
        assert pull.poll(SOON_MS)
        assert in_fork(lambda: pull.recv(zmq.DONTWAIT) == b"once")
        assert pull.recv(zmq.DONTWAIT) == b"once"
        assert in_fork(lambda: takes(push))
        assert drain(pull) == []
        push.send(b"the parent's")
        assert drain(pull) == [b"the parent's"]


def test_a_context_ends_only_when_all_is_sent(context):
    """By default closing waits without end for a peer that never was. Ours: LINGER is set on every
    socket, and the context's own default is off (bus/context.cpp; tests/client/test_faults.py:
    test_close_does_not_hang_without_a_router)."""
    with socket.socket() as nobody:  # a port that is free
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
    other = zmq.Context()
    push = other.socket(zmq.PUSH)
    push.setsockopt(zmq.RECONNECT_IVL, 20)
    push.connect(endpoint)
    push.send(b"waits")
    push.close()
    ending = threading.Thread(target=other.term)
    ending.start()
    ending.join(QUIET_MS / 1000)
    assert ending.is_alive()
    with configured(context, zmq.PULL) as pull:
        pull.bind(endpoint)
        assert pull.poll(SOON_MS) and pull.recv() == b"waits"
        ending.join(SOON_MS / 1000)
        assert not ending.is_alive()


@pytest.mark.parametrize("emptied", [True, False], ids=["ours", "not emptied"])
def test_the_descriptor_says_nothing_until_all_was_read(context, emptied):
    """It is edge-triggered: no edge for what comes before the reader has found nothing. Ours: a
    socket that was not read to its end is asked again, without the descriptor (Socket::settled,
    poll_loop_test.cpp: "a message that a send on the same socket has taken in wakes the loop")."""
    pull, endpoint = bound(context, zmq.PULL)
    with pull, configured(context, zmq.PUSH, immediate=1) as push:
        push.connect(endpoint)
        push.send(b"first")
        assert pull.poll(SOON_MS) and pull.recv() == b"first"
        if emptied:
            with pytest.raises(zmq.Again):
                pull.recv(zmq.DONTWAIT)
        push.send(b"second")
        descriptor = pull.getsockopt(zmq.FD)
        wait_s = (SOON_MS if emptied else QUIET_MS) / 1000
        assert bool(select.select([descriptor], [], [], wait_s)[0]) == emptied
        assert pull.poll(SOON_MS) and pull.recv() == b"second"
