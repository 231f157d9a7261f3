"""A local cluster under supervisord: a router, a stage per partition, the sampler in the last.

    cluster.py start --build DIR --model DIR --run DIR    starts, waits until ready
    cluster.py stop --run DIR                             drains every process and ends supervisord
    cluster.py status --run DIR                           one line per process; 1 when none

All of it is unprivileged and lies in the run folder. Errors are two lines: the cause and the cure.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import resource
import shlex
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import xmlrpc.client

from supervisor.xmlrpc import SupervisorTransport

REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "python"))
from chatloop import ChatLoopError, Client  # noqa: E402  (of this clone, not of the environment)

HOST = "127.0.0.1"
ROUTER = "router-0"
PORT_BASE = 7100  # ctrl; then front, result, and the stages from STAGE_OFFSET
FRONT_OFFSET, RESULT_OFFSET, STAGE_OFFSET = 1, 2, 100
PARTITIONS_MAX = 64
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
SOCKET_PATH_BYTES_MAX = 90  # of 107; supervisord appends its pid while it binds

RPC_ERRORS = (OSError, http.client.HTTPException, xmlrpc.client.Error)

EXIT_MEANING = {
    64: "its configuration or model files are not valid",
    65: "a port is in use",
    66: "a key is missing or not valid",
    70: "it found a bug in itself",
}


class ClusterError(Exception):
    def __init__(self, cause, cure):
        super().__init__(cause)
        self.cause = cause
        self.cure = cure


def endpoint(port):
    return f"tcp://{HOST}:{port}"


# ---- what runs ----


def partition_count(model):
    path = model / "partition_metadata.json"
    try:
        return len(json.loads(path.read_text())["partitions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{path} is not a model's metadata: {error}",
            "Split the model with python/model_splitter/split_model.py.",
        ) from error


def processes(build, model, base):
    """[(name, argument list, ports it binds)], in the order of the hops."""
    stages = partition_count(model)
    if stages > PARTITIONS_MAX:
        raise ClusterError(
            f"{stages} partitions are more than a local cluster's {PARTITIONS_MAX}",
            "Choose fewer with --partitions.",
        )
    actors = build / "actors"
    router = [
        actors / "chatloop-router", "--model", model, "--name", ROUTER,
        "--ctrl", endpoint(base), "--front", endpoint(base + FRONT_OFFSET),
        "--result", endpoint(base + RESULT_OFFSET),
    ]
    result = [(ROUTER, router, [base, base + FRONT_OFFSET, base + RESULT_OFFSET])]
    for k in range(stages):
        port = base + STAGE_OFFSET + k
        stage = [
            actors / "chatloop-stage", "--model", model, "--partition", k, "--name", f"stage-{k}",
            "--listen", endpoint(port), "--router", endpoint(base),
        ]
        if k == stages - 1:
            stage.append("--with-sampler")
        result.append((f"stage-{k}", stage, [port]))
    for name, command, _ in result:
        if not os.access(command[0], os.X_OK):
            raise ClusterError(
                f"{command[0]}, the binary of {name}, is missing", f"Build: ninja -C {build}."
            )
    return result


def check_ports_free(ports):
    for port in ports:
        with socket.socket() as probe:
            # As libzmq binds: a connection in TIME_WAIT is no obstacle, a listener is.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise ClusterError(
                    f"port {port} on {HOST} is in use ({error.strerror})",
                    "If another clone's ChatLoop cluster has it, run scripts/stop.sh there"
                    f"; else end the program that `ss -ltnp 'sport = :{port}'` names.",
                ) from error


# ---- supervisord ----


def socket_path(run):
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    return pathlib.Path(tempfile.gettempdir()) / f"chatloop-{os.getuid()}-{digest}.sock"


def supervisor_rpc(run):
    transport = SupervisorTransport(serverurl=f"unix://{socket_path(run)}")
    return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def supervisor_pid(run):
    """The pid of this run folder's supervisord, or None when it does not run."""
    try:
        pid = int((run / "supervisord.pid").read_text())
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(run / "supervisord.conf") in command else None


def write_config(run, commands):
    def fill(template, **values):
        text = (REPO / "configs/supervisor" / template).read_text()
        # A percent sign starts an expansion of supervisord's.
        safe = {key: str(value).replace("%", "%%") for key, value in values.items()}
        return string.Template(text).substitute(safe)

    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    minfds = 65536 if files_max == resource.RLIM_INFINITY else min(65536, files_max)
    text = fill(
        "supervisord.conf.in", run=run, repo=REPO, socket=socket_path(run), minfds=minfds
    )
    for name, command, _ in commands:
        text += fill(
            "program.conf.in", run=run, name=name, command=shlex.join(map(str, command))
        )
    (run / "log").mkdir(parents=True, exist_ok=True)
    config = run / "supervisord.conf"
    config.write_text(text)
    return config


