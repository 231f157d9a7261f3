"""performance.kv_cache_dtype: the same bits however a model with an int8 cache is cut and batched,
and no route over stages that do not agree."""

from __future__ import annotations

from pathlib import Path

import re

import pytest
from answers import Answer, ask_cpud, of_generation
from chatloop import protocol
from cluster import Cluster, wait_until
from conftest import EXIT_CONFIG
from damage import stage_options
from raw_socket import RawSocket

INT8 = ("--kv-cache-dtype", "int8")
KV_MB = ("--kv-cache-mb", "64")


@pytest.fixture(scope="module")
def int8_answers(build, smollm2, requests, tmp_path_factory) -> list[Answer]:
    return ask_cpud(build, smollm2(1), tmp_path_factory.mktemp("int8"), requests, *INT8, *KV_MB)


def test_another_fingerprint_and_other_numbers(int8_answers, right_answers):
    assert {answer.fingerprint for answer in int8_answers}.isdisjoint(
        answer.fingerprint for answer in right_answers)
    assert [a.logprobs for a in int8_answers] != [a.logprobs for a in right_answers]
    # A coarser cache, not a broken one: the greedy answers begin alike.
    greedy = [(a.token_ids[0], b.token_ids[0])
              for a, b in list(zip(int8_answers, right_answers, strict=True))[::2]]
    assert sum(a == b for a, b in greedy) >= len(greedy) - 1, greedy


@pytest.mark.parametrize("options", [
    ("--concurrent", "--stages", "3"), ("--poison-kv", "--concurrent", "--prefill-rows", "7"),
    ("--weights", "huge", "--concurrent", "--with-sampler", "--stages", "30"),
], ids=" ".join)
def test_in_one_process(build, smollm2, requests, int8_answers, tmp_path, options):
    found = ask_cpud(build, smollm2(1), tmp_path, requests, *INT8, *KV_MB, *options)
    assert found == int8_answers


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_processes(build, smollm2, requests, int8_answers, right_answers, tmp_path, name):
    """fp16 is another name of f16. The sampler of its own has no cache, and no such setting."""
    option = ("--kv-cache-dtype", name)
    with Cluster(build, smollm2(2), tmp_path, own_sampler=True, router=option,
                 stage=(*option, *KV_MB)) as cluster:
        client = cluster.client()
        streams = [client.stream(**request) for request in requests]
        for stream in streams:
            for _ in stream:
                pass
        found = [of_generation(stream.result) for stream in streams]
        assert found == (int8_answers if name == "int8" else right_answers)
        workers = {w["name"]: w["kv_cache_dtype"] for w in client.status()["workers"]}
        kind = "int8" if name == "int8" else "f16"
        assert workers == {"stage-0": kind, "stage-1": kind, "sampler": ""}
        cluster.stop()


def test_stages_that_differ_form_no_route(build, smollm2, tmp_path):
    cluster = Cluster(build, smollm2(2), tmp_path)
    with cluster.empty():
        cluster.start_router()
        cluster.start_worker("stage-0", "chatloop-stage", "--partition", 0)
        odd = cluster.start_worker("odd", "chatloop-stage", "--partition", 1, "--with-sampler",
                                   *INT8)
        assert odd.wait(20) == EXIT_CONFIG
        assert odd.messages()[-1] == (
            "chatloop-stage: odd is refused: its KV cache is int8, the router serves f16: give "
            "performance.kv_cache_dtype one value everywhere")
        client = cluster.client()
        wait_until(lambda: client.status()["workers"], 20, "the other stage is there")
        assert [w["name"] for w in client.status()["workers"]] == ["stage-0"]
        status = client.status()
        assert not status["ready"]
        assert re.match(r"layers \d+-29 are missing; no sampler is there; odd was refused: its KV "
                        "cache is int8, the router serves f16", status["no_route"])
        del cluster.processes["odd"]
        cluster.start_worker("even", "chatloop-stage", "--partition", 1, "--with-sampler")
        cluster.wait_ready()
        cluster.stop()


def test_an_answer_of_another_kv_type_is_not_resumed(smollm2_cluster, int8_answers):
    begun = int8_answers[0]
    progress = {"prompt_ids": list(begun.prompt_ids), "token_ids": list(begun.token_ids[:3]),
                "seed": begun.seed, "fingerprint": begun.fingerprint}
    with RawSocket(smollm2_cluster.endpoints["front"]) as front:
        answer = front.ask([1, protocol.RESUME, "r", 1,
                            {"token_ids": list(begun.prompt_ids), "max_tokens": 8}, progress])
    assert answer[1:4] == [protocol.ERROR, "r", "fingerprint_mismatch"]


def test_heads_that_are_no_whole_groups(refusal, tiny_model: Path):
    """The tiny model has heads of 16 values."""
    line = refusal("chatloop-stage", *stage_options(tiny_model), *INT8)
    assert "kv_cache_dtype int8" in line and "have 16" in line and line.endswith("take f16")
    assert "have 16" in refusal("chatloop-cpud", "--model", tiny_model, "--prompt", "a", *INT8)
    assert "one of f16|fp16|int8" in refusal("chatloop-stage", *stage_options(tiny_model),
                                             "--kv-cache-dtype", "int4")
