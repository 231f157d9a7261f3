"""Resources stay flat: thousands of requests, a tenth of them bad, and nothing is left behind."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time

import msgpack
import zmq
from chatloop import protocol
from cluster import Cluster, wait_until
from counts import counts
from hostile_bytes import NO_MESSAGES, garbage
from process_info import descriptors, memory_kib
from raw_socket import RawSocket

# The allocator keeps what it once had, above all one garbage message of 512 KiB and the pages of
# KV that are used for the first time: steps, which do not come again. A leak does: 200 bytes a
# request are 200 KiB in every round.
SLACK_KIB = 1024
LEAK_KIB = 100  # a round
ROUND = 1000
BAD_PARAMETERS = [{}, {"prompt": ""}, {"token_ids": [10]}, {"token_ids": [2] * 9000},
                  {"prompt": "a", "model": "other"}, {"prompt": "a", "temperature": float("nan")},
                  {"prompt": "a", "stop": [str(i) for i in range(10_000)]},
                  {"prompt": "a", "max_tokens": -1}, {"prompt": b"\xff"}]


class Traffic:
    """Good requests from one client, and one in ten bad, of every kind there is."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._client = cluster.client()
        self._garbage = garbage()

    def round(self, count: int) -> None:
        kinds = [self.bad_parameters, self.bad_bytes, self.garbage_anywhere, self.cancelled,
                 self.vanished, self.unread, self.duplicate]
        for _ in range(count // 10):
            self.good(9)
            self._rng.choice(kinds)()
        wait_until(lambda: self._client.status()["running"] == 0, 30, "nothing runs")
        wait_until(lambda: self._client.status()["backlog_bytes"] == 0, 30, "nothing waits")

    def parameters(self, max_tokens: int) -> dict:
        rng = self._rng
        return {"token_ids": [rng.randrange(2, 10) for _ in range(rng.randrange(1, 40))],
                "max_tokens": rng.randrange(1, max_tokens), "ignore_eos": True,
                "logprobs": rng.choice([None, 0, 5]), "seed": rng.randrange(100),
                "temperature": rng.choice([0.0, 0.9])}

    def good(self, count: int) -> None:
        streams = [self._client.stream(**self.parameters(12)) for _ in range(count)]
        for stream in streams:
            for _ in stream:
                pass

    def raw(self, endpoint: str = "front", **options: int) -> RawSocket:
        return RawSocket(self._cluster.endpoints[endpoint], **options)

    def submit(self, request_id: str, parameters: dict) -> bytes:
        return msgpack.packb([1, protocol.SUBMIT, request_id, parameters])

    def bad_parameters(self) -> None:
        with self.raw() as peer:
            answer = peer.ask(self.submit("bad", self._rng.choice(BAD_PARAMETERS)))
            assert answer[1] == protocol.ERROR

    def bad_bytes(self) -> None:
        with self.raw() as peer:
            assert peer.ask(self._rng.choice(NO_MESSAGES))[1] == protocol.ERROR

    def garbage_anywhere(self) -> None:
        for name, kind in (("ctrl", zmq.DEALER), ("result", zmq.PUSH)):
            with self.raw(name, kind=kind) as peer:
                peer.send(self._rng.choice(self._garbage))
        for name in ("stage-0", "stage-1", "sampler"):
            with RawSocket(self._cluster.listens_at(name), zmq.PUSH) as peer:
                peer.send(self._rng.choice(self._garbage))

    def cancelled(self) -> None:
        stream = self._client.stream(**self.parameters(4000))
        next(stream)
        stream.close()

    def vanished(self) -> None:
        with self.raw() as peer:
            peer.send(self.submit("gone", self.parameters(4000)))
            peer.receive()

    def unread(self) -> None:
        with self.raw(receive_max=1) as peer:
            peer.send(self.submit("unread", {**self.parameters(2), "max_tokens": 200}))
            peer.receive()

    def duplicate(self) -> None:
        with self.raw() as peer:
            for _ in range(2):
                peer.send(self.submit("twice", {**self.parameters(2), "max_tokens": 50}))
            while peer.receive()[1] != protocol.DONE:
                pass


def test_memory_and_descriptors_are_flat(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        traffic = Traffic(cluster, seed=5)
        samples = []
        for _ in range(5):  # after 1,000 requests, which are the warm-up, to 5,000
            traffic.round(ROUND)
            samples.append(sample(cluster))
        print(json.dumps(samples))
        for name in samples[0]:
            kib = [s[name][0] for s in samples]
            assert kib[-1] - kib[0] <= SLACK_KIB, (name, kib)
            growth = [after - before for before, after in itertools.pairwise(kib)]
            assert statistics.median(growth) <= LEAK_KIB, (name, kib)
            assert len({s[name][1] for s in samples}) == 1, (name, [s[name][1] for s in samples])
        found = counts(cluster.client())
        assert found["requests"] >= 4800  # some of the bad ones are none
        assert found["errors.worker_lost"] == 0 and found["routes_down"] == 0
        assert found["rejected"] > 0 and found["clients_gone"] > 0
        cluster.stop()


def sample(cluster: Cluster) -> dict[str, tuple[int, int]]:
    """Process -> resident KiB, descriptors."""
    time.sleep(0.5)  # the last connections of others are closed
    return {name: (memory_kib(process.pid), descriptors(process.pid))
            for name, process in cluster.processes.items()}
