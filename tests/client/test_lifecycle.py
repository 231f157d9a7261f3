"""Closing, forking, interrupting: at any time, in any order, and never with a hang."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from conftest import Connect
from fake_router import CANCEL, RESUME, SUBMIT, WORDS, FakeRouter, silent_handler, word_handler
from test_faults import free_port
from test_stream import eventually

import chatloop
from chatloop import AsyncClient, ChatLoopError, Client

TEXT = "".join(WORDS)
SOON_S = 2.0  # ten times what close() may take


def hold_x(router: FakeRouter, message: list[Any]) -> None:
    """Lets requests for "x" wait, answers the others.

    An interrupt before a request's first PING has the client ask again: a RESUME.
    """
    waits = message[0] in (CANCEL, RESUME) or message[2]["prompt"] == "x"
    (silent_handler if waits else word_handler)(router, message)


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """The list gets the result, or the ChatLoopError."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(call())
        except ChatLoopError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def closes_soon(client: Any) -> bool:
    started_s = time.monotonic()
    client.close()
    return time.monotonic() - started_s < SOON_S


# ---- threads ----


def test_close_from_another_thread_ends_all_who_wait_at_once() -> None:
    with FakeRouter(hold_x) as router:
        client = Client(router.endpoint)
        waiting = [in_thread(lambda: client.generate(prompt="x")) for _ in range(20)]
        assert eventually(lambda: len(router.heard_of(SUBMIT)) == 20)
        assert closes_soon(client)
        for thread, ended in waiting:
            thread.join(SOON_S)
            assert [error.code for error in ended] == ["closed"]
        assert eventually(lambda: len(router.heard_of(CANCEL)) == 20)


def test_close_from_another_thread_ends_the_wait_for_a_link() -> None:
    client = Client(f"tcp://127.0.0.1:{free_port()}", connect_timeout_s=60.0)
    waiting = [in_thread(call) for call in (client.ping, client.status, client.ping)]
    time.sleep(0.1)
    assert closes_soon(client)
    for thread, ended in waiting:
        thread.join(SOON_S)
        assert [error.code for error in ended] == ["closed"]


def test_a_thread_that_waits_for_long_holds_up_nobody() -> None:
    """Its news reach every thread at once, whoever serves the socket."""
    with FakeRouter(hold_x) as router, Client(router.endpoint, timeout_s=20) as client:
        waiting = [in_thread(lambda: client.generate(prompt="x")) for _ in range(30)]
        assert eventually(lambda: len(router.heard_of(SUBMIT)) == 30)
        started_s = time.monotonic()
        for _ in range(20):
            assert client.generate(prompt="y").text == TEXT
        assert time.monotonic() - started_s < 20 * 0.3  # in turns of 20 ms it was 0.6 s each
        client.close()
        for thread, _ in waiting:
            thread.join(SOON_S)
            assert not thread.is_alive()


def test_threads_that_are_the_first_share_one_link() -> None:
    start = threading.Barrier(8)

    def ask(client: Client) -> str:
        start.wait()
        return client.generate(prompt="x").text

    for _ in range(5):
        with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=10) as client:
            asked = [in_thread(lambda: ask(client)) for _ in range(8)]  # noqa: B023
            for thread, _ in asked:
                thread.join(10)
            assert [ended for _, ended in asked] == [[TEXT]] * 8
            assert len(set(router._peers.values())) == 1


# ---- signals ----


def at_signal(number: int, handler: Callable[..., Any], after_s: float) -> None:
    signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, after_s)


@pytest.fixture
def alarm() -> Any:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("alarm")
def test_ctrl_c_cancels_the_request_and_leaves_the_client_usable() -> None:
    with FakeRouter(hold_x) as router, Client(router.endpoint) as client:
        for after_s in (0.0005, 0.002, 0.01, 0.1):
            client.ping()
            at_signal(signal.SIGALRM, interrupt, after_s)
            with pytest.raises(KeyboardInterrupt):
                client.generate(prompt="x", request_id=str(after_s))
            assert client.generate(prompt="y").text == TEXT
        assert eventually(lambda: [CANCEL, "0.1"] in router.heard)


@pytest.mark.usefixtures("alarm", "ctrl_c")
def test_ctrl_c_ends_an_event_loop_and_cancels_its_requests() -> None:
    async def main(client: AsyncClient) -> None:
        async with client:
            await client.ping()
            at_signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT), 0.1)
            await client.generate(prompt="x", request_id="r")

    with FakeRouter(hold_x) as router:
        started_s = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main(AsyncClient(router.endpoint)))
        assert time.monotonic() - started_s < SOON_S
        assert eventually(lambda: [CANCEL, "r"] in router.heard)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_point_leaves_nothing_locked() -> None:
    """Raised where CPython looks for signals: as a function begins, and after calls into C."""

    def interrupted(call: Callable[[], Any], at: int) -> bool:
        points = 0

        def profile(frame: Any, event: str, _: Any) -> None:
            nonlocal points
            ours = frame.f_code.co_filename.startswith((chatloop.__path__[0], zmq.__path__[0]))
            if ours and event in ("call", "c_return"):
                points += 1
                if points == at:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False

    with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=10) as client:
        client.ping()
        for call in (client.ping, lambda: client.generate(prompt="x")):
            at = 1
            while interrupted(call, at):
                thread, ended = in_thread(lambda: client.generate(prompt="y").text)
                thread.join(10)
                assert ended == [TEXT], at  # no lock is missing in another thread
                at += 1
            assert at > 100


