"""A partition file that is truncated while a worker has it mapped: that worker ends with a line
that names the file, what ran on its route goes on elsewhere, and no client notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from answers import of_generation
from cluster import READY_TIMEOUT_S, Cluster, wait_until

EXIT_CONFIG = 64
LONG = {"token_ids": [2, 3, 4, 5, 6], "ignore_eos": True, "max_tokens": 3000, "logprobs": 1,
        "temperature": 0.9, "seed": 11}
LOST = "was truncated or cannot be read while it is mapped"


def routes_up(cluster: Cluster) -> int:
    return sum(" is up: " in text for text in cluster.processes["router"].messages())


@pytest.fixture
def two_routes(build, tiny_model, model, tmp_path) -> Iterator[Cluster]:
    """Two workers per partition; `replica` alone has files of its own, the copy `model`."""
    with Cluster(build, tiny_model, tmp_path / "cluster") as cluster:
        cluster.start_worker("replica", "chatloop-stage", "--partition", 0, model=model)
        cluster.start_worker("stage-1b", "chatloop-stage", "--partition", 1, "--with-sampler")
        wait_until(lambda: routes_up(cluster) == 2, READY_TIMEOUT_S, "two routes are up")
        yield cluster


def test_file_truncated_while_mapped(two_routes, model):
    client = two_routes.client()
    right = of_generation(client.generate(**LONG))
    streams = [client.stream(**LONG) for _ in range(4)]  # some on each route
    for stream in streams:
        next(stream)
    with (model / "partition_0.safetensors").open("r+b") as file:
        file.truncate(0)
    for stream in streams:
        for _ in stream:
            pass
    assert [of_generation(stream.result) for stream in streams] == [right] * len(streams)
    assert client.status()["counters"]["replays"] > 0
    replica = two_routes.processes["replica"]
    assert replica.wait(10) == EXIT_CONFIG
    line = replica.messages()[-1]
    assert line.startswith("chatloop-stage: ") and LOST in line
    assert str(model / "partition_0.safetensors") in line
    assert of_generation(client.generate(**LONG)) == right  # the same request, sent again

    del two_routes.processes["replica"]
    two_routes.stop()  # all others drain with exit code 0
