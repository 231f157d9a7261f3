"""Nodes as scripts/launch_node.sh starts them, with the configurations of configs/."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import models
import pytest
from answers import ask_cpud
from cluster import wait_until
from conftest import ROOT
from nodes import (Asker, Network, Node, as_json, run, skip_without_namespaces, stopped_at_the_end,
                   wait_for_another)
from process_info import is_running

CONFIGS = ROOT / "configs"
FOLDERS = {"one-host": 1, "two-stages": 2, "four-stages": 4, "replicas": 2}  # partitions
SHORT = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 64, "logprobs": 2,
         "temperature": 0.8, "seed": 1}
RUNNING = {**SHORT, "max_tokens": 1500}
LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000, "seed": 2}
BACK_S = 60.0
LOST_S = 2.0  # far more than the silence that makes a worker dead
ADDRESSES = {"router": "192.0.2.1", "stage-0": "192.0.2.2", "stage-1": "192.0.2.3"}
REPLICAS = {"router": "192.0.2.1", "stage-0a": "192.0.2.2", "stage-0b": "192.0.2.3",
            "stage-1a": "192.0.2.4", "stage-1b": "192.0.2.5"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """partitions -> a tiny model's directory"""
    folder = tmp_path_factory.mktemp("tiny-cuts")
    return {n: models.split_tiny(folder / str(n), n) for n in sorted(set(FOLDERS.values()))}


@pytest.fixture(scope="module")
def right(build, tiny, tmp_path_factory):
    """What one process answers to SHORT."""
    [answer] = ask_cpud(build, tiny[1], tmp_path_factory.mktemp("one-process"), [SHORT])
    return as_json(answer)


def roles_of(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def test_every_folder_of_configurations_is_known():
    assert {file.parent.name for file in CONFIGS.glob("*/*.yaml")} == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_committed_configurations_are_valid(build, tiny, tmp_path, name):
    """On hosts that have their addresses: --check asks for those, too."""
    roles = roles_of(CONFIGS / name)
    here = tmp_path / name
    here.mkdir()
    for file in (CONFIGS / name).glob("*.yaml"):
        (here / file.name).write_text(file.read_text().replace("192.0.2.", "127.0.0."))
    said = run(ROOT / "scripts/launch_node.sh", here, *roles, "--check", "--run",
               tmp_path / "run", "--build", build, "--model", tiny[FOLDERS[name]])
    assert said.count(": all is well: ") == said.count("\n") == len(roles)


# ---- one host ----


@pytest.fixture
def one_host(tmp_path):
    """configs/one-host on ports that are ours as long as the test runs, and its front's address."""
    folder = shutil.copytree(CONFIGS / "one-host", tmp_path / "one-host")
    with contextlib.ExitStack() as reserved:
        def port() -> int:
            held = reserved.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an actor may bind it, too
            held.bind(("127.0.0.1", 0))
            return held.getsockname()[1]

        ctrl, front, result = (f"tcp://127.0.0.1:{port()}" for _ in range(3))
        with (folder / "router.yaml").open("a") as file:
            file.write(f"bus: {{ctrl: '{ctrl}', front: '{front}', result: '{result}'}}\n")
        stage = folder / "stage-0.yaml"
        text, count = re.subn(r"listen: .*", f"listen: tcp://127.0.0.1:{port()}\n"
                                             f"  routers: ['{ctrl}']", stage.read_text())
        assert count == 1
        stage.write_text(text)
        for file in folder.glob("*.yaml"):
            text = re.sub(r"bind: .*", lambda _: f"bind: 127.0.0.1:{port()}", file.read_text())
            file.write_text(text)
        yield folder, front


@pytest.fixture
def one_node(build, tiny, one_host, tmp_path):
    """A node with a router and a stage, its model (a copy to damage) and one who asks."""
    config, front = one_host
    model = shutil.copytree(tiny[1], tmp_path / "model")
    node = Node(tmp_path / "run")
    with stopped_at_the_end(node), Asker(front) as asker:
        node.launch(config, "router", "stage-0", build=build, model=model)
        yield node, model, asker


def test_a_killed_stage_is_restarted_and_taken_in_again(one_node, right):
    node, _, asker = one_node
    assert asker.ask(SHORT) == right
    for _ in range(2):  # the second dies young
        first = node.pid("stage-0")
        os.kill(first, signal.SIGKILL)
        wait_for_another(node, "stage-0", first, BACK_S)
        assert asker.ask(SHORT) == right
    node.stops_clean("router", "stage-0")


def test_a_stage_that_refuses_its_files_is_not_restarted(one_node, right):
    node, model, asker = one_node
    assert asker.ask(SHORT) == right
    (model / "partition_metadata.json").write_text("{}")
    os.kill(node.pid("stage-0"), signal.SIGKILL)
    wait_until(lambda: "exit status 64" in node.log("supervisord"), BACK_S, "it refuses its files")
    starts = node.log("supervisord").count("spawned: 'stage-0'")
    time.sleep(3)  # supervisord looks once a second
    assert node.state("stage-0") == "EXITED"
    assert node.log("supervisord").count("spawned: 'stage-0'") == starts == 2
    assert node.log("stage-0").splitlines()[-1].startswith("chatloop-stage: ")


def test_a_killed_supervisord_leaves_nobody_behind(adopts_orphans, one_node):
    """Its children finish what runs, and end by themselves."""
    node, _, asker = one_node
    pids = [node.pid(role) for role in ("router", "stage-0")]
    asker.begin(LONG)
    supervisor = node.supervisor_pid()
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    assert len(asker.end()["token_ids"]) == LONG["max_tokens"]
    wait_until(lambda: not any(map(is_running, pids)), BACK_S, "all have ended")
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def run_disk(tmp_path):
    """The run folder of one_node, logs and all, is a small disk."""
    folder = tmp_path / "run"
    folder.mkdir()
    try:
        run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder)
    except AssertionError as error:
        pytest.skip(f"no disk can be mounted: {error}")
    yield folder
    run("umount", folder)


