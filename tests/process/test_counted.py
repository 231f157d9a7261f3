"""What /metrics counts amid faults equals what the clients and the test counted."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from cluster import Cluster, wait_until
from scrape import Page, scrape
from test_failover import Askers
from test_metrics import METRICS, settled, url_of

STREAMS = 8
BACK_S = 20.0


@pytest.fixture
def observed(build, tiny_model, tmp_path) -> Iterator[Cluster]:
    with Cluster(build, tiny_model, tmp_path, own_sampler=True, router=METRICS) as cluster:
        yield cluster
        cluster.stop()


def grown(before: Page, after: Page, name: str, **labels: str) -> float:
    return after.total(name, **labels) - before.total(name, **labels)


@pytest.mark.parametrize("name, replays", [("stage-0", STREAMS), ("stage-1", STREAMS),
                                           ("sampler", 0)])
def test_a_failover_counts_each_sequence_once(observed, name, replays):
    before = settled(observed)
    askers = Askers(observed, STREAMS, 2000)
    assert askers.running == STREAMS
    observed.restart(name)
    answers = askers.ends()
    after = settled(observed)
    assert grown(before, after, "coordinator_workers_lost_total") == 1
    assert grown(before, after, "coordinator_routes_down_total") == 1
    assert grown(before, after, "coordinator_recoveries_total") == STREAMS
    assert grown(before, after, "coordinator_replays_total") == replays
    assert grown(before, after, "inference_requests_total") == STREAMS
    tokens = sum(len(answer.token_ids) for answer in answers)
    assert grown(before, after, "inference_tokens_generated_total") == tokens == STREAMS * 2000
    assert grown(before, after, "inference_requests_ended_total", reason="length") == STREAMS


def count_amid_kills(observed: Cluster, requests: int, kills: int) -> None:
    """Requests from eight threads; workers are killed whenever a route is up again."""
    dice = random.Random(3)
    before = settled(observed)

    def ask(i: int) -> tuple[int, int]:
        client = observed.client()
        answer = client.generate(token_ids=[2 + i % 8] * (1 + i % 150), ignore_eos=True, seed=i,
                                 max_tokens=100 + i % 200, n=1 + i % 2, temperature=0.5)
        client.close()
        return answer.usage.prompt_tokens, answer.usage.completion_tokens

    watch = observed.client()
    killed = 0
    with ThreadPoolExecutor(STREAMS) as pool:
        asked = [pool.submit(ask, i) for i in range(requests)]
        while killed < kills and not all(one.done() for one in asked[-STREAMS:]):
            wait_until(lambda: watch.status()["ready"], BACK_S, "a route")
            time.sleep(dice.uniform(0.0, 0.3))
            observed.restart(dice.choice(("stage-0", "stage-1", "sampler")))
            killed += 1
            wait_until(lambda: watch.status()["counters"]["workers_lost"] ==
                       before.total("coordinator_workers_lost_total") + killed, BACK_S, "a death")
        ends = [one.result() for one in asked]
    wait_until(lambda: watch.status()["ready"], BACK_S, "a route")
    after = settled(observed)
    assert killed == kills, "the answers came too fast"
    assert grown(before, after, "inference_requests_total") == requests
    assert grown(before, after, "inference_requests_ended_total") == requests
    assert grown(before, after, "inference_requests_ended_total", reason="length") == requests
    assert grown(before, after, "inference_request_duration_seconds_count") == requests
    tokens = sum(completion for _, completion in ends)
    assert grown(before, after, "inference_tokens_generated_total") == tokens
    assert grown(before, after, "coordinator_tokens_committed_total") == tokens
    choices = sum(1 + i % 2 for i in range(requests))
    assert grown(before, after, "inference_time_to_first_token_seconds_count") == requests
    assert grown(before, after, "inference_inter_token_seconds_count") == tokens - choices
    assert grown(before, after, "coordinator_workers_lost_total") == kills
    assert grown(before, after, "coordinator_routes_down_total") == kills
    assert grown(before, after, "coordinator_routes_up_total") == kills
    recoveries = grown(before, after, "coordinator_recoveries_total")
    replays = grown(before, after, "coordinator_replays_total")
    assert 0 < replays <= recoveries <= kills * 2 * STREAMS


def test_counters_are_exact_after_requests_amid_kills(observed):
    count_amid_kills(observed, requests=100, kills=5)


@pytest.mark.long
def test_counters_are_exact_after_a_thousand_requests_amid_kills(observed):
    count_amid_kills(observed, requests=1000, kills=40)


# ---- histograms ----


def bucket_of(bounds: list[float], value: float) -> int:
    return next(i for i, bound in enumerate(bounds) if value <= bound)


def quantile_bucket(page: Page, before: Page, name: str, q: float) -> tuple[list[float], int]:
    """The bounds of a histogram, and the index of the bucket that has its q-quantile."""
    counts: dict[float, float] = {}
    for (sample, labels), value in page.samples.items():
        if sample == name + "_bucket":
            bound = float(dict(labels)["le"])
            counts[bound] = value - before.samples.get((sample, labels), 0.0)
    bounds = sorted(counts)
    rank = math.ceil(q * counts[math.inf])
    return bounds, next(i for i, bound in enumerate(bounds) if counts[bound] >= rank)


def test_the_histograms_have_the_quantiles_of_the_clients(http_cluster):
    """P50 and P99 of four streams at a time lie within a bucket of what the clients took."""
    before = settled(http_cluster)
    first_s: list[float] = []
    token_s: list[float] = []
    whole_s: list[float] = []

    def ask(i: int) -> None:
        client = http_cluster.client()
        client.status()  # the link is up
        began = time.monotonic()
        times = []
        with client.stream(prompt="Count to ten. " * (1 + i % 5), max_tokens=40, seed=i,
                           ignore_eos=True) as stream:
            for piece in stream:
                times += [time.monotonic()] * len(piece.token_ids)
        whole_s.append(time.monotonic() - began)
        first_s.append(times[0] - began)
        token_s.extend(b - a for a, b in pairwise(times))
        client.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(ask, i) for i in range(60)]:
            done.result()
    after = settled(http_cluster)
    for name, own in (("inference_time_to_first_token_seconds", first_s),
                      ("inference_inter_token_seconds", token_s),
                      ("inference_request_duration_seconds", whole_s)):
        own.sort()
        assert grown(before, after, name + "_count") == len(own), name
        for q in (0.5, 0.99):
            bounds, bucket = quantile_bucket(after, before, name, q)
            mine = bucket_of(bounds, own[math.ceil(q * len(own)) - 1])
            assert abs(bucket - mine) <= 1, (name, q, bounds[bucket], bounds[mine])
