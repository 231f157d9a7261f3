"""Clean ends: SIGTERM, SIGINT, a parent that is gone; and starts in another order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from answers import Answer, ask, of_generation
from chatloop import ChatLoopError, Client
from cluster import ANY_PORT, Cluster, wait_until
from process_info import is_running

LONG_TINY = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000}  # seconds
SHORT_TINY = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 8, "logprobs": 2, "seed": 1}
AT_ONCE_S = 5.0  # far below every drain's limit
NOBODY = "tcp://127.0.0.1:1"  # no router is there
EXIT_CONFIG = 64


# ---- SIGTERM amid answers ----


@contextlib.contextmanager
def eight_running(cluster: Cluster, requests: list[dict]):
    """One client each, all of them amid their answers."""
    clients = [cluster.client() for _ in requests]
    streams = [client.stream(**request) for client, request in zip(clients, requests, strict=True)]
    for stream in streams:
        next(stream)
    yield clients, streams


def finished(clients: list[Client], streams: list) -> list[Answer]:
    for stream in streams:
        for _ in stream:
            for client in clients:
                client.keep_alive()
    return [of_generation(stream.result) for stream in streams]


def test_sigterm_of_the_router_drains(build, smollm2, requests, right_answers, tmp_path):
    with Cluster(build, smollm2(2), tmp_path) as cluster:
        with eight_running(cluster, requests) as (clients, streams):
            router = cluster.processes["router"]
            router.terminate()
            with pytest.raises(ChatLoopError) as caught:
                while True:  # until the signal has arrived
                    clients[0].generate(prompt="too late", max_tokens=0)
            assert (caught.value.code, caught.value.retryable) == ("draining", True)
            assert finished(clients, streams) == right_answers
        assert router.wait(10) == 0
        del cluster.processes["router"]
        cluster.stop()  # the workers, which lost their router, end as well


def test_sigterm_of_all_at_once_drains(build, smollm2, requests, right_answers, tmp_path):
    with Cluster(build, smollm2(2), tmp_path, own_sampler=True) as cluster:
        with eight_running(cluster, requests) as (clients, streams):
            cluster.terminate()
            assert finished(clients, streams) == right_answers
        cluster.assert_drained(10)


def test_sigterm_of_one_stage_drains_its_route(build, smollm2, requests, right_answers, tmp_path):
    with Cluster(build, smollm2(2), tmp_path) as cluster:
        with eight_running(cluster, requests) as (clients, streams):
            stage = cluster.processes["stage-0"]
            stage.terminate()
            assert finished(clients, streams) == right_answers
        assert stage.wait(10) == 0
        # Another takes its place, and the router goes on.
        cluster.start_worker("stage-0b", "chatloop-stage", "--partition", 0)
        wait_until(lambda: clients[0].status()["ready"], 20, "a route with the new stage")
        assert ask(clients[0], requests[:1]) == right_answers[:1]
        del cluster.processes["stage-0"]
        cluster.stop()


# ---- with a request that is too long for the drain ----


@contextlib.contextmanager
def long_request(cluster: Cluster):
    """Runs in its stream; what ended it is asserted by the test."""
    stream = cluster.client().stream(**LONG_TINY)
    next(stream)
    yield stream


def error_of(stream) -> ChatLoopError:
    with pytest.raises(ChatLoopError) as caught:
        for _ in stream:
            pass
    return caught.value


def test_drain_timeout_of_the_router(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, router=("--drain-timeout-secs", "1")) as cluster:
        with long_request(cluster) as stream:
            router = cluster.processes["router"]
            began = time.monotonic()
            router.terminate()
            error = error_of(stream)
            assert (error.code, error.retryable) == ("draining", True)
            assert time.monotonic() - began > 0.5  # it was given its second
            assert router.wait(AT_ONCE_S) == 0
        del cluster.processes["router"]
        cluster.stop()


@pytest.mark.parametrize("name", ["stage-0", "sampler"])
def test_drain_timeout_of_a_worker(build, tiny_model, tmp_path, name):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True,
                 stage=("--drain-timeout-secs", "1"),
                 sampler=("--drain-timeout-secs", "1")) as cluster:
        with long_request(cluster) as stream:
            worker = cluster.processes[name]
            worker.terminate()
            assert worker.wait(AT_ONCE_S) == 0
            cluster.restart(name)  # and the answer goes on
            tokens = 1 + sum(len(piece.token_ids) for piece in stream)
            assert tokens == LONG_TINY["max_tokens"]
        client = cluster.client()
        wait_until(lambda: client.status()["ready"], 20, "the route is back")
        assert len(client.generate(**SHORT_TINY).token_ids) == SHORT_TINY["max_tokens"]
        cluster.stop()


@pytest.mark.parametrize("name", ["router", "stage-0", "stage-1", "sampler"])
def test_a_second_sigterm_ends_at_once(build, tiny_model, tmp_path, name):
    limit = ("--drain-timeout-secs", "3")  # of workers whose router is gone, at the end
    with Cluster(build, tiny_model, tmp_path, own_sampler=True, stage=limit,
                 sampler=limit) as cluster:
        with long_request(cluster) as stream:
            process = cluster.processes[name]
            process.terminate()
            for _ in range(20):  # it drains: the answer goes on
                next(stream)
            assert process.exit_code is None
            process.terminate()
            assert process.wait(AT_ONCE_S) == 0
            if name != "router":
                cluster.restart(name)
                tokens = 21 + sum(len(piece.token_ids) for piece in stream)
                assert tokens == LONG_TINY["max_tokens"]
        if name == "router":
            del cluster.processes[name]
        cluster.stop()


# ---- with nothing to finish ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("actor, options", [
    ("chatloop-router", ["--ctrl", ANY_PORT, "--front", ANY_PORT, "--result", ANY_PORT]),
    ("chatloop-stage", ["--partition", "0", "--listen", ANY_PORT, "--router", NOBODY]),
    ("chatloop-sampler", ["--listen", ANY_PORT, "--router", NOBODY]),
], ids=["router", "stage", "sampler"])
def test_a_signal_without_anybody_else(build, smollm2, tmp_path, actor, options, number):
    """While it reads its files, loads, or waits for the others: exit code 0 at once."""
    cluster = Cluster(build, smollm2(2), tmp_path)
    for moment, delay_s in enumerate((0.03, 0.1, 0.3, 0.8)):
        process = cluster.start(f"{actor}-{moment}", actor, *options)
        try:
            wait_until(lambda p=process: blocks_signals(p.pid), 10, "main has begun")
            time.sleep(delay_s)
            process.signal(number)
            assert process.wait(AT_ONCE_S) == 0, process.messages()
            assert process.messages()[-1] == "drained"
        finally:
            process.kill()


def blocks_signals(pid: int) -> bool:
    """Before that a signal ends any program."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            return int(line.split()[1], 16) & (1 << (signal.SIGTERM - 1)) != 0
    return False


