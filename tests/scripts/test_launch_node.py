"""launch_node.sh over made-up actors: one clear line for what is wrong, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import SCRIPTS, processes_of

STAGE = """#!{python}
import os, signal, sys
if "--check" in sys.argv:
    print("all is well with", sys.argv[2], "and", os.environ.get("CHATLOOP_MODEL_PATH"))
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print('{"message": "listens"}', flush=True)
print('{"message": "ready"}', flush=True)
signal.pause()
"""
ROUTER = STAGE.replace("ready", "listening: ctrl tcp://127.0.0.1:7100")
REFUSES = """#!/bin/sh
echo "chatloop-stage: stage-0.yaml:3: performance.kv_cahce_mb is not known" >&2
exit 64
"""


# Says where its front is, and answers STATUS there.
ANSWERING_ROUTER = """#!{python}
import json, os, signal, sys, msgpack, zmq
if "--check" in sys.argv:
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
front = zmq.Context().socket(zmq.ROUTER)
front.bind("tcp://127.0.0.1:*")
address = front.getsockopt_string(zmq.LAST_ENDPOINT)
print(json.dumps({"message": f"listening: ctrl tcp://127.0.0.1:1, front {address}, result x"}),
      flush=True)
while True:
    peer, body = front.recv_multipart()
    if msgpack.unpackb(body)[1] == 5:
        front.send_multipart([peer, msgpack.packb([1, 71, INFO])])
