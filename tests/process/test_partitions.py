"""A network that is cut in one direction, between any two of router, first and last stage: the
answer pauses, and comes out as without it. Nobody is restarted."""

from __future__ import annotations

import contextlib
import itertools
import time

import models
import pytest
from answers import ask_cpud
from conftest import ROOT
from nodes import Asker, Network, Node, as_json, skip_without_namespaces, stopped_at_the_end

ADDRESSES = {"router": "192.0.2.1", "stage-0": "192.0.2.2", "stage-1": "192.0.2.3"}
REQUEST = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 4000, "logprobs": 1,
           "temperature": 0.8, "seed": 1}
CUT_S = 4.0  # longer than TCP bears unacknowledged data (3 s)


@pytest.fixture(scope="module")
def cut_cluster(build, tmp_path_factory):
    """The network, the nodes, and one who asks at the router's; the right answer."""
    skip_without_namespaces()
    folder = tmp_path_factory.mktemp("partitions")
    [right] = ask_cpud(build, models.split_tiny(folder / "1", 1), folder, [REQUEST])
    model = models.split_tiny(folder / "2", 2)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(list(ADDRESSES.values())))
        nodes = {role: Node(folder / role, network.within(address))
                 for role, address in ADDRESSES.items()}
        stack.enter_context(stopped_at_the_end(*nodes.values()))
        for role, node in nodes.items():
            node.launch(ROOT / "configs/two-stages", role, build=build, model=model)
        router = ADDRESSES["router"]
        asker = stack.enter_context(Asker(f"tcp://{router}:7101", network.within(router)))
        assert asker.ask(REQUEST) == as_json(right)
        yield network, nodes, asker, as_json(right)
        for role, node in nodes.items():
            node.stops_clean(role)


@pytest.mark.parametrize("source, destination", list(itertools.permutations(ADDRESSES, 2)))
def test_one_way(cut_cluster, source, destination):
    network, nodes, asker, right = cut_cluster
    pids = {role: node.pid(role) for role, node in nodes.items()}
    asker.begin(REQUEST)
    with network.one_way_cut(ADDRESSES[source], ADDRESSES[destination]):
        time.sleep(CUT_S)
    assert asker.end() == right
    assert pids == {role: node.pid(role) for role, node in nodes.items()}
