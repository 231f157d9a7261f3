"""More than the router lets wait: a clear error over ZeroMQ at once, with the time after which it
pays to ask again, and whoever asks again then is served."""

from __future__ import annotations

import time

import pytest
from chatloop import ChatLoopError
from cluster import Cluster, wait_until

LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000, "seed": 1}
SHORT = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 8, "seed": 2}
ATTEMPTS_MAX = 100


def test_one_too_many_is_told_when_to_come_back(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path,
                 router=("--max-queue-size", "1", "--route-sequences", "1")) as cluster:
        client = cluster.client()
        expected = client.generate(**SHORT).token_ids
        with client.stream(**LONG) as running:
            next(running)
            with cluster.client().stream(**LONG) as waiting:
                wait_until(lambda: client.status()["waiting"] == 1, 10.0, "the second waits")
                with pytest.raises(ChatLoopError) as refused:
                    cluster.client().generate(**SHORT)
                error = refused.value
                assert (error.code, error.retryable, error.committed) == ("queue_full", True, 0)
                assert 100 <= error.retry_after_ms <= 60_000
                running.close()
                next(waiting)
        for _ in range(ATTEMPTS_MAX):
            try:
                assert client.generate(**SHORT).token_ids == expected
                break
            except ChatLoopError as again:
                assert again.code == "queue_full"
                time.sleep(again.retry_after_ms / 1000)
        else:
            raise AssertionError("never served")
        cluster.stop()
