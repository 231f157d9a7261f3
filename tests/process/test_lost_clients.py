"""Clients that vanish, fall silent, or do not read what they asked for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from chatloop import Client, protocol
from cluster import Cluster, wait_until
from counts import counts, rising
from process_info import cpu_s, memory_kib, reset_peak
from raw_socket import RawSocket

PYTHON = Path(__file__).resolve().parents[2] / "python"
LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000, "logprobs": 32, "seed": 4}
PING = msgpack.packb([1, protocol.PING, 1])
STATUS = msgpack.packb([1, protocol.STATUS_QUERY])
PEER_BYTES_MAX, ALL_BYTES_MAX = 16 << 20, 256 << 20  # of what waits, in core/limits.hpp


def submit(request_id: str, parameters: dict = LONG) -> bytes:
    return msgpack.packb([1, protocol.SUBMIT, request_id, parameters])


def wait_running(client: Client, count: int) -> None:
    wait_until(lambda: client.status()["running"] == count, 20, f"{count} requests run")


def run_unread(slow: RawSocket, ids: list[str], watch: Client) -> None:
    """All requests run to their end at the router while their client takes nothing."""
    for request_id in ids:
        slow.send(submit(request_id))
    wait_running(watch, len(ids))
    while watch.status()["running"] > 0:
        slow.send(PING)
        time.sleep(0.05)
    assert watch.status()["backlog_bytes"] > 0


# ---- vanished ----


@contextlib.contextmanager
def killed_client(front: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "chatloop", "generate", "a", "--endpoint", front,
               "--ignore-eos", "--max-tokens", "8000"]
    client = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PYTHON)},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield client
    finally:
        client.kill()
        client.wait()


def test_clients_that_vanish_leave_their_place(build, tiny_model, tmp_path):
    """One slot, and blocks for one long answer: whoever comes next gets both."""
    with Cluster(build, tiny_model, tmp_path, stage=("--max-sequences", "1", "--kv-cache-mb", "4")
                 ) as cluster:
        watch = cluster.client()
        front = cluster.endpoints["front"]
        expected = watch.generate(**LONG).token_ids
        assert len(expected) == LONG["max_tokens"]
        for _ in range(2):
            with rising(watch, {"clients_gone": 2, "errors.client_lost": 2}):
                with killed_client(front):
                    wait_running(watch, 1)
                wait_running(watch, 0)
                with RawSocket(front) as raw:  # closes without a word
                    raw.send(submit("r"))
                    wait_running(watch, 1)
                wait_running(watch, 0)
        assert watch.generate(**LONG).token_ids == expected
        cluster.stop()


def test_a_client_that_vanishes_beside_others(tiny_cluster, witness):
    wait_running(witness, 0)
    with rising(witness, {"clients_gone": 1}):
        with killed_client(tiny_cluster.endpoints["front"]):
            wait_running(witness, 1)
        wait_running(witness, 0)


def test_one_that_never_reads_and_says_nothing(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, router=("--client-silence-secs", "1")) as cluster:
        watch = cluster.client()
        with RawSocket(cluster.endpoints["front"], receive_max=1) as silent:
            silent.send(submit("r"))
            wait_running(watch, 1)
            with rising(watch, {"clients_gone": 1, "errors.client_lost": 1}):
                wait_running(watch, 0)
            while (message := silent.receive())[1] != protocol.ERROR:
                assert message[1] in (protocol.ACCEPTED, protocol.PIECE)
            assert message[2:4] == ["r", "client_lost"]
            assert 0 < message[6] < LONG["max_tokens"]
        cluster.stop()


# ---- not reading ----


@pytest.mark.parametrize("requests, pause_s", [
    (1, 0.0), pytest.param(3, 20.0, marks=pytest.mark.long)])
def test_one_that_reads_at_the_end_only(tiny_cluster, witness, requests, pause_s):
    """Its requests run to their end all the same, and every token is there."""
    expected = witness.generate(**{**LONG, "logprobs": None})  # which change no token
    ids = [str(number) * 128 for number in range(requests)]  # the longest, so that more bytes wait
    wait_running(witness, 0)
    with RawSocket(tiny_cluster.endpoints["front"], receive_max=1) as slow:
        run_unread(slow, ids, witness)
        time.sleep(pause_s)
        dropped = counts(witness)["backlog_messages_dropped"]
        tokens: dict[str, list[int]] = {request_id: [] for request_id in ids}
        ended = 0
        while ended < len(ids):
            _, kind, request_id, *rest = slow.receive()
            if kind == protocol.PIECE:
                assert rest[0] == len(tokens[request_id])
                tokens[request_id] += rest[1]
            elif kind == protocol.DONE:
                assert rest[0]["finish_reason"] == "length"
                ended += 1
            else:
                assert kind in (protocol.ACCEPTED, protocol.PONG)
    assert all(found == expected.token_ids for found in tokens.values())
    assert witness.status()["backlog_bytes"] == 0
    assert counts(witness)["backlog_messages_dropped"] == dropped


def test_a_router_that_drains_sleeps_until_a_slow_one_has_read(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path) as cluster:
        watch = cluster.client()
        ids = [str(number) * 128 for number in range(3)]
        with RawSocket(cluster.endpoints["front"], receive_max=1) as slow:
            run_unread(slow, ids, watch)
            router = cluster.processes["router"]
            router.terminate()
            wait_until(lambda: "draining: 0 requests to finish" in router.messages(), 10, "drains")
            time.sleep(1.0)  # longer than the farewell to those that read
            before = cpu_s(router.pid)
            time.sleep(2.0)
            assert cpu_s(router.pid) - before < 0.4  # one that does not sleep takes most of 2 s
            assert router.exit_code is None
            ended = 0
            while ended < len(ids):
                ended += slow.receive()[1] == protocol.DONE
        assert router.wait(10) == 0
        del cluster.processes["router"]
        cluster.stop()


def flood(peer: RawSocket, count: int) -> None:
    for _ in range(count):
        peer.send(STATUS)


def test_one_that_asks_and_asks_and_never_reads(tiny_cluster, witness):
    """What waits for it is bounded; beyond it is gone, and its request ends."""
    router = tiny_cluster.processes["router"]
    reply_bytes = len(msgpack.packb([1, protocol.STATUS, witness.status()]))
    wait_running(witness, 0)
    reset_peak(router.pid)
    before = memory_kib(router.pid)
    with RawSocket(tiny_cluster.endpoints["front"], receive_max=1) as peer:
        with rising(witness, {"backlog_drops": 1, "clients_gone": 1, "errors.client_lost": 1}):
            peer.send(submit("r", {**LONG, "max_tokens": 7000}))
            flood(peer, 2 * PEER_BYTES_MAX // reply_bytes)
        wait_running(witness, 0)
        assert memory_kib(router.pid, "VmHWM") - before < 2 * PEER_BYTES_MAX >> 10
    wait_until(lambda: witness.status()["backlog_bytes"] == 0, 10, "nothing waits")


@pytest.mark.long
def test_many_that_never_read(tiny_cluster, witness):
    """Each within its bound, together beyond the bound of all."""
    router = tiny_cluster.processes["router"]
    reply_bytes = len(msgpack.packb([1, protocol.STATUS, witness.status()]))
    peers = 24
    reset_peak(router.pid)
    before = memory_kib(router.pid)
    with contextlib.ExitStack() as stack:
        front = tiny_cluster.endpoints["front"]
        with rising(witness, {"backlog_drops": 1}):
            for _ in range(peers):
                peer = stack.enter_context(RawSocket(front, receive_max=1))
                flood(peer, PEER_BYTES_MAX * 9 // 10 // reply_bytes)
        assert witness.status()["backlog_bytes"] <= ALL_BYTES_MAX
    assert memory_kib(router.pid, "VmHWM") - before < ALL_BYTES_MAX * 3 // 2 >> 10
    wait_until(lambda: witness.status()["backlog_bytes"] == 0, 10, "nothing waits")
