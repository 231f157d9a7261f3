"""kill -9 of workers that are idle, of a spare, of the router; test_failover.py has the others.

The bounds are generous; tests/bench/fault_bench.py measures the times.
"""

from __future__ import annotations

from answers import of_generation
from cluster import Cluster, wait_until
from counts import rising

LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 8000, "seed": 2}
SHORT = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 64, "logprobs": 2,
         "temperature": 0.8, "seed": 1}
BOUND_S = 10.0


def test_an_idle_one_killed(build, tiny_model, tmp_path):
    """Nobody asks for anything: the next request is served all the same."""
    with Cluster(build, tiny_model, tmp_path, own_sampler=True) as cluster:
        client = cluster.client()
        expected = of_generation(client.generate(**SHORT))
        for name in ("stage-0", "stage-1", "sampler"):
            cluster.processes[name].kill()
            wait_until(lambda: not client.status()["ready"], BOUND_S, f"{name} is missed")
            cluster.restart(name)
            assert of_generation(client.generate(**SHORT)) == expected
        cluster.stop()


def test_a_spare_killed_or_used(build, tiny_model, tmp_path):
    """A second first stage takes over at once; killed as a spare it is only gone."""
    with Cluster(build, tiny_model, tmp_path) as cluster:
        client = cluster.client()
        expected = of_generation(client.generate(**SHORT))
        cluster.start_worker("spare", "chatloop-stage", "--partition", 0)
        wait_until(lambda: [w["state"] for w in client.status()["workers"]] == ["ready"] * 3,
                   20, "the spare is ready")
        stream = client.stream(**LONG)
        next(stream)
        with rising(client, {"workers_lost": 1}):
            cluster.processes["spare"].kill()
        next(stream)  # the route was not the spare's
        stream.close()
        cluster.restart("spare")
        wait_until(lambda: [w["state"] for w in client.status()["workers"]] == ["ready"] * 3,
                   20, "the spare is ready")
        cluster.processes["stage-0"].kill()
        assert of_generation(client.generate(**SHORT)) == expected
        del cluster.processes["stage-0"]
        cluster.stop()


def test_the_router_killed_and_back(build, tiny_model, tmp_path):
    """Workers wait for it, and a new one at its address takes them in."""
    with Cluster(build, tiny_model, tmp_path) as cluster:
        client = cluster.client()
        expected = of_generation(client.generate(**SHORT))
        cluster.restart_router_in_place()
        cluster.wait_ready()
        assert of_generation(cluster.client().generate(**SHORT)) == expected
        cluster.stop()
