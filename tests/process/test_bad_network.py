"""A network that loses, delays and reorders packets, is slow, or is cut; and processes that stop
for a while: every answer comes out bit for bit, and nobody is restarted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import models
import pytest
from answers import ask_cpud
from conftest import ROOT
from forwarder import ALL_LOST, BadNetwork, Faults
from nodes import Asker, Node, as_json, skip_without_namespaces, stopped_at_the_end

ADDRESSES = {"router": "192.0.2.1", "stage-0": "192.0.2.2", "stage-1": "192.0.2.3"}
CLIENT = "192.0.2.4"
STREAMS = 4
SHORT, LONG = 60, 3000  # tokens: over a bad network, and of a request that a fault interrupts
CASES_LONG = 20  # of each kind


def request(i: int, max_tokens: int) -> dict:
    """Greedy and sampled ones, with prompts of one to four blocks."""
    prompt = [2 + (7 * i + j) % 8 for j in range(5 + 60 * i)]
    return {"token_ids": prompt, "ignore_eos": True, "max_tokens": max_tokens, "logprobs": 1,
            "temperature": 0.8 * (i % 2), "seed": i}


class BadCluster:
    """A node each for router and stages, and one on which clients ask."""

    def __init__(self, network: BadNetwork, nodes: dict[str, Node], right: dict) -> None:
        self.network = network
        self.nodes = nodes
        self._right = right

    def pids(self) -> dict[str, int]:
        return {role: node.pid(role) for role, node in self.nodes.items()}

    @contextlib.contextmanager
    def right_answers(self, max_tokens: int) -> Iterator[None]:
        """Streams are amid their answers as the block begins, and come out as they should."""
        pids = self.pids()
        with contextlib.ExitStack() as stack:
            askers = [stack.enter_context(Asker(f"tcp://{ADDRESSES['router']}:7101",
                                                self.network.within(CLIENT)))
                      for _ in range(STREAMS)]
            for i, asker in enumerate(askers):
                asker.begin(request(i, max_tokens))
            yield
            for i, asker in enumerate(askers):
                assert asker.end() == self._right[max_tokens][i]
        assert self.pids() == pids


@pytest.fixture(scope="module")
def bad_cluster(build, tmp_path_factory):
    skip_without_namespaces()
    folder = tmp_path_factory.mktemp("bad-network")
    whole, model = models.split_tiny(folder / "1", 1), models.split_tiny(folder / "2", 2)
    right = {most: [as_json(answer) for answer in ask_cpud(
                 build, whole, folder, [request(i, most) for i in range(STREAMS)])]
             for most in (SHORT, LONG)}
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(BadNetwork([*ADDRESSES.values(), CLIENT]))
        except OSError as error:
            pytest.skip(f"no TUN device can be made: {error}")
        nodes = {role: Node(folder / role, network.within(address))
                 for role, address in ADDRESSES.items()}
        stack.enter_context(stopped_at_the_end(*nodes.values()))
        for role, node in nodes.items():
            node.launch(ROOT / "configs/two-stages", role, build=build, model=model)
        cluster = BadCluster(network, nodes, right)
        with cluster.right_answers(SHORT):
            pass
        yield cluster
        for role, node in nodes.items():
            node.stops_clean(role)


@pytest.mark.parametrize("faults, counted", [
    (Faults(loss=0.02), "lost"),
    (Faults(delay_ms=20, jitter_ms=30), "late"),
    (Faults(delay_ms=5, overtaking=0.2), "overtaking"),
    (Faults(loss=0.02, delay_ms=10, jitter_ms=10, overtaking=0.1), "overtaking"),
], ids=["loss", "jitter", "reorder", "all"])
def test_a_bad_network(bad_cluster, faults, counted):
    """Also while requests come in."""
    before = bad_cluster.network.counts[counted]
    with bad_cluster.network.faults(faults):
        with bad_cluster.right_answers(SHORT):
            pass
    assert bad_cluster.network.counts[counted] > before + 10


def test_a_slow_network(bad_cluster):
    """256 kbit/s at every node."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(bad_cluster.network.rate(kbit=256, latency_ms=400))
        except AssertionError as error:
            pytest.skip(f"no tbf: {error}")
        with bad_cluster.right_answers(SHORT):
            pass


# ---- faults amid answers ----


def paused(cluster: BadCluster, dice: random.Random) -> None:
    pid = cluster.pids()[dice.choice(list(ADDRESSES))]
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(dice.uniform(0.2, 5.0))
    finally:
        os.kill(pid, signal.SIGCONT)


def two_nodes(dice: random.Random) -> tuple[str, str]:
    return tuple(dice.sample([*ADDRESSES.values(), CLIENT], 2))


def partitioned(cluster: BadCluster, dice: random.Random) -> None:
    a, b = two_nodes(dice)
    with cluster.network.faults(ALL_LOST, [(a, b), (b, a)]):
        time.sleep(dice.uniform(0.2, 5.0))


def cut_one_way(cluster: BadCluster, dice: random.Random) -> None:
    with cluster.network.faults(ALL_LOST, [two_nodes(dice)]):
        time.sleep(dice.uniform(0.2, 5.0))


def bad_for_a_while(cluster: BadCluster, dice: random.Random) -> None:
    faults = Faults(loss=dice.uniform(0.0, 0.05), delay_ms=dice.uniform(0, 100),
                    jitter_ms=dice.uniform(0, 100), overtaking=dice.uniform(0, 0.1))
    with cluster.network.faults(faults):
        time.sleep(dice.uniform(0.5, 5.0))


KINDS = [paused, partitioned, cut_one_way, bad_for_a_while]


@pytest.mark.long
@pytest.mark.parametrize("fault", KINDS)
def test_a_fault_amid_answers(bad_cluster, fault):
    with bad_cluster.right_answers(LONG):
        fault(bad_cluster, random.Random(7))


@pytest.mark.long
@pytest.mark.parametrize("fault", KINDS)
def test_twenty_faults_amid_answers(bad_cluster, fault: Callable):
    dice = random.Random(fault.__name__)
    for case in range(CASES_LONG):
        print(fault.__name__, case)  # shown when it fails
        with bad_cluster.right_answers(LONG):
            fault(bad_cluster, dice)
