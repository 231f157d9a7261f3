"""One supervisord and its programs in a run folder.

    supervise.py stop --run DIR      drains every process and ends supervisord; none is fine
    supervise.py status --run DIR    one line per process; 1 when none

All of it is unprivileged and lies in the run folder. Errors are two lines: the cause and the cure.
"""

import argparse
import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import resource
import select
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
import xmlrpc.client

from supervisor.xmlrpc import SupervisorTransport

REPO = pathlib.Path(__file__).resolve().parents[2]
SUPERVISORD = pathlib.Path(sys.executable).parent / "supervisord"
STOP_TIMEOUT_S = 60.0  # above stopwaitsecs
SOCKET_PATH_BYTES_MAX = 90  # of 107; supervisord appends its pid while it binds

RPC_ERRORS = (OSError, http.client.HTTPException, xmlrpc.client.Error)

EXIT_MEANING = {
    64: "its configuration or model files are not valid",
    65: "a port is in use",
    66: "a key is missing or not valid",
    70: "it found a bug in itself",
}


class LaunchError(Exception):
    def __init__(self, cause, cure):
        super().__init__(cause)
        self.cause = cause
        self.cure = cure


def main_of(run_verb, args):
    """The exit code of a command that may raise a LaunchError."""
    try:
        return run_verb(args) or 0
    except LaunchError as error:
        print(error.cause, error.cure, sep="\n", file=sys.stderr)
        return 1


def folder(text):
    return pathlib.Path(text).resolve()


def binary(build, actor):
    path = build / "actors" / f"chatloop-{actor}"
    if not os.access(path, os.X_OK):
        raise LaunchError(f"{path} is missing", f"Build: ninja -C {build}.")
    return path


# ---- the running one ----


def socket_path(run):
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    return pathlib.Path(tempfile.gettempdir()) / f"chatloop-{os.getuid()}-{digest}.sock"


def rpc(run):
    transport = SupervisorTransport(serverurl=f"unix://{socket_path(run)}")
    return xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor


def pid_of(run):
    """The pid of this run folder's supervisord, or None when it does not run."""
    try:
        pid = int((run / "supervisord.pid").read_text())
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(run / "supervisord.conf") in command else None


def log_path(run, name):
    return run / "log" / f"{name}.log"


def log_lines(run, name):
    path = log_path(run, name)
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def last_exit(run, name):
    """(how the process ended last, its exit code or None), as supervisord logged it; None when it
    has not ended since supervisord started."""
    pattern = re.compile(rf"exited: {re.escape(name)} \((exit status (\d+)|terminated by \w+)")
    ends = pattern.findall("\n".join(log_lines(run, "supervisord")))
    if not ends:
        return None
    how, code = ends[-1]
    return how, int(code) if code else None


def check_running(run):
    """Raises when a process has ended: with its last words and its exit code's meaning."""
    for info in rpc(run).getAllProcessInfo():
        name = info["name"]
        end = last_exit(run, name)
        if end is None and info["statename"] in ("STARTING", "RUNNING"):
            continue
        how, code = end or ("it did not start", None)
        words = [line for line in log_lines(run, name) if line.strip()] or ["nothing"]
        raise LaunchError(
            f"{name} ended ({how}): {EXIT_MEANING.get(code, 'unexpected')}. It said: {words[-1]}",
            f"Its whole log: {log_path(run, name)}",
        )


# ---- start ----


def write_config(run, programs):
    def fill(template, **values):
        text = (REPO / "configs/supervisor" / template).read_text()
        # A percent sign starts an expansion of supervisord's.
        safe = {key: str(value).replace("%", "%%") for key, value in values.items()}
        return string.Template(text).substitute(safe)

    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    minfds = 65536 if files_max == resource.RLIM_INFINITY else min(65536, files_max)
    text = fill(
        "supervisord.conf.in", run=run, repo=REPO, socket=socket_path(run), minfds=minfds,
        names=",".join(name for name, _ in programs),
    )
    for name, command in programs:
        text += fill(
            "program.conf.in", log=log_path(run, name), name=name,
            command=shlex.join(map(str, command)),
        )
    config = run / "supervisord.conf"
    config.write_text(text)
    return config


def check_stopped(run):
    if pid_of(run):
        raise LaunchError(
            f"something runs already in {run}", f"Stop it: scripts/stop.sh --run {run}"
        )


def prepare(run, programs):
    """The run folder of programs [(name, argument list)]; the logs of the last start are kept."""
    check_stopped(run)
    logs, previous = run / "log", run / "log.previous"
    if logs.exists():
        shutil.rmtree(previous, ignore_errors=True)
        logs.rename(previous)
    logs.mkdir(parents=True)
    return write_config(run, programs)


@contextlib.contextmanager
def starting(run, programs):
    """Starts them; when what the block waits for does not come, everything is stopped again."""
    config = prepare(run, programs)
    try:
        daemonize(run, config)
        yield
    except BaseException:
        stop(run)
        raise


def daemonize(run, config):
    started = subprocess.run(
        [SUPERVISORD, "-c", config], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if started.returncode != 0:
        raise LaunchError(
            f"supervisord did not start: {(started.stderr or started.stdout).strip()}",
            f"Its configuration: {config}",
        )
    # Its parent returns before the child has its pid file and its socket.
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if pid_of(run) and rpc(run).getState()["statename"] == "RUNNING":
                return
        except RPC_ERRORS:
            pass
        time.sleep(0.02)
    raise LaunchError("supervisord does not answer", f"Its log: {log_path(run, 'supervisord')}")


def become(run, programs):
    """This process becomes supervisord: TERM drains all and ends it with 0."""
    config = prepare(run, programs)
    os.execv(SUPERVISORD, [SUPERVISORD, "--nodaemon", "-c", config])


# ---- stop, status ----


def stop_programs(control):
    """Routers first: they may drain for longer (30 s) than the workers that serve them (20 s)."""
    for info in control.getAllProcessInfo():
        if info["name"].startswith("router") and info["statename"] == "RUNNING":
            control.stopProcess(f"{info['group']}:{info['name']}")
    control.stopAllProcesses()


def stop(run):
    pid = pid_of(run)
    if pid is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is begun here is finished
    with contextlib.suppress(ProcessLookupError), pidfd(pid) as process:
        # It may not answer yet, or be on its way out; TERM does the same for all at once.
        with contextlib.suppress(*RPC_ERRORS):
            stop_programs(rpc(run))
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], STOP_TIMEOUT_S)
        if not ended:
            raise LaunchError(
                f"supervisord (pid {pid}) did not end within {STOP_TIMEOUT_S:.0f} s",
                f"See {run / 'log'}, then: kill -9 {pid}",
            )


@contextlib.contextmanager
def pidfd(pid):
    """Readable when the process has ended; its pid file is gone before."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def status(run):
    if not pid_of(run):
        raise LaunchError(
            f"nothing runs in {run}", "Start: scripts/quickstart.sh --keep or launch_node.sh"
        )
    for info in rpc(run).getAllProcessInfo():
        name, state, pid = info["name"], info["statename"], info["pid"]
        print(f"{name:12} {state:10} pid {pid:<8} {info['description']}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, run_verb in (("stop", stop), ("status", status)):
        verb = verbs.add_parser(name)
        verb.set_defaults(run_verb=run_verb)
        verb.add_argument("--run", type=folder, required=True)
    args = parser.parse_args()
    return main_of(lambda a: a.run_verb(a.run), args)


if __name__ == "__main__":
    sys.exit(main())
