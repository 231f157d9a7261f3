"""/metrics of every actor: real scrapes, and counts that equal what the clients counted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from conftest import ROOT
from scrape import fetch, parse, scrape

from chatloop import ChatLoopError

METRICS = ["--metrics", "127.0.0.1:0"]
PAGE_AGE_S = 0.1  # above the 50 ms for which a page is kept


def url_of(cluster: Cluster, name: str) -> str:
    found = re.search(r"metrics (http://[\d.]+:\d+)", "\n".join(cluster.processes[name].messages()))
    assert found, name
    return found[1]


def settled(cluster: Cluster):
    """The router's page when nothing runs any more."""
    time.sleep(PAGE_AGE_S)
    wait_until(lambda: scrape(url_of(cluster, "router")).value("coordinator_requests_running") == 0,
               20, "nothing runs")
    time.sleep(PAGE_AGE_S)
    return scrape(url_of(cluster, "router"))


@pytest.fixture(scope="module")
def observed(build, tiny_model, tmp_path_factory):
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("observed"), own_sampler=True,
                 router=METRICS, stage=METRICS, sampler=METRICS) as cluster:
        cluster.client().generate(token_ids=[2, 3, 4], max_tokens=8, ignore_eos=True)
        yield cluster
        cluster.stop()


def test_every_actor_has_a_page_with_the_names_of_the_seed(observed):
    router = scrape(url_of(observed, "router"))
    for name in ("coordinator_requests_routed_total", "coordinator_active_workers",
                 "inference_requests_total", "inference_tokens_generated_total",
                 "inference_tokens_per_second"):
        assert name in router.types, name
    for name in ("coordinator_worker_response_time_seconds", "inference_request_duration_seconds"):
        assert router.types[name] == "histogram"
    workers = {"stage-0", "stage-1", "sampler"}
    assert router.labels("coordinator_active_workers", "worker_id") == workers
    assert all(router.value("coordinator_active_workers", worker_id=w) == 1 for w in workers)
    for worker in workers:
        page = scrape(url_of(observed, worker))
        for name in ("worker_forward_duration_seconds", "worker_queue_time_seconds",
                     "worker_batch_size"):
            assert page.types[name] == "histogram"
            assert page.total(name + "_count", worker_id=worker) > 0
        for name in ("worker_queue_depth", "worker_cpu_utilization_percent",
                     "worker_memory_used_bytes"):
            assert page.types[name] == "gauge"
        assert page.value("worker_memory_used_bytes", worker_id=worker) > 1 << 20
        assert page.value("worker_ready", worker_id=worker) == 1


def test_counters_are_exact_after_many_requests(observed):
    before = settled(observed)

    def ask(i: int) -> tuple[str, int]:
        client = observed.client()
        try:
            if i % 10 == 7:
                client.generate(token_ids=[2], model="another", max_tokens=4)
            elif i % 10 == 3:
                tokens = 0
                with client.stream(token_ids=[2, 3, i % 10], max_tokens=200,
                                   ignore_eos=True) as stream:
                    for piece in stream:
                        tokens += len(piece.token_ids)
                        stream.cancel()
                return stream.result.finish_reason, tokens
            answer = client.generate(token_ids=[2, 3, i % 10], max_tokens=5 + i % 20,
                                     ignore_eos=True, n=1 + i % 2)
            return answer.finish_reason, answer.usage.completion_tokens
        except ChatLoopError as error:
            return error.code, 0
        finally:
            client.close()

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(ask, range(200)))
    page = settled(observed)

    def grown(name: str, **labels: str) -> float:
        return page.total(name, **labels) - before.total(name, **labels)

    assert grown("inference_requests_total") == 200
    assert grown("inference_request_duration_seconds_count") == 180  # 20 were refused at once
    for reason in {reason for reason, _ in ended}:
        count = sum(1 for other, _ in ended if other == reason)
        assert grown("inference_requests_ended_total", reason=reason) == count, reason
    assert grown("inference_requests_ended_total") == 200
    finished = sum(tokens for reason, tokens in ended if reason == "length")
    cancelled = sum(tokens for reason, tokens in ended if reason == "cancelled")
    # Of a cancelled answer the router may have sent more than the client took before its end.
    generated = grown("inference_tokens_generated_total")
    assert finished + cancelled <= generated <= finished + 20 * 200
    assert grown("coordinator_errors_total", code="unknown_model") == 20


