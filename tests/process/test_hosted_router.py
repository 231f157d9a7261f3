"""A first stage that is the router, too: one process, one thread, the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import of_generation
from cluster import ANY_PORT, Cluster
from process_info import is_running

SHORT = {"token_ids": [5, 6, 7], "ignore_eos": True, "max_tokens": 64, "logprobs": 2,
         "temperature": 0.8, "seed": 1}
LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 4000, "seed": 2}


@pytest.mark.parametrize("own_sampler", [False, True], ids=["hosted-sampler", "own-sampler"])
def test_same_answers_and_one_thread(build, tiny_model, tmp_path, own_sampler):
    with Cluster(build, tiny_model, tmp_path / "apart", own_sampler=own_sampler) as cluster:
        expected = of_generation(cluster.client().generate(**SHORT))
        cluster.stop()
    with Cluster(build, tiny_model, tmp_path / "hosted", own_sampler=own_sampler,
                 hosted_router=True) as cluster:
        client = cluster.client()
        assert of_generation(client.generate(**SHORT)) == expected
        workers = {worker["name"]: worker["state"] for worker in client.status()["workers"]}
        assert workers == {name: "ready" for name in cluster.processes}
        tasks = Path(f"/proc/{cluster.processes['stage-0'].pid}/task").iterdir()
        names = sorted((task / "comm").read_text().strip() for task in tasks)
        assert names == ["ZMQbg/IO/0", "ZMQbg/Reaper", "chatloop-stage"]
        cluster.stop()


def test_a_lost_last_stage_and_the_next_route(build, tiny_model, tmp_path):
    """The link to the stage of the own process is closed and opened with each generation."""
    with Cluster(build, tiny_model, tmp_path, hosted_router=True) as cluster:
        client = cluster.client()
        expected = of_generation(client.generate(**SHORT))
        for _ in range(3):
            with client.stream(**LONG) as stream:
                next(stream)
                cluster.restart("stage-1")
                assert 1 + sum(len(piece.token_ids) for piece in stream) == LONG["max_tokens"]
            assert of_generation(client.generate(**SHORT)) == expected
        assert client.status()["counters"]["routes_up"] == 4
        cluster.stop()


def test_a_drain_finishes_the_answer(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path, hosted_router=True) as cluster:
        with cluster.client().stream(**LONG) as stream:
            next(stream)
            cluster.terminate()
            tokens = 1 + sum(len(piece.token_ids) for piece in stream)
        assert tokens == LONG["max_tokens"]
        cluster.assert_drained()


def stage(model: Path, router: object, *more: object) -> tuple[object, ...]:
    return ("chatloop-stage", "--model", model, "--partition", 0, "--name", "s", "--listen",
            ANY_PORT, "--with-router", router, *more)


def test_what_the_routers_file_gets_wrong(refusal, tiny_model, tmp_path):
    assert "nowhere.yaml" in refusal(*stage(tiny_model, "nowhere.yaml"))
    file = tmp_path / "router.yaml"
    for text, said in (("worker: {worker_id: x}\n", "router.yaml:1"),
                       ("batching: {max_batch_size: 0}\n", "an integer from 1 to 256"),
                       ("bus: {front: nonsense}\n", "nonsense")):
        file.write_text(text)
        assert said in refusal(*stage(tiny_model, file, "--check"))


def test_a_port_in_use(refusal, build, tiny_cluster, tiny_model, tmp_path):
    file = tmp_path / "router.yaml"
    front = tiny_cluster.endpoints["front"]
    file.write_text(f"bus: {{ctrl: '{ANY_PORT}', front: '{front}', result: '{ANY_PORT}'}}\n")
    assert front in refusal(*stage(tiny_model, file), code=65)
    assert is_running(tiny_cluster.processes["router"].pid)