@pytest.mark.usefixtures("alarm")
def test_a_signal_handler_may_close_the_client_that_it_interrupts() -> None:
    with FakeRouter(hold_x) as router:
        client = Client(router.endpoint)
        at_signal(signal.SIGALRM, lambda *_: client.close(), 0.1)
        started_s = time.monotonic()
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x")
        assert caught.value.code == "closed"
        assert time.monotonic() - started_s < SOON_S
        assert eventually(lambda: router.heard_of(CANCEL))


@pytest.mark.usefixtures("alarm")
def test_a_signal_handler_may_use_the_client_that_it_interrupts() -> None:
    pongs: list[int] = []
    with FakeRouter(hold_x) as router, Client(router.endpoint) as client:
        at_signal(
            signal.SIGALRM, lambda *_: pongs.append(client.ping().router_incarnation), 0.1
        )
        with pytest.raises(ChatLoopError) as caught:
            client.generate(prompt="x", timeout_s=0.5)
        assert caught.value.code == "timeout"
        assert pongs == [7]


# ---- forks ----


def in_fork(call: Callable[[], bool]) -> int:
    """The exit code of a fork: 0 when `call` returned True."""
    child = os.fork()
    if child == 0:  # runs nothing of pytest's
        code = 1
        try:
            signal.alarm(20)
            code = 0 if call() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("used", [False, True])  # before the fork
def test_a_client_made_before_a_fork_works_on_both_sides(connect: Connect, used: bool) -> None:
    with FakeRouter(word_handler) as router, connect(router.endpoint, timeout_s=10) as client:

        def child() -> bool:
            answered = client.generate(prompt="x").text == TEXT
            client.close()
            return answered

        if used:
            client.ping()
        assert in_fork(child) == 0
        assert client.generate(prompt="x").text == TEXT
        assert in_fork(lambda: True) == 0  # used by the parent only
        assert client.generate(prompt="x").text == TEXT
        assert in_fork(child) == 0


def test_a_fork_amid_the_calls_of_other_threads_works() -> None:
    """They hold the connection's lock, and the child has no thread that would give it back."""
    with FakeRouter(hold_x) as router, Client(router.endpoint, timeout_s=10) as client:
        stream = client.stream(prompt="x")
        waiting = [in_thread(lambda: client.generate(prompt="x")) for _ in range(4)]
        assert eventually(lambda: len(router.heard_of(SUBMIT)) == 5)

        def child() -> bool:
            try:
                next(stream)
            except ChatLoopError as error:
                stream.close()
                return error.code == "closed" and client.generate(prompt="y").text == TEXT
            return False

        for _ in range(5):
            assert in_fork(child) == 0
        word_handler(router, [1, stream.request_id])
        assert next(stream).text == WORDS[0]
        client.close()
        for thread, _ in waiting:
            thread.join(SOON_S)
            assert not thread.is_alive()


def text_in_child(client: Client, answers: Any) -> None:
    answers.put(client.generate(prompt="x").text)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=10) as client:
        client.ping()  # the copy gets a link of its own all the same
        answers = context.Queue()
        process = context.Process(target=text_in_child, args=(client, answers))
        process.start()
        assert answers.get(timeout=30) == TEXT
        process.join(10)
        assert process.exitcode == 0
        assert client.generate(prompt="x").text == TEXT


def test_a_copy_by_pickle_has_the_settings_and_no_link() -> None:
    with FakeRouter(word_handler) as router, Client(router.endpoint, timeout_s=3.5) as client:
        client.ping()
        with pickle.loads(pickle.dumps(client)) as copy:
            assert copy.generate(prompt="x").text == TEXT
            assert copy._timeout_s == 3.5
    assert isinstance(pickle.loads(pickle.dumps(AsyncClient())), AsyncClient)


# ---- the end of the program ----


ENDINGS = {
    "a daemon thread amid a stream": """
import threading, time
client = Client(sys.argv[1])
stream = client.stream(prompt="x")
threading.Thread(target=lambda: next(stream), daemon=True).start()
time.sleep(0.1)
""",
    "an event loop in a daemon thread": """
import asyncio, threading, time
async def ask():
    await AsyncClient(sys.argv[1]).generate(prompt="x")
threading.Thread(target=lambda: asyncio.run(ask()), daemon=True).start()
time.sleep(0.2)
""",
    "a finalizer that closes": """
class Owner:
    def __init__(self):
        self.itself = self
        self.client = Client(sys.argv[1])
        self.stream = self.client.stream(prompt="x")
    def __del__(self):
        self.client.close()
Owner()
import gc; gc.collect()
owner = Owner()
""",
    "a fork that ends by itself": """
import os
client = Client(sys.argv[1])
stream = client.stream(prompt="x")
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
""",
    "no router": """
client = Client("tcp://127.0.0.1:9", connect_timeout_s=0.1)
try:
    client.ping()
except ChatLoopError:
    pass
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_program_ends_at_once_and_silently(ending: str) -> None:
    script = "import sys\nfrom chatloop import *\n" + ENDINGS[ending]
    with FakeRouter(silent_handler) as router:
        ended = subprocess.run(
            [sys.executable, "-c", script, router.endpoint],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=20,
            capture_output=True,
            check=False,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