def test_a_full_disk_under_the_logs_during_a_fault(run_disk, one_node, right):
    """Nothing more is logged by supervisord and by what it runs; a killed stage is restarted, and
    the answer comes out. With room again there are lines again."""
    node, _, asker = one_node
    expected = asker.ask(RUNNING)
    filler = run_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(run_disk).f_bavail == 0

    def takes_no_more() -> bool:
        before = len(node.log("router"))
        assert asker.ask(SHORT) == right
        return len(node.log("router")) == before

    wait_until(takes_no_more, BACK_S, "the last page is full, too")
    first = node.pid("stage-0")
    asker.begin(RUNNING)
    os.kill(first, signal.SIGKILL)
    wait_for_another(node, "stage-0", first, BACK_S)
    assert asker.end() == expected
    filler.unlink()
    length = len(node.log("router"))
    wait_until(lambda: asker.ask(SHORT) == right and len(node.log("router")) > length, BACK_S,
               "it logs again")
    node.stops_clean("router", "stage-0")


# ---- three nodes in network namespaces ----


@pytest.fixture
def nodes(build, tiny, tmp_path):
    """(folder of configs/, {role: address of its node}) -> {role: its node}, the network, and one
    who asks at the router's. The files are used unchanged."""
    skip_without_namespaces()
    with contextlib.ExitStack() as stack:
        def launch(folder: str, addresses: dict[str, str]):
            network = stack.enter_context(Network(list(addresses.values())))
            made = {role: Node(tmp_path / role, network.within(address))
                    for role, address in addresses.items()}
            stack.enter_context(stopped_at_the_end(*made.values()))
            for role, node in made.items():
                node.launch(CONFIGS / folder, role, build=build, model=tiny[FOLDERS[folder]])
            router = addresses["router"]
            asker = Asker(f"tcp://{router}:7101", network.within(router))
            return made, network, stack.enter_context(asker)

        yield launch


def test_three_nodes(nodes, right):
    made, network, asker = nodes("two-stages", ADDRESSES)
    assert asker.ask(SHORT) == right

    first = made["stage-0"].pid("stage-0")
    os.kill(first, signal.SIGKILL)
    wait_for_another(made["stage-0"], "stage-0", first, BACK_S)
    assert asker.ask(SHORT) == right

    pids = {role: node.pid(role) for role, node in made.items()}
    whole = asker.ask(LONG)
    for role in ("stage-0", "stage-1"):
        asker.begin(LONG)
        network.link(ADDRESSES[role], "down")
        time.sleep(LOST_S)  # longer than a worker is taken for well
        network.link(ADDRESSES[role], "up")
        assert asker.end() == whole
        assert asker.ask(SHORT) == right
    assert pids == {role: node.pid(role) for role, node in made.items()}  # nobody was restarted

    for role, node in made.items():
        node.stops_clean(role)


def test_a_rolling_upgrade(nodes, right):
    """Every worker of two replicas is restarted amid answers, and none of them fails."""
    made, _, asker = nodes("replicas", REPLICAS)
    expected = asker.ask(RUNNING)
    for role in list(REPLICAS)[1:]:
        first = made[role].pid(role)
        asker.begin(RUNNING)
        made[role].restart(role)
        assert asker.end() == expected
        assert asker.ask(SHORT) == right
        assert made[role].pid(role) not in (0, first)
        wait_until(lambda r=role: "ready" in made[r].log(r).rpartition("listens at")[2], BACK_S,
                   f"{role} is ready")
        assert "exit status 0" in made[role].log("supervisord")
    for role, node in made.items():
        node.stops_clean(role)


@pytest.mark.long
def test_edges_that_are_cut_for_good(nodes, right):
    """Both edges that are in use are cut at once, and each first stage reaches the other last one:
    what runs moves there, and so does what comes. Everybody lives on."""
    # In this order: a route is formed as soon as there is one.
    pairs = [("stage-0a", "stage-1a"), ("stage-0b", "stage-1b")]
    made, network, asker = nodes("replicas", {
        role: REPLICAS[role] for role in ("router", *pairs[0], *pairs[1])})
    expected = asker.ask(LONG)
    pids = {role: node.pid(role) for role, node in made.items()}
    asker.begin(LONG)
    with contextlib.ExitStack() as stack:
        for first, last in pairs:
            stack.enter_context(network.one_way_cut(REPLICAS[first], REPLICAS[last]))
        assert asker.end() == expected
        for _ in range(3):
            assert asker.ask(SHORT) == right
    assert pids == {role: node.pid(role) for role, node in made.items()}
    for role, node in made.items():
        node.stops_clean(role)
