"""Two routers share the workers; the clients of one that dies go on at the other."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator

import pytest
from answers import Answer, of_generation
from chatloop import Client
from cluster import ANY_PORT, READY_TIMEOUT_S, Cluster, wait_until

REQUESTS = [{"token_ids": [2 + (5 * i + j) % 8 for j in range(5 + 60 * i)], "ignore_eos": True,
             "max_tokens": 2000, "logprobs": 1, "temperature": 0.8 * (i % 2), "seed": i}
            for i in range(4)]


@pytest.fixture
def two(build, tiny_model, tmp_path) -> Iterator[Cluster]:
    """Router `other` beside the cluster's own; the workers serve both."""
    cluster = Cluster(build, tiny_model, tmp_path, own_sampler=True)
    with cluster.empty():
        cluster.start_router()
        file = tmp_path / "other.json"
        ports = [word for name in ("--ctrl", "--front", "--result") for word in (name, ANY_PORT)]
        cluster.start("other", "chatloop-router", "--endpoints-file", file, *ports)
        wait_until(file.exists, READY_TIMEOUT_S, "the other router writes its endpoints")
        cluster.endpoints["other"] = json.loads(file.read_text())["front"]
        more = ("--router", json.loads(file.read_text())["ctrl"])
        for k in (0, 1):
            cluster.start_worker(f"stage-{k}", "chatloop-stage", "--partition", k, *more)
        cluster.start_worker("sampler", "chatloop-sampler", *more)
        for name in ("front", "other"):
            with Client(cluster.endpoints[name], timeout_s=READY_TIMEOUT_S) as client:
                wait_until(lambda c=client: c.status()["ready"], READY_TIMEOUT_S, "a route")
        yield cluster
        for process in cluster.processes.values():
            process.terminate()
        cluster.assert_drained()


def answers_of(endpoints: list[str], begun: threading.Semaphore, found: dict[int, Answer],
               i: int) -> None:
    with Client(endpoints, timeout_s=120.0) as client:
        with client.stream(**REQUESTS[i]) as stream:
            next(stream)
            begun.release()
            for _ in stream:
                pass
            found[i] = of_generation(stream.result)


def ask_all(endpoints: list[str], amid: object = None) -> dict[int, Answer]:
    begun = threading.Semaphore(0)
    found: dict[int, Answer] = {}
    threads = [threading.Thread(target=answers_of, args=(endpoints, begun, found, i), daemon=True)
               for i in range(len(REQUESTS))]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=60.0)
    if amid is not None:
        amid()
    for thread in threads:
        thread.join(120.0)
    return found


def test_both_serve_at_once(two):
    right = ask_all([two.endpoints["front"]])
    assert len(right) == len(REQUESTS)
    others: dict[int, Answer] = {}
    second = threading.Thread(
        target=lambda: others.update(ask_all([two.endpoints["other"]])), daemon=True)
    second.start()
    assert ask_all([two.endpoints["front"]]) == right
    second.join(120.0)
    assert others == right


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_one_is_gone_and_the_other_goes_on(two, how):
    endpoints = [two.endpoints["front"], two.endpoints["other"]]
    right = ask_all(endpoints)
    router = two.processes["router"]
    assert ask_all(endpoints, lambda: router.signal(how)) == right
    with Client(two.endpoints["other"]) as client:
        assert client.status()["counters"]["requests"] == len(REQUESTS)
        assert client.status()["counters"]["routes_down"] == 0
    if how == signal.SIGSTOP:
        router.signal(signal.SIGCONT)  # it finds that its clients have left
    else:
        router.wait(5.0)
        del two.processes["router"]
