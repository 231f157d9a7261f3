"""Nodes for tests: network namespaces on one switch, and launch_node.sh within them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import packet_rules
import pytest
from answers import Answer
from cluster import wait_until
from process_info import is_running

ROOT = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 120.0
_serial = itertools.count()


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                          timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout


class Network:
    """One namespace per address, and one that holds the bridge; the host's own sees nothing."""

    def __init__(self, addresses: Sequence[str]) -> None:
        prefix = f"chatloop-{os.getpid()}-{next(_serial)}"
        self._switch = f"{prefix}-switch"
        self._names = {address: f"{prefix}-{k}" for k, address in enumerate(addresses)}

    def _lines(self) -> Iterator[str]:
        switch = self._switch
        for name in (switch, *self._names.values()):
            yield f"netns add {name}"
            yield f"-n {name} link set lo up"
        yield f"-n {switch} link add bridge type bridge"
        yield f"-n {switch} link set bridge up"
        for k, (address, name) in enumerate(self._names.items()):
            yield f"-n {name} link add eth0 type veth peer name port{k} netns {switch}"
            yield f"-n {switch} link set port{k} master bridge up"
            yield f"-n {name} addr add {address}/24 dev eth0"
            # A packet is a segment: a rule sees each, not dozens in one.
            yield f"-n {name} link set dev eth0 gso_max_segs 1 up"

    def __enter__(self) -> Network:
        try:
            for line in self._lines():
                run("ip", *line.split())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self._switch, *self._names.values()):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def namespace(self, address: str) -> str:
        return self._names[address]

    def within(self, address: str) -> list[str]:
        """How a command begins that runs on this node."""
        return ["ip", "netns", "exec", self._names[address]]

    def link(self, address: str, state: str) -> None:
        run("ip", "-n", self._names[address], "link", "set", "eth0", state)

    @contextlib.contextmanager
    def one_way_cut(self, source: str, destination: str) -> Iterator[None]:
        """Nothing gets from one to the other, without a sign; the other way all goes on."""
        if reason := packet_rules.why_no_nftables():
            warnings.warn(f"cut by a blackhole route: {reason}", stacklevel=3)
            with self.blackhole(source, destination):
                yield
            return
        with packet_rules.dropped(self._names[destination], source) as rule:
            yield
            assert rule.packets() > 0

    @contextlib.contextmanager
    def blackhole(self, source: str, destination: str) -> Iterator[None]:
        """As one_way_cut where there is no nftables; the sender's own stack hears of it."""
        route = ("ip", "-n", self._names[source], "route")
        run(*route, "add", "blackhole", f"{destination}/32")
        try:
            yield
        finally:
            run(*route, "del", "blackhole", f"{destination}/32")


def skip_without_namespaces() -> None:
    """Tries the whole: in a chroot namespaces are made, but not entered; a kernel may lack veth."""
    if shutil.which("ip") is None:
        pytest.skip("no ip command (package iproute2)")
    try:
        with Network(["192.0.2.1"]):
            pass
    except AssertionError as error:
        pytest.skip(f"no network of namespaces can be made: {error}")


class Node:
    """A run folder with a supervisord of its own."""

    def __init__(self, folder: Path, within: Sequence[str] = ()) -> None:
        self.run_dir = folder
        self._within = within

    def launch(self, config: Path, *roles: str, build: Path, model: Path) -> str:
        return run(*self._within, ROOT / "scripts/launch_node.sh", config, *roles,
                   "--run", self.run_dir, "--build", build, "--model", model)

    def stop(self) -> None:
        run(*self._within, ROOT / "scripts/stop.sh", "--run", self.run_dir)

    def _status(self) -> dict[str, list[str]]:
        out = run(sys.executable, ROOT / "scripts/lib/supervise.py", "status", "--run",
                  self.run_dir)
        return {line.split()[0]: line.split() for line in out.splitlines()}

    def state(self, role: str) -> str:
        return self._status()[role][1]

    def pid(self, role: str) -> int:
        """0 when it does not run."""
        return int(self._status()[role][3])

    def supervisor_pid(self) -> int:
        return int((self.run_dir / "supervisord.pid").read_text())

    def log(self, name: str) -> str:
        return (self.run_dir / "log" / f"{name}.log").read_text()

    def restart(self, role: str) -> None:
        """As docs/operations.md has it: drains, then starts it again."""
        run(sys.executable, "-m", "supervisor.supervisorctl", "-c",
            self.run_dir / "supervisord.conf", "restart", f"chatloop:{role}")

    def stops_clean(self, *roles: str) -> None:
        """All that it runs drains and ends with 0."""
        pids = [self.supervisor_pid(), *map(self.pid, roles)]
        self.stop()
        assert not any(map(is_running, pids))
        for role in roles:
            assert f"stopped: {role} (exit status 0)" in self.log("supervisord")


@contextlib.contextmanager
def stopped_at_the_end(*nodes: Node) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for log in sorted(log for node in nodes for log in (node.run_dir / "log").glob("*.log")):
            print(f"---- {log}", *log.read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        raise
    finally:
        for node in nodes:
            node.stop()


class Asker:
    """node_client.py, maybe in another namespace."""

    def __init__(self, endpoint: str, within: Sequence[str] = ()) -> None:
        program = Path(__file__).with_name("node_client.py")
        self._process = subprocess.Popen(
            [*within, sys.executable, program, endpoint], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self, request: Mapping[str, Any]) -> None:
        """Returns amid the answer."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        assert self._read() == "begun"

    def end(self) -> Any:
        return self._read()

    def ask(self, request: Mapping[str, Any]) -> Any:
        self.begin(request)
        return self.end()

    def _read(self) -> Any:
        return json.loads(self._process.stdout.readline())


def as_json(answer: Answer) -> Any:
    """As node_client.py prints it."""
    return json.loads(json.dumps(dataclasses.asdict(answer)))


def wait_for_another(node: Node, role: str, first: int, timeout_s: float) -> None:
    wait_until(lambda: node.pid(role) not in (0, first), timeout_s, f"{role} is started again")
