"""What fault_bench.py does to a cluster, and how that becomes whole again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import ANY_PORT, Cluster, Process
from forwarder import enter_namespace
from nodes import Network


@dataclass(frozen=True)
class Kind:
    how: str  # killed, stopped or cut
    victim: str
    own_sampler: bool
    spare: bool  # a process that can take its place; else the victim is started again

    def strike(self, cluster: Cluster) -> None:
        if self.victim == "router":
            cluster.restart_router()
        elif self.how == "killed":
            cluster.processes[self.victim].kill()
            if not self.spare:
                cluster.restart(self.victim)
        elif self.how == "stopped":
            cluster.processes[self.victim].signal(signal.SIGSTOP)
        else:
            assert isinstance(cluster, Scattered)
            cluster.cable(self.victim, "down")

    def heal(self, cluster: Cluster) -> None:
        """The victim is back, as the next spare: the two names change places."""
        if self.how == "stopped":
            cluster.processes[self.victim].signal(signal.SIGCONT)
        elif self.how == "cut":
            assert isinstance(cluster, Scattered)
            cluster.cable(self.victim, "up")
        elif self.spare:
            cluster.restart(self.victim)
        if self.spare:
            processes = cluster.processes
            processes[self.victim], processes["spare"] = (processes["spare"],
                                                          processes[self.victim])


KINDS = {
    "first stage killed, spare": Kind("killed", "stage-0", True, True),
    "last stage killed, spare": Kind("killed", "stage-1", True, True),
    "sampler killed, spare": Kind("killed", "sampler", True, True),
    "first stage killed, restarted": Kind("killed", "stage-0", True, False),
    "last stage with sampler restarted": Kind("killed", "stage-1", False, False),
    "router killed, restarted": Kind("killed", "router", True, False),
    "first stage stopped, spare": Kind("stopped", "stage-0", True, True),
    "sampler stopped, spare": Kind("stopped", "sampler", True, True),
    "first stage cut off, spare": Kind("cut", "stage-0", True, True),
    "last stage cut off, spare": Kind("cut", "stage-1", True, True),
}


class Scattered(Cluster):
    """Every process in a network namespace of its own."""

    CLIENT = "192.0.2.254"

    def __init__(self, network: Network, addresses: list[str], *arguments: object,
                 **options: object) -> None:
        super().__init__(*arguments, **options)
        self._network = network
        self._free = iter(addresses)
        self._address_of: dict[int, str] = {}

    def start(self, name: str, actor: str, *options: object,
              model: Path | None = None) -> Process:
        assert name not in self.processes
        address = next(self._free)
        own = [option.replace("127.0.0.1", address) if option == ANY_PORT else option
               for option in options]
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [*self._network.within(address), self._build / "actors" / actor, "--model",
                   model or self._model, "--name", name, *own]
        process = Process(name, self._folder / f"{name}.log", command)
        self._address_of[process.pid] = address
        self.processes[name] = process
        return process

    def cable(self, name: str, state: str) -> None:
        self._network.link(self._address_of[self.processes[name].pid], state)


@contextlib.contextmanager
def faulty_cluster(build: Path, model: Path, folder: Path, kind: Kind) -> Iterator[Cluster]:
    """With the spare that the kind asks for; of a cut, the caller's thread is on the network, too,
    and so is each thread that it starts meanwhile."""
    with contextlib.ExitStack() as stack:
        if kind.how == "cut":
            addresses = [f"192.0.2.{k}" for k in range(1, 6)]
            network = stack.enter_context(Network([*addresses, Scattered.CLIENT]))
            stack.enter_context(enter_namespace(network.namespace(Scattered.CLIENT)))
            made: Cluster = Scattered(network, addresses, build, model, folder,
                                      own_sampler=kind.own_sampler)
        else:
            made = Cluster(build, model, folder, own_sampler=kind.own_sampler)
        cluster = stack.enter_context(made)
        if kind.spare:
            options = () if kind.victim == "sampler" else ("--partition", kind.victim[-1])
            actor = "chatloop-sampler" if kind.victim == "sampler" else "chatloop-stage"
            cluster.start_worker("spare", actor, *options)
        yield cluster
