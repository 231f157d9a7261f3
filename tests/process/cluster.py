"""Real ChatLoop processes on ports that the system chooses.

    with Cluster(build, model, folder) as cluster:
        cluster.client().generate(prompt="...")
        cluster.stop()                             drains; every exit code must be 0

Whatever happens, no process outlives the `with` block, and after an error the logs are printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chatloop import ChatLoopError, Client

ANY_PORT = "tcp://127.0.0.1:*"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0  # above the 30 s that a router gives its requests to finish
POLL_S = 0.01
LOG_LINES_SHOWN = 40
# Tests and benches say where a page of metrics is to be; the actors' default are known ports.
os.environ["CHATLOOP_METRICS_BIND"] = "off"


def wait_until(ready: Callable[[], object], timeout_s: float, what: str) -> None:
    """Polls; fails when `ready()` is not true for `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline_s, f"not after {timeout_s:g} s: {what}"
        time.sleep(POLL_S)


class Process:
    """One actor. Its stdout and stderr go to a file, as under a supervisor."""

    def __init__(self, name: str, log: Path, command: Sequence[object]) -> None:
        self.name = name
        self.log = log
        self.command = command
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    def terminate(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        if self.exit_code is None:
            self._popen.kill()
        self._popen.wait()

    def messages(self) -> list[str]:
        """What it has logged so far: the `message` of each JSON line, other lines as they are."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line)["message"])
            except (ValueError, KeyError, TypeError):
                found.append(line)
        return found


class Cluster:
    """A router, one stage per partition of the model, and the sampler: in the last stage, or with
    `own_sampler` in a process of its own. `router`, `stage` and `sampler` are further options;
    `stage_of` gives some to one stage only. With `hosted_router` the first stage is the router,
    too, and its options are lines of YAML."""

    live: list[Cluster] = []  # for the report of a failed test

    def __init__(self, build: Path, model: Path, folder: Path, *, own_sampler: bool = False,
                 hosted_router: bool = False, router: Sequence[str] = (), stage: Sequence[str] = (),
                 sampler: Sequence[str] = (),
                 stage_of: dict[int, Sequence[str]] | None = None) -> None:
        self.processes: dict[str, Process] = {}
        self.endpoints: dict[str, str] = {}  # ctrl, front and result of the router
        self._build, self._model, self._folder = build, model, folder
        self._own_sampler, self._hosted_router = own_sampler, hosted_router
        self._router, self._stage, self._sampler = router, stage, sampler
        self._stage_of = stage_of or {}
        self._clients: list[Client] = []

    def __enter__(self) -> Cluster:
        Cluster.live.append(self)
        try:
            self.start_router()
            self.start_workers()
            self.wait_ready()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    @contextlib.contextmanager
    def empty(self) -> Iterator[Cluster]:
        """As `with cluster`, but nothing is started yet."""
        Cluster.live.append(self)
        try:
            yield self
        except BaseException as error:
            self.__exit__(type(error))
            raise
        self.__exit__(None)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        Cluster.live.remove(self)
        for client in self._clients:
            client.close()
        for process in self.processes.values():
            process.kill()
        if kind is not None:
            print(self.logs(), file=sys.stderr)

    def client(self, **options: float) -> Client:
        """A client with a link of its own, closed with the cluster."""
        client = Client(self.endpoints["front"], **{"timeout_s": 120.0, **options})
        self._clients.append(client)
        return client

    def start(self, name: str, actor: str, *options: object, model: Path | None = None) -> Process:
        assert name not in self.processes
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [self._build / "actors" / actor, "--model", model or self._model,
                   "--name", name, *options]
        process = Process(name, self._folder / f"{name}.log", command)
        self.processes[name] = process
        return process

    def start_worker(self, name: str, actor: str, *options: object,
                     model: Path | None = None) -> Process:
        return self.start(name, actor, "--listen", ANY_PORT, "--router", self.endpoints["ctrl"],
                          *options, model=model)

    def restart(self, name: str) -> Process:
        """Another process of that name, as a supervisor starts it; a worker's port is a new one."""
        old = self.processes[name]
        old.kill()
        log = old.log.with_name(f"{name}.{len(list(old.log.parent.glob(name + '.*')))}.log")
        self.processes[name] = Process(name, log, old.command)
        return self.processes[name]

    def restart_router_in_place(self) -> None:
        """kill -9, and another one at the same ports."""
        self.processes.pop("router").kill()
        (self._folder / "endpoints.json").unlink()
        ports = [word for name, at in self.endpoints.items() for word in (f"--{name}", at)]
        self._router = [*self._router, *ports]
        self.start_router()

    def listens_at(self, worker: str) -> str:
        """The endpoint of a worker's `in` socket, which its first log line tells."""
        text = "\n".join(self.processes[worker].messages())
        found = re.search(r"listens at (tcp://[\d.]+:\d+)", text)
        assert found, text
        return found[1]

    def wait_ready(self) -> None:
        client = self.client(timeout_s=5.0)

        def ready() -> bool:
            ended = {p.name: p.exit_code for p in self.processes.values()
                     if p.exit_code is not None}
            assert not ended, f"ended with exit code: {ended}"
            try:
                return bool(client.status()["ready"])
            except ChatLoopError:
                return False

        wait_until(ready, READY_TIMEOUT_S, "the cluster is ready")

    def terminate(self) -> None:
        """SIGTERM to all at once, as supervisord's shutdown does."""
        for process in self.processes.values():
            if process.exit_code is None:
                process.terminate()

    def assert_drained(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """All end by themselves, and with exit code 0."""
        deadline_s = time.monotonic() + timeout_s
        for process in self.processes.values():
            try:
                code = process.wait(max(deadline_s - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{process.name} runs {timeout_s:g} s after SIGTERM") from None
            assert code == 0, f"{process.name} ended with exit code {code}"

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        self.terminate()
        self.assert_drained(timeout_s)

    def restart_router(self) -> None:
        """kill -9, and another one on the same ports."""
        self.processes.pop("router").kill()
        ports = [word for name in ("ctrl", "front", "result")
                 for word in (f"--{name}", self.endpoints[name])]
        self.start("router", "chatloop-router", *ports, *self._router)

    def logs(self) -> str:
        return "\n".join(
            f"---- {process.name}, exit code {process.exit_code}, last lines of {process.log}\n"
            + "\n".join(process.messages()[-LOG_LINES_SHOWN:])
            for process in self.processes.values()
        )

    def start_router(self) -> None:
        file = self._folder / "endpoints.json"
        if self._hosted_router:
            router = self._start_hosted_router(file)
        else:
            names = ("--ctrl", "--front", "--result")
            ports = [word for name in names if name not in self._router
                     for word in (name, ANY_PORT)]
            router = self.start("router", "chatloop-router", "--endpoints-file", file, *ports,
                                *self._router)
        wait_until(lambda: file.exists() or router.exit_code is not None, READY_TIMEOUT_S,
                   "the router writes its endpoints")
        assert router.exit_code is None, f"the router ended with exit code {router.exit_code}"
        self.endpoints = json.loads(file.read_text())

    def _start_hosted_router(self, file: Path) -> Process:
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "router.yaml"
        lines = ["bus:", *(f'  {name}: "{ANY_PORT}"' for name in ("ctrl", "front", "result")),
                 *self._router]
        config.write_text("\n".join(lines) + "\n")
        return self.start("stage-0", "chatloop-stage", "--listen", ANY_PORT, "--with-router",
                          config, "--endpoints-file", file, *self._stage_options(0))

    def _stage_options(self, k: int) -> list[object]:
        hosted = ["--with-sampler"] if k == self._last() and not self._own_sampler else []
        return ["--partition", k, *hosted, *self._stage, *self._stage_of.get(k, ())]

    def _last(self) -> int:
        metadata = json.loads((self._model / "partition_metadata.json").read_text())
        return len(metadata["partitions"]) - 1

    def start_workers(self) -> None:
        for k in range(self._last() + 1):
            if k == 0 and self._hosted_router:
                continue
            self.start_worker(f"stage-{k}", "chatloop-stage", *self._stage_options(k))
        if self._own_sampler:
            self.start_worker("sampler", "chatloop-sampler", *self._sampler)
