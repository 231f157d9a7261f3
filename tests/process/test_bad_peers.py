"""Peers that are wrong, on every socket of every process: counted, and nobody else notices."""

from __future__ import annotations

import contextlib
import mmap
import resource
import socket
import time

import models
import msgpack
import pytest
import zmq
from chatloop import protocol
from cluster import Cluster, wait_until
from counts import counts, rising
from hostile_bytes import garbage, hello
from process_info import memory_kib, reset_peak
from raw_socket import RawSocket, assert_serves

SOCKETS = {"front": zmq.DEALER, "ctrl": zmq.DEALER, "result": zmq.PUSH, "stage-0": zmq.PUSH,
           "stage-1": zmq.PUSH, "sampler": zmq.PUSH}
# What counts garbage there.
COUNTERS = {"front": "front_malformed", "ctrl": "ctrl_malformed", "result": "result_malformed",
            **{name: f"{name}.headers_bad" for name in ("stage-0", "stage-1", "sampler")}}
PARTS = {**COUNTERS, **{name: f"{name}.messages_malformed"
                        for name in ("stage-0", "stage-1", "sampler")}}
EXIT_CONFIG = 64
GIB = 1 << 30
GROWTH_KIB = 8 << 10  # of a process that drops a GiB: its reads and the witness beside it

pytestmark = pytest.mark.usefixtures("witness")


def endpoint_of(cluster: Cluster, name: str) -> str:
    return cluster.endpoints.get(name) or cluster.listens_at(name)


def process_of(cluster: Cluster, name: str):
    return cluster.processes["router" if name in cluster.endpoints else name]