def test_workers_and_router_agree_on_the_frames(observed):
    observed.client().generate(token_ids=[5, 6], max_tokens=50, ignore_eos=True)
    page = settled(observed)
    results = page.value("coordinator_results_total")
    assert page.value("coordinator_frames_sent_total") == results
    for worker in ("stage-0", "stage-1", "sampler"):
        own = scrape(url_of(observed, worker))
        assert own.value("worker_frames_executed_total", worker_id=worker) == results
        assert own.total("worker_forward_duration_seconds_count") == results
        response = "coordinator_worker_response_time_seconds_count"
        assert page.total(response, worker_id=worker) == results


def test_a_dead_worker_is_unhealthy_and_its_return_healthy(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True, router=METRICS) as cluster:
        url = url_of(cluster, "router")
        cluster.processes["stage-1"].kill()
        wait_until(lambda: scrape(url).total("coordinator_unhealthy_workers") == 1, 20, "a death")
        page = scrape(url)
        assert page.labels("coordinator_unhealthy_workers", "worker_id") == {"stage-1"}
        assert page.labels("coordinator_active_workers", "worker_id") == {"stage-0", "sampler"}
        cluster.restart("stage-1")
        wait_until(lambda: scrape(url).total("coordinator_active_workers") == 3, 30, "it is back")
        assert scrape(url).total("coordinator_unhealthy_workers") == 0
        wait_until(lambda: cluster.client().status()["ready"], 20, "a route")
        cluster.stop()


def test_scrapes_all_the_time_do_not_disturb(observed):
    url = url_of(observed, "stage-0")
    with ThreadPoolExecutor(4) as pool:
        scrapes = [pool.submit(fetch, url) for _ in range(300)]
        answer = observed.client().generate(token_ids=[2, 3, 4], max_tokens=100, ignore_eos=True)
        assert all(parse(done.result()) for done in scrapes)
    assert answer.usage.completion_tokens == 100
    threads = os.listdir(f"/proc/{observed.processes['stage-0'].pid}/task")
    assert len(threads) == 3


def test_actors_that_are_not_told_find_a_port_from_9091_on(build, tiny_model, tmp_path,
                                                           monkeypatch):
    monkeypatch.delenv("CHATLOOP_METRICS_BIND")
    with Cluster(build, tiny_model, tmp_path / "apart", own_sampler=True) as cluster:
        urls = {name: url_of(cluster, name) for name in cluster.processes}
        assert len(set(urls.values())) == 4
        for name, url in urls.items():
            assert url.startswith("http://127.0.0.1:")
            assert 9091 <= int(url.rpartition(":")[2]) < 9091 + 64
            page = scrape(url)
            if name != "router":
                assert page.labels("worker_ready", "worker_id") == {name}
        assert cluster.endpoints["metrics"] == urls["router"]
        cluster.stop()
    with Cluster(build, tiny_model, tmp_path / "hosted", hosted_router=True) as cluster:
        page = scrape(url_of(cluster, "stage-0"))  # one for both
        assert "metrics" not in cluster.endpoints
        assert {"worker_ready", "coordinator_ready"} <= set(page.types)
        cluster.stop()


def test_no_page_where_it_is_off_or_no_port_is_free(build, tiny_model, tmp_path):
    with socket.socket() as taker:
        with contextlib.suppress(OSError):  # then another has it, which is as good
            taker.bind(("127.0.0.1", 65535))
            taker.listen()
        with Cluster(build, tiny_model, tmp_path, router=["--metrics", "off"],
                     stage=["--metrics", "127.0.0.1:65535+"]) as cluster:
            assert "metrics" not in "\n".join(cluster.processes["router"].messages())
            [said] = [m for m in cluster.processes["stage-0"].messages() if "metrics" in m]
            assert said.startswith("no /metrics: http 127.0.0.1:65535+: ")
            assert cluster.client().generate(token_ids=[2], max_tokens=2).finish_reason
            cluster.stop()


