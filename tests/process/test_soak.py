"""Soak: nothing fails that was not asked for, nothing grows, nothing is kept, and no answer
depends on what ran beside it.

The long one runs `--requests N` requests, or CHATLOOP_SOAK_REQUESTS, or 10,000.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import models
import pytest
from answers import ask_cpud
from chatloop import Client
from cluster import Cluster, wait_until
from process_info import memory_kib
from soak import Soak, shape

SEED = 3
WARM_UP = 1000
# As in test_flat.py: the allocator's steps. A leak of 200 bytes a request is 1,800 KiB.
SLACK_KIB = 1024
REQUESTS = int(os.environ.get("CHATLOOP_SOAK_REQUESTS") or 10_000)
HARMLESS_ERRORS = {"invalid_request"}  # a CANCEL that met the end of its answer on the way
POOL = {"tiny": ("--kv-cache-mb", "1", "--max-sequences", "24"),
        "smollm2": ("--kv-cache-mb", "32")}  # 36 blocks on a stage, fewer than there are requests


def soak(cluster: Cluster, ids: range, count: int, checked: int,
         warm_up: int) -> tuple[Soak, list[dict[str, int]]]:
    """Also the resident KiB of each process after the warm-up and at the end."""
    every = max(count // (2 * checked), 1)  # some of these will be cancelled
    load = Soak(cluster.endpoints["front"], ids, SEED, lambda number: number % every == 0)
    client = cluster.client()
    resident = []
    for numbers in (range(warm_up), range(warm_up, count)):
        load.run(numbers)
        wait_until(lambda: is_idle(client), 30, "nothing runs")
        time.sleep(0.5)  # the connections of the clients are closed
        resident.append({name: memory_kib(p.pid) for name, p in cluster.processes.items()})
    return load, resident


def is_idle(client: Client) -> bool:
    status = client.status()
    return not status["running"] and not status["waiting"] and not status["backlog_bytes"]


def assert_all_is_well(client: Client) -> None:
    status = client.status()
    print(json.dumps(status))
    assert set(status["errors"]) <= HARMLESS_ERRORS, status["errors"]
    bad = ("results_bad", "routes_down", "workers_lost", "clients_gone", "backlog_drops",
           "front_malformed", "ctrl_malformed", "result_malformed", "sends_blocked")
    assert not any(status["counters"][name] for name in bad), status["counters"]
    assert len(status["workers"]) >= 2
    for worker in status["workers"]:
        faults = {name: n for name, n in worker["counters"].items()
                  if name not in ("frames_executed", "cpu_ms", "memory_bytes")}
        assert not any(faults.values()), worker
    wait_until(lambda: not blocks_held(client.status()), 10, "all KV blocks are back")


def blocks_held(status: dict[str, Any]) -> int:
    """Of all routes; cached blocks are held by nobody."""
    routes = [route["counters"] for route in status["routes"]]
    assert all(route["kv_blocks"] > 0 for route in routes)
    return sum(route["kv_held"] for route in routes)


def assert_alone_they_are_the_same(load: Soak, checked: int, build: Path, model: Path,
                                   folder: Path) -> None:
    """chatloop-cpud computes one after another, with no cache that others filled."""
    numbers = sorted(load.kept)[:checked]
    assert len(numbers) == checked
    alone = ask_cpud(build, model, folder,
                     [present(shape(n, load.ids, load.seed).parameters) for n in numbers])
    for number, answer in zip(numbers, alone, strict=True):
        assert load.kept[number] == answer, number


def present(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def assert_flat(resident: Iterable[dict[str, int]]) -> None:
    warm, end = resident
    print(json.dumps([warm, end]))
    for name in warm:
        assert end[name] - warm[name] <= SLACK_KIB, (name, warm[name], end[name])


def test_a_few_requests(build, tiny_model, tmp_path):
    count, checked = 200, 50
    with Cluster(build, tiny_model, tmp_path / "cluster", own_sampler=True,
                 stage=POOL["tiny"]) as cluster:
        load, _ = soak(cluster, range(2, 10), count, checked, warm_up=50)
        assert sum(load.ended.values()) == count
        assert load.ended["length"] >= 0.7 * count and load.ended["left"] > 0
        assert_all_is_well(cluster.client())
        cluster.stop()
    one = models.split_tiny(tmp_path / "one", 1)
    assert_alone_they_are_the_same(load, checked, build, one, tmp_path)


@pytest.mark.long
def test_many_requests(build, smollm2, tmp_path, request):
    count = request.config.getoption("requests", None) or REQUESTS
    checked = min(200, count // 4)
    with Cluster(build, smollm2(2), tmp_path / "cluster", stage=POOL["smollm2"]) as cluster:
        load, resident = soak(cluster, range(49152), count, checked, min(WARM_UP, count // 2))
        print(load.ended)
        assert sum(load.ended.values()) == count
        assert load.ended["length"] >= 0.7 * count and load.ended["left"] > 0
        assert_all_is_well(cluster.client())
        assert_flat(resident)
        cluster.stop()
    assert_alone_they_are_the_same(load, checked, build, smollm2(1), tmp_path)