@pytest.mark.parametrize("name", SOCKETS)
def test_garbage(tiny_cluster, witness, name):
    messages = garbage()
    with RawSocket(endpoint_of(tiny_cluster, name), SOCKETS[name]) as peer:
        with rising(witness, {COUNTERS[name]: len(messages) // 2}):
            for message in messages:
                peer.send(message)
        with rising(witness, {PARTS[name]: 1}):
            peer.send(b"two", b"parts")
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        assert_serves(front)


@pytest.mark.parametrize("name", SOCKETS)
def test_bytes_that_are_not_zeromq(tiny_cluster, name):
    host, port = endpoint_of(tiny_cluster, name).removeprefix("tcp://").split(":")
    for opening in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 500,
                    b"\xff" + b"\x00" * 8 + b"\x7f\x03", b""):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(opening)
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        assert_serves(front)


@pytest.mark.parametrize("name", SOCKETS)
def test_a_message_of_a_gibibyte(tiny_cluster, name):
    """From a real ZeroMQ peer. The link is dropped at the announcement; nothing is taken in."""
    process = process_of(tiny_cluster, name)
    reset_peak(process.pid)
    before = memory_kib(process.pid)
    # Private pages that are only read take no memory here either.
    with mmap.mmap(-1, GIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as zeros:
        with RawSocket(endpoint_of(tiny_cluster, name), SOCKETS[name], linger_ms=500) as peer:
            with memoryview(zeros) as view:
                peer.send_uncopied(view)
                peer.wait_disconnected()
    assert memory_kib(process.pid, "VmHWM") - before < GROWTH_KIB
    with RawSocket(tiny_cluster.endpoints["front"]) as front:
        assert_serves(front)


@pytest.mark.parametrize("name, bytes_max", [("front", 4 << 20), ("ctrl", 1 << 20)])
def test_large_messages_at_full_speed(tiny_cluster, witness, name, bytes_max):
    """Of just the size that is taken: what waits to be read is bounded by the receiving mark."""
    router = tiny_cluster.processes["router"]
    reset_peak(router.pid)
    before = memory_kib(router.pid)
    with RawSocket(endpoint_of(tiny_cluster, name)) as peer:
        with rising(witness, {COUNTERS[name]: 100}):
            message = b"\xc6" + (bytes_max - 6).to_bytes(4, "big") + bytes(bytes_max - 6)
            for _ in range(100):
                peer.send(message)
    assert memory_kib(router.pid, "VmHWM") - before < 256 << 10


def test_many_peers_with_one_routing_id(tiny_cluster, witness):
    """Each takes the place of the one before; the last one is served."""
    front = tiny_cluster.endpoints["front"]
    submit = msgpack.packb([1, protocol.SUBMIT, "id", {"token_ids": [2], "max_tokens": 2000,
                                                       "ignore_eos": True}])
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            peer = stack.enter_context(RawSocket(front, routing_id=b"the same"))
            peer.send(submit)
        stack.pop_all().close()
    with RawSocket(front, routing_id=b"the same") as last:
        last.send(msgpack.packb([1, protocol.PING, 5]))
        while last.receive()[1] != protocol.PONG:
            pass
    wait_until(lambda: witness.status()["running"] == 0, 20, "the requests of the others end")


def test_a_thousand_clients_of_one_message_each(tiny_cluster, witness):
    with rising(witness, {"errors.invalid_request": 1000}):
        for number in range(1000):
            with RawSocket(tiny_cluster.endpoints["front"], routing_id=b"c%d" % number) as peer:
                peer.ask([1, protocol.CANCEL, "nothing"])


# ---- workers that do not belong here ----

UNKNOWN, WELCOME, REJECT = 38, 33, 34


def test_a_stranger_on_ctrl(tiny_cluster, witness):
    with rising(witness, {"ctrl_unexpected": 1, "workers_refused": 1}):
        with RawSocket(tiny_cluster.endpoints["ctrl"], routing_id=b"worker:stranger:4d") as ctrl:
            beat = msgpack.packb([1, 6, 77, 1, 2, 0, 0, 0, [], [0] * 11])
            assert ctrl.ask(beat)[1] == UNKNOWN
            answer = ctrl.ask(hello())
            assert answer[1] == REJECT and "model" in answer[5] and answer[6] is False


@pytest.mark.parametrize("seed, partitions", [(1, 2), (0, 3)], ids=["model", "cut"])
def test_a_worker_of_another(tiny_cluster, tmp_path, seed, partitions):
    """It ends with the configuration's exit code and says why; the cluster stays as it is."""
    model = models.split_tiny(tmp_path, partitions, seed=seed)
    stranger = tiny_cluster.start_worker(f"stranger-{seed}-{partitions}", "chatloop-stage",
                                         "--partition", 0, model=model)
    try:
        wait_until(lambda: stranger.exit_code is not None, 20, "the stranger ends")
        assert stranger.exit_code == EXIT_CONFIG, stranger.messages()
        assert stranger.messages()[-1].startswith("chatloop-stage: ")
    finally:
        stranger.kill()
        del tiny_cluster.processes[stranger.name]


def hello_of_a_real_worker(cluster: Cluster) -> list:
    """What a stage of this cluster says, taken from one that is told of another router."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind("tcp://127.0.0.1:*")
        endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
        worker = cluster.start("model-for-a-liar", "chatloop-stage", "--partition", 0, "--listen",
                               "tcp://127.0.0.1:*", "--router", endpoint)
        try:
            assert router.poll(20_000)
            return msgpack.unpackb(router.recv_multipart()[1])
        finally:
            worker.kill()
            del cluster.processes[worker.name]


def test_a_worker_that_lies(build, tiny_model, tmp_path):
    """Of the right model, with a whole chain's layers, endpoints that are none, the largest share,
    and word of every generation: the route in use stays up."""
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        client = cluster.client()
        long = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 4000, "seed": 3}
        expected = client.generate(**long).token_ids
        stream = client.stream(**long)
        next(stream)
        before = counts(client)
        body = hello_of_a_real_worker(cluster)
        body[4:8] = ["liar", 3, 0, body[8]]
        body[-2] = [32, 64 << 20, 4096, 1 << 22]
        with RawSocket(cluster.endpoints["ctrl"], routing_id=b"worker:liar:1") as liar:
            def say(kind: int, *rest: object) -> None:
                liar.send(msgpack.packb([1, kind, body[2], 1, *rest]))

            for endpoint in ("inproc://link-monitor-9", "tcp://0.0.0.0:1", "nowhere", "",
                             cluster.endpoints["result"]):
                say(1, *body[4:11], endpoint, *body[12:])
                while liar.receive()[1] != WELCOME:
                    pass
                for generation in range(1, 30):
                    say(2, generation)
                    say(3, generation, 0, body[2])
                    say(5, generation, 0, 5, 7, 1)
                    say(4, 2 ** 64 - 1)
                    say(6, 2, 0, 0, 2 ** 64 - 1, [[generation, 0, 2 ** 63, 0, True, True]], [0] * 9)
            for _ in stream:
                pass
            assert stream.result.token_ids == expected
            assert client.generate(**long).token_ids == expected
        assert counts(client)["ctrl_unexpected"] > before["ctrl_unexpected"]
        cluster.stop()


# ---- descriptors ----


def test_connections_until_the_descriptors_end(build, tiny_model, tmp_path):
    """Nobody ends of it, also when the route's first stage is killed meanwhile and a link to the
    spare one finds no descriptor: that comes up afterwards."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = 64
    with Cluster(build, tiny_model, tmp_path) as cluster:
        client = cluster.client()
        short = {"token_ids": [5, 6], "ignore_eos": True, "max_tokens": 8}
        expected = client.generate(**short).token_ids
        cluster.start_worker("spare", "chatloop-stage", "--partition", 0)
        wait_until(lambda: len(client.status()["workers"]) == 3, 20, "the spare has joined")
        router = cluster.processes["router"]
        resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (limit, hard))
        host, port = cluster.endpoints["front"].removeprefix("tcp://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(2 * limit):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            assert client.generate(**short).token_ids == expected
            cluster.processes["stage-0"].kill()
            wait_until(lambda: counts(client)["routes_down"] == 1, 10, "the route is down")
            time.sleep(1.0)
        wait_until(lambda: client.status()["ready"], 30, "the route is up again")
        assert client.generate(**short).token_ids == expected
        del cluster.processes["stage-0"]
        cluster.stop()