def last_exit(run, name):
    """(how the process ended last, its exit code or None), as supervisord logged it."""
    pattern = re.compile(rf"exited: {re.escape(name)} \((exit status (\d+)|terminated by \w+)")
    log = (run / "log" / "supervisord.log").read_text(errors="replace")
    ends = pattern.findall(log)
    if not ends:
        return "it did not start", None
    how, code = ends[-1]
    return how, int(code) if code else None


def check_running(run, rpc):
    """Raises when a process has ended: with its last words and its exit code's meaning."""
    for info in rpc.getAllProcessInfo():
        if info["statename"] in ("STARTING", "RUNNING"):
            continue
        name = info["name"]
        log = run / "log" / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        said = next((line for line in reversed(lines) if line.strip()), "nothing")
        how, code = last_exit(run, name)
        raise ClusterError(
            f"{name} ended ({how}): {EXIT_MEANING.get(code, 'unexpected')}. It said: {said}",
            f"Its whole log: {log}",
        )


def wait_until_ready(run, front_port):
    """Returns when the router has a route on which every process answered."""
    rpc = supervisor_rpc(run)
    deadline = time.monotonic() + READY_TIMEOUT_S
    seen = "no answer of the router"
    with Client(endpoint(front_port), timeout_s=1.0, connect_timeout_s=1.0) as client:
        while time.monotonic() < deadline:
            check_running(run, rpc)
            try:
                status = client.status()
            except ChatLoopError as error:
                seen = str(error)
            else:
                if status["ready"]:
                    return
                names = [worker["name"] for worker in status["workers"]]
                seen = f"the router knows these workers: {names}"
            time.sleep(0.05)
    raise ClusterError(f"not ready after {READY_TIMEOUT_S:.0f} s; {seen}", f"Logs: {run / 'log'}")


# ---- commands ----


def start(args):
    if supervisor_pid(args.run):
        raise ClusterError(
            f"a cluster of this clone runs already ({args.run})", "Run scripts/stop.sh first."
        )
    commands = processes(args.build.resolve(), args.model.resolve(), args.port_base)
    check_ports_free(port for _, _, ports in commands for port in ports)
    args.run.mkdir(parents=True, exist_ok=True)
    for old in (args.run / "log").glob("*.log*"):
        old.unlink()
    config = write_config(args.run, commands)
    supervisord = pathlib.Path(sys.executable).parent / "supervisord"
    started = subprocess.run(
        [supervisord, "-c", config], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if started.returncode != 0:
        raise ClusterError(
            f"supervisord did not start: {(started.stderr or started.stdout).strip()}",
            f"Its configuration: {config}",
        )
    try:
        wait_until_supervised(args.run)
        wait_until_ready(args.run, args.port_base + FRONT_OFFSET)
    except BaseException:
        stop(args)
        raise


def wait_until_supervised(run):
    """supervisord's parent returns before the child has its pid file and its socket."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if supervisor_pid(run) and supervisor_rpc(run).getState()["statename"] == "RUNNING":
                return
        except RPC_ERRORS:
            pass
        time.sleep(0.02)
    raise ClusterError("supervisord does not answer", f"Its log: {run / 'log' / 'supervisord.log'}")


def stop(args):
    """The router drains first, then all stages, supervisord ends last. No cluster is fine."""
    pid = supervisor_pid(args.run)
    if pid is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is begun here is finished
    try:
        rpc = supervisor_rpc(args.run)
        rpc.stopProcess(ROUTER)
        rpc.stopAllProcesses()
    except RPC_ERRORS:
        pass  # not there yet, or on its way out; TERM does the same, only slower
    deadline = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while supervisor_pid(args.run):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"supervisord (pid {pid}) did not end within {STOP_TIMEOUT_S:.0f} s",
                f"See {args.run / 'log'}, then: kill -9 {pid}",
            )
        time.sleep(0.02)


def status(args):
    if not supervisor_pid(args.run):
        raise ClusterError(
            f"no cluster runs in {args.run}", "Start one: scripts/quickstart.sh --keep"
        )
    for info in supervisor_rpc(args.run).getAllProcessInfo():
        name, state, pid = info["name"], info["statename"], info["pid"]
        print(f"{name:12} {state:10} pid {pid:<8} {info['description']}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, run_verb in (("start", start), ("stop", stop), ("status", status)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run_verb=run_verb)
        verb.add_argument("--run", type=lambda p: pathlib.Path(p).resolve(), required=True)
        if name == "start":
            verb.add_argument("--build", type=pathlib.Path, required=True)
            verb.add_argument("--model", type=pathlib.Path, required=True)
            verb.add_argument("--port-base", type=int, default=PORT_BASE)
    args = parser.parse_args()
    try:
        args.run_verb(args)
    except ClusterError as error:
        print(error.cause, error.cure, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
