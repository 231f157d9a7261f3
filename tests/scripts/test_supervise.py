"""What supervisord is told, and that it does so."""

import configparser
import os
import select
import signal
import sys
import time

import pytest
from conftest import SCRIPTS

sys.path.insert(0, str(SCRIPTS / "lib"))
import supervise  # noqa: E402

DRAIN_S_MAX = 30  # the longest default of drain_timeout_secs


def test_the_settings_of_every_program(cluster):
    assert cluster.run("start").returncode == 0
    config = configparser.ConfigParser(interpolation=None, comment_prefixes=";")
    config.read(cluster.run_dir / "supervisord.conf")
    programs = [name for name in config.sections() if name.startswith("program:")]
    assert programs == ["program:router-0", "program:stage-0", "program:stage-1"]
    for name in programs:
        program = config[name]
        assert program["autorestart"] == "unexpected"
        assert program["exitcodes"] == "0,64,65,66"
        assert program["startsecs"] == "0"
        assert int(program["startretries"]) == 1000000
        assert program["stopsignal"] == "TERM"
        assert int(program["stopwaitsecs"]) == 40 > DRAIN_S_MAX
        assert (program["killasgroup"], program["stopasgroup"]) == ("true", "false")
        assert program["redirect_stderr"] == "true"
        actor = program["command"].split()[0]
        assert actor.startswith(str(cluster.build / "actors"))  # the binary itself, no shell
    assert 0 < int(config["supervisord"]["minfds"]) <= 65536
    assert config["group:chatloop"]["programs"] == "router-0,stage-0,stage-1"


def exits_at_once(code):
    return f"#!/bin/sh\necho run >> $0.runs\nexit {code}\n"


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("code, restarted", [
    (0, False), (64, False), (65, False), (66, False), (70, True)])
def test_what_ends_at_once_is_restarted_by_its_code(cluster, code, restarted):
    assert cluster.run("start").returncode == 0
    stage = cluster.build / "actors/chatloop-stage"
    stage.unlink()
    cluster.write_actor("chatloop-stage", exits_at_once(code))
    runs = stage.with_name("chatloop-stage.runs")
    os.kill(cluster.pid("stage-0"), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while len(lines_of(runs)) < (3 if restarted else 1):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if not restarted:
        time.sleep(3)  # supervisord looks once a second
        assert lines_of(runs) == ["run"]
        assert "EXITED" in cluster.line("stage-0")


def test_a_binary_that_comes_back_is_started(cluster):
    assert cluster.run("start").returncode == 0
    stage = cluster.build / "actors/chatloop-stage"
    stage.rename(stage.with_name("away"))
    first = cluster.pid("stage-0")
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while "BACKOFF" not in cluster.line("stage-0"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage.with_name("away").rename(stage)
    while cluster.pid("stage-0") in (0, first):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_term_to_supervisord_stops_all_at_once(cluster):
    cluster.write_actor("chatloop-stage", "#!/bin/bash\ntrap 'echo TERM >> $0.log; sleep 2; "
                                          "echo end >> $0.log; exit' TERM\n"
                                          "while :; do sleep 0.1; done\n")
    assert cluster.run("start").returncode == 0
    pid = int((cluster.run_dir / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while cluster.processes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    said = lines_of(cluster.build / "actors/chatloop-stage.log")
    assert said == ["TERM", "TERM", "end", "end"]  # the stages drained side by side


def test_stop_ends_the_router_before_the_stages(cluster):
    log = cluster.build / "order"
    for actor, drain_s in (("router", 1), ("stage", 0)):
        path = cluster.build / f"actors/chatloop-{actor}"
        interpreter, _, program = path.read_text().partition("\n")
        cluster.write_actor(path.name, f"""{interpreter}
import signal, sys, time
def end(*_):
    for word, wait_s in (("TERM", {drain_s}), ("end", 0)):
        print("{actor}", word, file=open({str(log)!r}, "a"))
        time.sleep(wait_s)
    sys.exit()
signal.signal(signal.SIGTERM, end)
{program}""")
    assert cluster.run("start").returncode == 0
    assert cluster.run("stop").returncode == 0
    said = lines_of(log)
    assert said[:2] == ["router TERM", "router end"]
    assert sorted(said[2:]) == ["stage TERM", "stage TERM", "stage end", "stage end"]


def test_stop_returns_when_supervisord_has_ended(tmp_path, monkeypatch):
    """Not when its pid file is gone, which is some 10 ms before."""
    monkeypatch.setattr(supervise.signal, "signal", lambda *_: None)  # SIGINT stays as it is here
    for _ in range(4):
        with supervise.starting(tmp_path, [("stage-0", ["/bin/cat", "/dev/zero"])]):
            with supervise.pidfd(supervise.pid_of(tmp_path)) as process:
                time.sleep(0.2)  # the program has replaced supervisord's copy
                supervise.stop(tmp_path)
                ended, _, _ = select.select([process], [], [], 0)
                assert ended