"""


class Node:
    def __init__(self, folder):
        self.folder = folder
        self.config, self.build, self.run_dir = (folder / n for n in ("config", "build", "run"))
        self.config.mkdir()
        (self.build / "actors").mkdir(parents=True)
        for role in ("router", "stage-0", "stage-1", "sampler", "gateway"):
            (self.config / f"{role}.yaml").write_text("# nothing\n")
        for actor, text in (("router", ROUTER), ("stage", STAGE), ("sampler", STAGE)):
            self.write_actor(actor, text)

    def write_actor(self, actor, text):
        path = self.build / "actors" / f"chatloop-{actor}"
        path.write_text(text.replace("{python}", sys.executable))
        path.chmod(0o755)

    def command(self, *words):
        return [str(word) for word in (SCRIPTS / "launch_node.sh", *words, "--run", self.run_dir,
                                       "--build", self.build)]

    def launch(self, *roles):
        return self.run(self.command(self.config, *roles))

    def stop(self):
        return self.run([SCRIPTS / "stop.sh", "--run", self.run_dir])

    def run(self, command):
        return subprocess.run(command, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL)


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    assert made.stop().returncode == 0
    assert processes_of(tmp_path) == []


def test_starts_waits_says_where_and_stops(node):
    done = node.launch("router", "stage-1", "sampler")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["router", "listening"], ["stage-1", "ready"], ["sampler", "ready"]]
    for line in lines:
        assert str(node.run_dir / "log") in line
    assert "ready" in (node.run_dir / "log/stage-1.log").read_text()
    stopped = node.stop()
    assert stopped.returncode == 0 and processes_of(node.folder) == []
    log = (node.run_dir / "log/supervisord.log").read_text()
    for role in ("router", "stage-1", "sampler"):
        assert f"stopped: {role} (exit status 0)" in log
    assert node.stop().stdout == "nothing runs\n"


@pytest.mark.parametrize("words, hint", [
    (["{config}"], "one role or more"),
    (["{config}/nowhere", "stage-0"], "nowhere is no folder"),
    (["{config}", "stage-7"], "has no stage-7.yaml; it has: gateway.yaml router.yaml"),
    (["{config}", "stage-0.yaml"], "has no stage-0.yaml.yaml"),
    (["{config}", "gateway"], "starts with router, stage or sampler"),
    (["{config}", "stage-0", "../config/stage-0"], "starts with router, stage or sampler"),
    (["{config}", "stage-0", "stage-1", "stage-0"], "stage-0 is given twice"),
    (["{config}", "stage-0", "--wait", "soon"], "a number of seconds"),
    (["{config}", "stage-0", "--check", "--foreground"], "not both"),
    (["{config}", "stage-0", "--daemon"], "unknown option --daemon"),
])
def test_what_it_cannot_mean_is_one_line(node, words, hint):
    done = node.run(node.command(*(word.format(config=node.config) for word in words)))
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.count("\n") == 1 and hint in done.stderr
    assert not node.run_dir.exists()


def test_what_an_actor_refuses_is_its_own_line_and_nothing_starts(node):
    node.write_actor("stage", REFUSES)
    for mode in ([], ["--check"], ["--foreground"]):
        done = node.launch("sampler", "stage-0", *mode)
        assert done.returncode == 64
        assert done.stderr == ("chatloop-stage: stage-0.yaml:3: performance.kv_cahce_mb is not "
                               "known\n")
        assert not node.run_dir.exists()


def test_check_only_checks(node):
    done = node.launch("router", "stage-0", "--check", "--model", "a-model")
    assert done.returncode == 0
    assert [line.split()[4] for line in done.stdout.splitlines()] == [
        str(node.config / f"{role}.yaml") for role in ("router", "stage-0")]
    assert done.stdout.count(f"{os.getcwd()}/a-model") == 2
    assert not node.run_dir.exists()


def test_a_missing_binary_is_named(node):
    (node.build / "actors/chatloop-sampler").unlink()
    done = node.launch("stage-0", "sampler")
    assert done.returncode == 1
    assert "chatloop-sampler is missing" in done.stderr and "Build" in done.stderr


def test_one_that_ends_in_the_start_ends_all_with_its_words(node):
    node.write_actor("stage", "#!/bin/sh\ncase $* in *--check*) exit 0 ;; esac\n"
                              "echo 'the port is taken'\nexit 65\n")
    done = node.launch("router", "stage-0")
    assert done.returncode == 1
    assert "stage-0 ended (exit status 65): a port is in use. It said: the port" in done.stderr
    assert processes_of(node.folder) == []


def test_one_that_is_not_up_in_time_is_named_and_goes_on(node):
    node.write_actor("stage", STAGE.replace('"ready"', '"loading"'))
    done = node.launch("router", "stage-0", "--wait", "1")
    assert done.returncode == 1
    assert "not up after 1 s: stage-0\n" in done.stderr and "scripts/stop.sh" in done.stderr
    assert len(processes_of(node.folder)) == 3


def answering(why: str) -> str:
    info = {"router": "router", "model": "m", "ready": not why, "no_route": why, "workers": []}
    return ANSWERING_ROUTER.replace("INFO", repr(info))


def test_a_whole_cluster_without_a_route_says_why_and_goes_on(node):
    node.write_actor("router", answering("layers 15-29 are missing"))
    done = node.launch("router", "stage-0", "stage-1", "sampler")
    assert done.returncode == 1
    assert done.stdout.count(" pid ") == 4
    cause, cure = done.stderr.splitlines()
    assert cause == "no request can be answered, there is no route: layers 15-29 are missing"
    assert str(node.config) in cure and "scripts/stop.sh" in cure
    assert len(processes_of(node.folder)) == 5


def test_a_part_of_a_cluster_without_a_route_says_what_others_are_to_bring(node):
    node.write_actor("router", answering("no sampler is there"))
    done = node.launch("router", "stage-0", "stage-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "no route yet: no sampler is there"


def test_a_cluster_with_a_route_says_nothing_of_it(node):
    node.write_actor("router", answering(""))
    done = node.launch("router", "stage-0", "stage-1", "sampler")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == done.stdout.count(" pid ") == 4


def test_a_log_level_that_hides_the_line_is_not_waited_for(node):
    node.write_actor("stage", STAGE.replace('"ready"', '"hidden"'))
    (node.config / "stage-0.yaml").write_text("observability: {log_level: warn}\n")
    done = node.launch("router", "stage-0", "--wait", "30")
    assert done.returncode == 0 and "stage-0      started" in done.stdout


def test_a_second_launch_is_refused_and_disturbs_nothing(node):
    assert node.launch("stage-0").returncode == 0
    before = processes_of(node.folder)
    second = node.launch("stage-1")
    assert second.returncode == 1
    assert "runs already" in second.stderr and "scripts/stop.sh" in second.stderr
    assert processes_of(node.folder) == before


def test_the_logs_of_the_last_start_are_kept(node):
    assert node.launch("stage-0").returncode == 0
    assert node.stop().returncode == 0
    assert node.launch("stage-1").returncode == 0
    assert (node.run_dir / "log.previous/stage-0.log").exists()
    assert not (node.run_dir / "log/stage-0.log").exists()


def test_in_the_foreground_term_drains_and_ends_with_0(node):
    command = node.command(node.config, "router", "stage-0", "--foreground")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        logs = [node.run_dir / f"log/{name}.log" for name in ("router", "stage-0")]
        deadline = time.monotonic() + 60
        while not all(log.exists() and "listens" in log.read_text() for log in logs):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    log = (node.run_dir / "log/supervisord.log").read_text()
    assert log.count("(exit status 0)") == 2
