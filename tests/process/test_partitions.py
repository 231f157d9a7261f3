"""A network that drops all packets of one direction, or resets connections amid their frames,
between any two of router, first and last stage and sampler: the answer pauses, and comes out as
without it. Nobody is restarted."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import models
import packet_rules
import pytest
from answers import ask_cpud
from conftest import ROOT
from forwarder import enter_namespace
from nodes import Asker, Network, Node, as_json, skip_without_namespaces, stopped_at_the_end

ADDRESSES = {"router": "192.0.2.1", "stage-0": "192.0.2.2", "stage-1": "192.0.2.3",
             "sampler": "192.0.2.4"}
# The ways of frames, results, heartbeats and the acknowledgements of each. Between first stage and
# sampler there is nothing to cut.
EDGES = [("router", "stage-0"), ("stage-0", "router"), ("stage-0", "stage-1"),
         ("stage-1", "stage-0"), ("sampler", "router"), ("router", "sampler")]
ALL_EDGES = [*EDGES, *(pytest.param(*edge, marks=pytest.mark.long) for edge in (
    ("router", "stage-1"), ("stage-1", "router"), ("stage-1", "sampler"), ("sampler", "stage-1")))]
REQUEST = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 4000, "logprobs": 1,
           "temperature": 0.8, "seed": 1}
# Its frames from stage to stage take forty packets each.
PROMPT = {**REQUEST, "token_ids": [2 + i * i % 8 for i in range(1500)], "max_tokens": 200}
CUT_S = 4.0  # longer than TCP bears unacknowledged data (3 s)
RESETTING_S = 1.0
FULL_BYTES = 1500  # a packet of that size is followed by more of its message
QUIET_S = 0.3


class CutCluster:
    def __init__(self, network: Network, nodes: Mapping[str, Node], asker: Asker,
                 right: tuple[Any, Any]) -> None:
        self.network = network
        self.asker = asker
        self.right, self.right_to_prompt = right
        self._nodes = nodes

    @contextlib.contextmanager
    def nobody_restarted(self) -> Iterator[None]:
        pids = {role: node.pid(role) for role, node in self._nodes.items()}
        yield
        assert pids == {role: node.pid(role) for role, node in self._nodes.items()}

    def reset(self, source: str, destination: str,
              **which: int) -> contextlib.AbstractContextManager[packet_rules.Rule]:
        return packet_rules.reset(self.network.namespace(ADDRESSES[destination]),
                                  ADDRESSES[source], **which)


def with_own_sampler(folder: Path) -> Path:
    """configs/two-stages, and the sampler of configs/four-stages at another address."""
    shutil.copytree(ROOT / "configs/two-stages", folder)
    stage = folder / "stage-1.yaml"
    text, count = re.subn(r"\n  with_sampler: true", "", stage.read_text())
    assert count == 1
    stage.write_text(text)
    sampler = (ROOT / "configs/four-stages/sampler.yaml").read_text()
    (folder / "sampler.yaml").write_text(re.sub(r"192\.0\.2\.1(?=:[79]...\n)",
                                                ADDRESSES["sampler"], sampler))
    return folder


@pytest.fixture(scope="module")
def cut_cluster(build, tmp_path_factory):
    """The network, the nodes, and one who asks at the router's; the right answers."""
    skip_without_namespaces()
    folder = tmp_path_factory.mktemp("partitions")
    right = tuple(map(as_json, ask_cpud(build, models.split_tiny(folder / "1", 1), folder,
                                        [REQUEST, PROMPT])))
    model = models.split_tiny(folder / "2", 2)
    config = with_own_sampler(folder / "config")
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(list(ADDRESSES.values())))
        nodes = {role: Node(folder / role, network.within(address))
                 for role, address in ADDRESSES.items()}
        stack.enter_context(stopped_at_the_end(*nodes.values()))
        for role, node in nodes.items():
            node.launch(config, role, build=build, model=model)
        router = ADDRESSES["router"]
        asker = stack.enter_context(Asker(f"tcp://{router}:7101", network.within(router)))
        assert asker.ask(REQUEST) == right[0]
        yield CutCluster(network, nodes, asker, right)
        for role, node in nodes.items():
            node.stops_clean(role)


@pytest.fixture
def needs_nftables() -> None:
    if reason := packet_rules.why_no_nftables():
        pytest.skip(reason)


@pytest.mark.parametrize("source, destination", ALL_EDGES)
def test_one_way(cut_cluster, source, destination):
    with cut_cluster.nobody_restarted():
        cut_cluster.asker.begin(REQUEST)
        with cut_cluster.network.one_way_cut(ADDRESSES[source], ADDRESSES[destination]):
            time.sleep(CUT_S)
        assert cut_cluster.asker.end() == cut_cluster.right


@pytest.mark.parametrize("source, destination", ALL_EDGES)
def test_resets(cut_cluster, needs_nftables, source, destination):
    """Several in a row: also the connection that is made in place of the first."""
    with cut_cluster.nobody_restarted():
        cut_cluster.asker.begin(REQUEST)
        with cut_cluster.reset(source, destination) as rule:
            time.sleep(RESETTING_S)
            packets = rule.packets()
        assert cut_cluster.asker.end() == cut_cluster.right
        assert packets >= 2


def test_a_reset_amid_a_frame(cut_cluster, needs_nftables):
    """The next stage is left with the beginning of a frame, and hears nothing of the reset."""
    with cut_cluster.nobody_restarted():
        with cut_cluster.reset("stage-0", "stage-1", bytes_min=FULL_BYTES, every=3,
                               per_second=2) as rule:
            assert cut_cluster.asker.ask(PROMPT) == cut_cluster.right_to_prompt
            assert rule.packets() >= 1


@pytest.mark.parametrize("way", ["nftables", "routes"])
def test_the_cut_is_of_one_direction(way):
    """What the tests above rest on, and on a kernel without nf_tables."""
    skip_without_namespaces()
    if way == "nftables" and (reason := packet_rules.why_no_nftables()):
        pytest.skip(reason)
    a, b = "192.0.2.1", "192.0.2.2"
    with Network([a, b]) as network, contextlib.ExitStack() as stack:
        ends = {}
        for address in (a, b):
            with enter_namespace(network.namespace(address)):
                ends[address] = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            ends[address].bind((address, 9))
            ends[address].settimeout(QUIET_S)

        def arrives(source: str, destination: str) -> bool:
            with contextlib.suppress(OSError):  # a route that is none says so
                ends[source].sendto(b"x", (destination, 9))
            with contextlib.suppress(TimeoutError):
                return ends[destination].recv(1) == b"x"
            return False

        assert arrives(a, b) and arrives(b, a)
        with network.one_way_cut(a, b) if way == "nftables" else network.blackhole(a, b):
            assert not arrives(a, b)
            assert arrives(b, a)
        assert arrives(a, b) and arrives(b, a)