def test_sigint_drains_like_sigterm(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path) as cluster:
        with long_request(cluster) as stream:
            for process in cluster.processes.values():
                process.signal(signal.SIGINT)
            for _ in stream:
                pass
            assert len(stream.result.token_ids) == LONG_TINY["max_tokens"]
        cluster.assert_drained()


# ---- the parent dies ----


def test_a_killed_parent_leaves_nobody_behind(adopts_orphans, build, tiny_model, tmp_path):
    """The children of a parent that got kill -9 finish their work and exit with 0."""
    program = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2] / "python")]!r}
from pathlib import Path
from cluster import Cluster
cluster = Cluster(Path({str(build)!r}), Path({str(tiny_model)!r}), Path({str(tmp_path)!r}),
                  own_sampler=True)
with cluster:
    print(cluster.endpoints["front"], *(p.pid for p in cluster.processes.values()), flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    children: list[int] = []
    try:
        front, *pids = parent.stdout.readline().split()
        children = [int(pid) for pid in pids]
        assert len(children) == 4
        with Client(front, timeout_s=60.0) as client:
            stream = client.stream(**LONG_TINY)
            next(stream)
            parent.kill()
            for _ in stream:
                pass
            assert len(stream.result.token_ids) == LONG_TINY["max_tokens"]
        wait_until(lambda: not any(is_running(pid) for pid in children), 20, "all have ended")
        for pid in children:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        children = []
    finally:
        parent.kill()
        parent.communicate()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# ---- starts ----


@pytest.mark.parametrize("actor, options", [
    ("chatloop-router", ["--ctrl", "tcp://192.0.2.1:7100", "--front", ANY_PORT, "--result",
                         ANY_PORT]),
    ("chatloop-stage", ["--partition", "0", "--listen", "tcp://192.0.2.1:7200"]),
], ids=["router", "stage"])
def test_an_address_of_another_host(build, tiny_model, tmp_path, actor, options):
    process = Cluster(build, tiny_model, tmp_path).start("elsewhere", actor, *options)
    try:
        assert process.wait(20.0) == EXIT_CONFIG
        [line] = process.messages()
        assert line.startswith(f"{actor}: tcp://192.0.2.1:") and "no address of this host" in line
    finally:
        process.kill()


def test_workers_first_and_the_router_later(build, tiny_model, tmp_path):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # nobody listens, and nobody else gets it
        ctrl = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        cluster = Cluster(build, tiny_model, tmp_path, router=("--ctrl", ctrl))
        with cluster.empty():
            cluster.endpoints["ctrl"] = ctrl
            cluster.start_workers()
            for process in cluster.processes.values():
                wait_until(lambda p=process: any(m.startswith("ready") for m in p.messages()), 20,
                           "its weights are there")
            time.sleep(1.0)  # several HELLOs go nowhere
            assert all(p.exit_code is None for p in cluster.processes.values())
            reserved.close()
            cluster.start_router()
            cluster.wait_ready()
            assert len(cluster.client().generate(**SHORT_TINY).token_ids) == 8
            cluster.stop()


def test_a_worker_that_comes_back_is_taken_in_again(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        client = cluster.client()
        expected = of_generation(client.generate(**SHORT_TINY))
        for name in ("sampler", "stage-0", "stage-1"):
            assert cluster.processes[name].exit_code is None
            cluster.processes[name].terminate()
            assert cluster.processes[name].wait(AT_ONCE_S) == 0
            wait_until(lambda: not client.status()["ready"], 10, "the route is down")
            cluster.restart(name)
            wait_until(lambda: client.status()["ready"], 20, f"{name} is back")
            assert of_generation(client.generate(**SHORT_TINY)) == expected
        cluster.stop()
