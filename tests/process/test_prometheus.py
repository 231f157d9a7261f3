"""Prometheus itself scrapes every actor of a running cluster, and answers the seed's queries."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, wait_until
from test_metrics import METRICS, url_of

pytestmark = pytest.mark.long

WORKERS = {"stage-0", "stage-1", "sampler"}
SCRAPED_S = 30.0


def free_port() -> int:
    """Prometheus does not tell which port the system gave it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Prometheus:
    """One process, on a port of the loopback, with everything in a folder of the test."""

    def __init__(self, folder: Path, targets: list[str]) -> None:
        folder.mkdir()
        config = {"global": {"scrape_interval": "500ms"},
                  "scrape_configs": [{"job_name": "chatloop",
                                      "static_configs": [{"targets": targets}]}]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML, too
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}",
             f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=self._log, stderr=self._log)

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
            return json.load(response)["data"]

    def query(self, text: str) -> list[tuple[dict[str, str], float]]:
        found = self.ask("query", query=text)
        assert found["resultType"] == "vector"
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, text: str) -> float | None:
        found = self.query(text)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def up(self) -> list[str]:
        """The targets whose last scrape went well."""
        try:
            targets = self.ask("targets")["activeTargets"]
        except OSError:
            return []
        return [target["scrapeUrl"] for target in targets if target["health"] == "up"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def observed(build, tiny_model, tmp_path_factory) -> Iterator[Cluster]:
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("scraped"), own_sampler=True,
                 router=METRICS, stage=METRICS, sampler=METRICS) as cluster:
        yield cluster
        cluster.stop()


@pytest.fixture(scope="module")
def prometheus(observed, tmp_path_factory) -> Iterator[Prometheus]:
    targets = [url_of(observed, name).removeprefix("http://") for name in observed.processes]
    server = Prometheus(tmp_path_factory.mktemp("prometheus") / "server", targets)
    try:
        wait_until(lambda: len(server.up()) == len(targets), SCRAPED_S, "all actors are scraped")
        yield server
    finally:
        server.close()


def test_the_queries_of_the_seed(observed, prometheus):
    client = observed.client()
    requests = tokens = 0

    def both_sides(name: str) -> bool:
        return prometheus.value(name) == {"inference_requests_total": requests,
                                          "inference_tokens_generated_total": tokens}[name]

    for _ in range(4):  # apart by scrapes: a rate needs counters that grow between two
        for _ in range(5):
            tokens += client.generate(token_ids=[2, 3], max_tokens=50,
                                      ignore_eos=True).usage.completion_tokens
            requests += 1
        for name in ("inference_requests_total", "inference_tokens_generated_total"):
            wait_until(lambda name=name: both_sides(name), SCRAPED_S, f"{name} is scraped")
    for name in ("inference_requests_total", "inference_tokens_generated_total"):
        rate = prometheus.value(f"rate({name}[5m])")
        # An extrapolated rate is no exact one: between a tenth and all of it within the window.
        grown = {"inference_requests_total": requests}.get(name, tokens)
        assert rate is not None and 0 < rate * 300 < 30 * grown, name
    p95 = prometheus.value(
        "histogram_quantile(0.95, rate(inference_request_duration_seconds_bucket[5m]))")
    assert p95 is not None and 0 < p95 < 10
    count = prometheus.query("count(coordinator_active_workers) by (worker_id)")
    assert {labels["worker_id"]: n for labels, n in count} == dict.fromkeys(WORKERS, 1.0)
    assert prometheus.value("sum(coordinator_active_workers)") == len(WORKERS)
    bubbles = prometheus.query(
        "1 - sum by (worker_id) (rate(coordinator_worker_busy_seconds_total[5m])) / "
        "max by (worker_id) (rate(coordinator_worker_route_seconds_total[5m]))")
    assert {labels["worker_id"] for labels, _ in bubbles} == WORKERS
    assert all(0 <= share <= 1 for _, share in bubbles)


def test_a_dead_worker_is_seen_and_its_successor_too(observed, prometheus):
    observed.processes["stage-1"].kill()
    wait_until(lambda: prometheus.value("sum(coordinator_active_workers)") == len(WORKERS) - 1,
               SCRAPED_S, "the death is scraped")
    assert prometheus.value("count(coordinator_active_workers)") == len(WORKERS) - 1
    observed.restart("stage-1")
    wait_until(lambda: prometheus.value("sum(coordinator_active_workers)") == len(WORKERS),
               SCRAPED_S, "the return is scraped")
    assert prometheus.value("coordinator_workers_lost_total") == 1