@pytest.mark.long
def test_promtool_and_prometheus_take_every_page(observed, tmp_path):
    for name in observed.processes:
        text = fetch(url_of(observed, name))
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True,
                                 capture_output=True, timeout=60, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout + checked.stderr


def test_sighup_changes_the_level_of_the_log_and_nothing_else(build, tiny_model, tmp_path):
    config = tmp_path / "router-log.yaml"
    config.write_text("observability:\n  log_level: info\n")
    with Cluster(build, tiny_model, tmp_path / "c", router=["--config", str(config)]) as cluster:
        router = cluster.processes["router"]
        ask = {"token_ids": [2, 3], "max_tokens": 4, "ignore_eos": True}
        cluster.client().generate(**ask)
        assert not any(m.startswith("frame ") for m in router.messages())
        config.write_text("observability:\n  log_level: debug\n")
        router.signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP: the log's level is debug" in router.messages(), 10, "SIGHUP")
        cluster.client().generate(**ask)
        wait_until(lambda: any(m.startswith("frame ") for m in router.messages()), 10, "frames")
        config.write_text("observability: [\n")
        router.signal(signal.SIGHUP)
        wait_until(lambda: any("nothing changed" in m for m in router.messages()), 10, "a warning")
        cluster.client().generate(**ask)
        cluster.stop()


def test_log_lines_are_the_seeds_whatever_a_request_is_called(build, tiny_model, tmp_path):
    odd = 'a"b\n{"level":"error"}\x1b[2J\u009b'
    with Cluster(build, tiny_model, tmp_path) as cluster:
        cluster.client().generate(
            request_id=odd, token_ids=[2, 3], max_tokens=2,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        log: Path = cluster.processes["router"].log
        wait_until(lambda: "done: " in log.read_text(), 10, "its last line")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        cluster.stop()
    for line in lines:
        assert list(line)[:4] == ["timestamp", "level", "target", "message"]
        assert line["level"] in ("debug", "info", "warn", "error")
        assert line["target"].startswith("chatloop_router::")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    [done] = [line for line in lines if line["message"].startswith("done: ")]
    assert done["span"] == {"request_id": odd, "trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert done["target"] == "chatloop_router::requests"


@pytest.mark.parametrize("where", ["pipe", "/dev/full"])
def test_a_log_that_takes_nothing_stops_nothing(build, tiny_model, tmp_path, where):
    """The router's stderr is a pipe that fills, or a full disk: answers come, lost lines count."""
    ends = os.pipe() if where == "pipe" else (os.open(os.devnull, os.O_RDONLY),
                                              os.open(where, os.O_WRONLY))
    endpoints = tmp_path / "endpoints.json"
    command = [build / "actors/chatloop-router", "--model", tiny_model, "--log-level", "debug",
               "--ctrl", "tcp://127.0.0.1:*", "--front", "tcp://127.0.0.1:*", "--result",
               "tcp://127.0.0.1:*", "--metrics", "127.0.0.1:0", "--endpoints-file", endpoints]
    router = subprocess.Popen([str(word) for word in command], stderr=ends[1])
    try:
        os.close(ends[1])
        wait_until(endpoints.exists, 20, "it listens")
        bound = json.loads(endpoints.read_text())
        cluster = Cluster(build, tiny_model, tmp_path / "workers")
        with cluster.empty():
            cluster.endpoints = bound
            cluster.start_workers()
            cluster.wait_ready()
            client = cluster.client()

            def dropped() -> float:
                return scrape(bound["metrics"]).value("chatloop_log_lines_dropped_total")

            assert (dropped() == 0) == (where == "pipe")
            for _ in range(40):
                answer = client.generate(token_ids=[2, 3], max_tokens=60, ignore_eos=True)
                assert answer.usage.completion_tokens == 60
                if dropped() > 0:
                    break
            wait_until(lambda: dropped() > 0, 5, "lines are dropped")
            assert client.generate(token_ids=[2], max_tokens=5).usage.completion_tokens <= 5
            router.terminate()
            cluster.terminate()
            assert router.wait(40) == 0
            cluster.assert_drained()
    finally:
        router.kill()
        router.wait()
        os.close(ends[0])
