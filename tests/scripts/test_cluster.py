"""The launcher: what it starts it ends, and a failure names the cause and the cure."""

import json
import os
import signal
import socket
import time

import pytest
from conftest import FAKE_ROUTER


def test_starts_answers_status_and_leaves_nothing_running(cluster):
    started = cluster.run("start")
    assert started.returncode == 0, started.stderr
    assert len(cluster.processes()) >= 3
    status = cluster.run("status")
    assert status.returncode == 0
    for name in ("router-0", "stage-0", "stage-1"):
        assert name in status.stdout

    stopped = cluster.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.processes() == []
    assert cluster.run("status").returncode == 1


def test_the_router_serves_http_and_says_where(cluster):
    assert cluster.run("start").returncode == 0
    address = f"127.0.0.1:{cluster.port_base + 4}"
    assert (cluster.run_dir / "http").read_text() == f"http://{address}\n"
    assert f"--http {address}" in (cluster.run_dir / "supervisord.conf").read_text()


def test_every_process_has_metrics_on_a_port_of_its_own(cluster):
    assert cluster.run("start").returncode == 0
    ports = [cluster.port_base + 200 + k for k in range(3)]
    assert (cluster.run_dir / "metrics").read_text().split() == [
        f"http://127.0.0.1:{port}/metrics" for port in ports]
    config = (cluster.run_dir / "supervisord.conf").read_text()
    commands = [line for line in config.splitlines() if line.startswith("command=")]
    for command, port in zip(commands, ports, strict=True):
        assert f"--metrics 127.0.0.1:{port}" in command


def test_only_the_last_stage_hosts_the_sampler(cluster):
    assert cluster.run("start").returncode == 0
    config = (cluster.run_dir / "supervisord.conf").read_text()
    commands = [line for line in config.splitlines() if line.startswith("command=")]
    assert ["--with-sampler" in command for command in commands] == [False, False, True]


def test_a_second_start_is_refused_and_disturbs_nothing(cluster):
    assert cluster.run("start").returncode == 0
    second = cluster.run("start")
    assert second.returncode == 1
    assert "scripts/stop.sh" in second.stderr
    assert cluster.run("status").returncode == 0


@pytest.mark.parametrize("offset", [101, 201])
def test_a_busy_port_names_the_port_and_the_cure(cluster, offset):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", cluster.port_base + offset))
        listener.listen()
        started = cluster.run("start")
    assert started.returncode == 1
    assert f"port {cluster.port_base + offset}" in started.stderr
    assert "scripts/stop.sh" in started.stderr
    assert cluster.processes() == []


def test_a_worker_that_refuses_its_files_ends_the_start_with_its_words(cluster):
    cluster.write_actor("chatloop-router", FAKE_ROUTER.replace('"ready": True', '"ready": False'))
    cluster.write_actor(
        "chatloop-stage", "#!/bin/sh\necho 'partition_0.safetensors is cut short'\nexit 64\n"
    )
    started = cluster.run("start")
    assert started.returncode == 1
    assert "configuration or model files are not valid" in started.stderr
    assert "partition_0.safetensors is cut short" in started.stderr
    assert cluster.processes() == []


def test_a_killed_stage_is_started_again(cluster):
    assert cluster.run("start").returncode == 0
    first = cluster.pid("stage-0")
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while cluster.pid("stage-0") in (0, first):
        assert time.monotonic() < deadline


def test_a_missing_binary_is_named(cluster):
    (cluster.build / "actors/chatloop-router").unlink()
    started = cluster.run("start")
    assert started.returncode == 1
    assert "chatloop-router" in started.stderr and "Build" in started.stderr


def test_metadata_that_is_no_metadata_is_named(cluster):
    for text in ("", "{}", json.dumps({"partitions": 7})):
        (cluster.model / "partition_metadata.json").write_text(text)
        started = cluster.run("start")
        assert started.returncode == 1
        assert "partition_metadata.json" in started.stderr
        assert "Traceback" not in started.stderr


def test_stop_without_a_cluster_is_fine(cluster):
    assert cluster.run("stop").returncode == 0


def test_a_stale_pid_file_is_not_a_running_cluster(cluster):
    cluster.run_dir.mkdir()
    (cluster.run_dir / "supervisord.pid").write_text(f"{os.getpid()}\n")
    assert cluster.run("stop").returncode == 0
    assert cluster.run("start").returncode == 0
