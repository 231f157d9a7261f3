"""A made-up build and model: the actors are small scripts, only the launcher is on trial."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = REPO / "scripts"

# Answers STATUS as docs/protocol.md has it, until TERM.
FAKE_ROUTER = """#!{python}
import sys, msgpack, zmq
front = zmq.Context().socket(zmq.ROUTER)
front.bind(sys.argv[sys.argv.index("--front") + 1])
info = {"router": "router-0", "model": "m", "fingerprint": "0" * 16, "ready": True,
        "workers": [], "running": 0, "waiting": 0}
while True:
    peer, body = front.recv_multipart()
    if msgpack.unpackb(body)[1] == 5:
        front.send_multipart([peer, msgpack.packb([1, 71, info])])
"""
FAKE_STAGE = "#!{python}\nimport signal\nsignal.pause()\n"


class LocalCluster:
    """A run folder of its own, and ports that were free a moment ago."""

    def __init__(self, folder, partitions):
        self.build, self.model, self.run_dir = (folder / n for n in ("build", "model", "run"))
        (self.build / "actors").mkdir(parents=True)
        self.model.mkdir()
        metadata = {"partitions": [{"file": f"partition_{k}"} for k in range(partitions)]}
        (self.model / "partition_metadata.json").write_text(json.dumps(metadata))
        self.write_actor("chatloop-router", FAKE_ROUTER)
        self.write_actor("chatloop-stage", FAKE_STAGE)
        self.port_base = free_port_base(partitions)

    def write_actor(self, name, text):
        path = self.build / "actors" / name
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o755)

    def run(self, verb):
        script, *words = ["supervise.py", verb]
        if verb == "start":
            script, *words = ["cluster.py", "--build", self.build, "--model", self.model,
                              "--port-base", str(self.port_base)]
        command = [sys.executable, SCRIPTS / "lib" / script, *words, "--run", self.run_dir]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def line(self, name):
        """What `status` says of a process."""
        return next(x for x in self.run("status").stdout.splitlines() if x.startswith(name))

    def pid(self, name):
        """0 when it does not run."""
        return int(self.line(name).split("pid ")[1].split()[0])

    def processes(self):
        return processes_of(self.run_dir.parent)


def processes_of(folder):
    """Command lines of what runs from this folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if str(folder) in command and str(SCRIPTS / "lib") not in command:
            found.append(command)
    return found


def free_port_base(partitions):
    for base in range(20100, 30000, 300):
        ports = [base, base + 1, base + 2, base + 4, *(base + 100 + k for k in range(partitions)),
                 *(base + 200 + k for k in range(partitions + 1))]
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise RuntimeError("no free ports")


@pytest.fixture
def cluster(tmp_path):
    local = LocalCluster(tmp_path, partitions=2)
    yield local
    local.run("stop")
