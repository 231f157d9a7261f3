"""Token ids and log-probabilities are a function of weights, prompt, parameters and seed alone.

One fixed set of requests, one baseline, and every way to compute them: bits are compared. Each of
them runs alone in the baseline and among the others in the rest.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from answers import Answer, ask, ask_cpud
from cluster import Cluster

TOKENS = 16
# Not much cache, as poisoned or touched pages are real ones; 16 MiB of SmolLM2 are 728 positions.
KV_MB = ("--kv-cache-mb", "64")
SAMPLED = {"temperature": 0.8, "seed": 7}


def requests_of(reference: dict) -> list[dict]:
    text = reference["perplexity"]["ids"]
    chat = [{"role": "user", "content": "Write a haiku about the sea."}]
    common = {"max_tokens": TOKENS, "logprobs": 3, "ignore_eos": True, "seed": 1}
    return [{**common, **request} for request in (
        {"prompt": "Once upon a time"},
        {"messages": chat},
        {"token_ids": text[:100]},
        {"token_ids": text[:100], **SAMPLED, "top_p": 0.9},
        {"prompt": "def fibonacci(n):", **SAMPLED, "top_k": 20},
        {"prompt": "The sea", **SAMPLED, "min_p": 0.05, "logprobs": 0},
        {"messages": chat, **SAMPLED, "seed": 2 ** 64 - 1, "top_p": 0.8, "top_k": 50},
        {"token_ids": text[200:267], "prompt_logprobs": 2},  # 67: beyond a block and a frame
        {"token_ids": text[300:301], "temperature": 1.5, "seed": 3},
        {"prompt": "One two three one two three", **SAMPLED, "repetition_penalty": 1.3,
         "presence_penalty": 0.4, "frequency_penalty": -0.2, "logit_bias": {28: -2.0, 30: 1.5}},
        {"token_ids": text[100:230], **SAMPLED, "n": 3},  # with two blocks of the prompt in common
    )]


@pytest.fixture(scope="module")
def requests(reference):
    return requests_of(reference)


@pytest.fixture(scope="module")
def baseline(build, smollm2, requests, tmp_path_factory) -> list[Answer]:
    """One process, one stage, one request after another, every row computed."""
    found = ask_cpud(build, smollm2(1), tmp_path_factory.mktemp("baseline"), requests, *KV_MB,
                     "--no-prefix-cache", "--prefill-rows", 64)
    assert [len(answer.token_ids) for answer in found] == [TOKENS] * len(requests)
    assert [len(answer.logprobs) for answer in found] == [TOKENS] * len(requests)
    assert len(found[7].prompt_logprobs) == 67
    assert len({found[10].token_ids, *(tokens for tokens, _ in found[10].others)}) == 3
    assert len({answer.text for answer in found}) == len(found)  # all differ: seeds have effect
    return found


@pytest.fixture
def ask_here(build, smollm2, tmp_path):
    """chatloop-cpud on the model in one partition."""
    return lambda requests, *options: ask_cpud(build, smollm2(1), tmp_path, requests, *KV_MB,
                                               *options)


@pytest.mark.parametrize("own_sampler", [False, True], ids=["hosted", "own"])
@pytest.mark.parametrize("partitions", [1, 2, 3])
def test_processes(build, smollm2, requests, baseline, tmp_path, partitions, own_sampler):
    with Cluster(build, smollm2(partitions), tmp_path, own_sampler=own_sampler,
                 stage=KV_MB) as cluster:
        assert ask(cluster.client(), requests) == baseline
        cluster.stop()


@pytest.mark.parametrize("partitions", [1, 2])
def test_router_in_the_first_stage(build, smollm2, requests, baseline, tmp_path, partitions):
    with Cluster(build, smollm2(partitions), tmp_path, hosted_router=True,
                 stage=KV_MB) as cluster:
        assert ask(cluster.client(), requests) == baseline
        cluster.stop()


@pytest.mark.parametrize("hosted", [(), ("--with-sampler",)], ids=["own", "hosted"])
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 30])
def test_stages_in_one_process(requests, baseline, ask_here, stages, hosted):
    found = ask_here(requests, "--stages", stages, "--concurrent", *hosted)
    assert found == baseline


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_prompt_in_chunks_or_at_once(requests, baseline, ask_here, rows):
    """64 rows are the baseline's."""
    assert ask_here(requests, "--prefill-rows", rows) == baseline


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_prompt_in_chunks_among_others(requests, baseline, ask_here, rows):
    found = ask_here(requests, "--prefill-rows", rows, "--max-batch-size", 5, "--concurrent",
                     "--stages", 2)
    assert found == baseline


@pytest.mark.parametrize("partitions", [1, 2])
def test_rows_from_the_prefix_cache(build, smollm2, requests, baseline, tmp_path, partitions):
    """Again and again, alone and all at once: some compute what others find."""
    with Cluster(build, smollm2(partitions), tmp_path, stage=(*KV_MB, "--poison-kv")) as cluster:
        client = cluster.client()
        for _ in range(2):
            assert ask(client, requests) == baseline
            assert [ask(client, [request])[0] for request in requests] == baseline
        assert client.status()["counters"]["prefix_tokens"] >= 64 * 3
        cluster.stop()


def test_one_prefix_in_the_same_step(build, smollm2, requests, baseline, tmp_path):
    with Cluster(build, smollm2(2), tmp_path, stage=(*KV_MB, "--poison-kv")) as cluster:
        assert ask(cluster.client(), [requests[2], requests[3]] * 4) == baseline[2:4] * 4
        cluster.stop()


def test_preempted(build, smollm2, requests, reference, tmp_path):
    """Answers that outgrow the pool: 4 MiB a stage are 4 blocks of 64 positions."""
    text = reference["perplexity"]["ids"]
    long = [{**requests[0], "max_tokens": 100, "prompt": None, "token_ids": text[i:i + 40],
             "temperature": 0.8, "seed": i} for i in range(4)]
    long = [{key: value for key, value in request.items() if value is not None}
            for request in long]
    alone = ask_cpud(build, smollm2(1), tmp_path, long, *KV_MB, "--no-prefix-cache")
    with Cluster(build, smollm2(2), tmp_path, router=("--kv-headroom-tokens", "0"),
                 stage=("--kv-cache-mb", "4", "--poison-kv")) as cluster:
        client = cluster.client()
        assert ask(client, long) == alone
        status = client.status()
        assert status["counters"]["preemptions"] > 0
        assert status["routes"][0]["counters"]["kv_held"] == 0
        cluster.stop()


def test_unwritten_kv_is_never_read(requests, baseline, ask_here):
    assert ask_here(requests, "--poison-kv", "--concurrent", "--stages", 2) == baseline


def test_unwritten_kv_is_never_read_by_processes(build, smollm2, requests, baseline, tmp_path):
    with Cluster(build, smollm2(2), tmp_path, stage=(*KV_MB, "--poison-kv")) as cluster:
        assert ask(cluster.client(), requests) == baseline
        cluster.stop()


# The scalar reference makes some seven rows a second: short prompts, few tokens. An answer cut
# short is the beginning of the whole one.
FEW_TOKENS = 3


def shortened(answer: Answer) -> Answer:
    return dataclasses.replace(answer, token_ids=answer.token_ids[:FEW_TOKENS],
                               logprobs=answer.logprobs[:FEW_TOKENS], text="")


@pytest.fixture(scope="module")
def short_requests(requests):
    return [{**requests[i], "max_tokens": FEW_TOKENS} for i in (0, 4, 8)]


@pytest.fixture(scope="module")
def short_baseline(baseline):
    return [shortened(baseline[i]) for i in (0, 4, 8)]


@pytest.mark.parametrize("kernels", ["avx512vnni", "avx512", "avx2", "reference"])
def test_kernels(short_requests, short_baseline, ask_here, kernels):
    needed = {"avx512vnni": "avx512_vnni", "avx512": "avx512bw"}.get(kernels, "avx2")
    if needed not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this CPU has no {needed}")
    found = ask_here(short_requests, "--kernels", kernels, "--concurrent")
    assert [shortened(answer) for answer in found] == short_baseline


def test_kernels_mixed_along_a_route(build, smollm2, short_requests, short_baseline, tmp_path):
    with Cluster(build, smollm2(3), tmp_path, stage=KV_MB,
                 stage_of={1: ("--kernels", "reference")}) as cluster:
        found = ask(cluster.client(), short_requests)
        cluster.stop()
    assert [shortened(answer) for answer in found] == short_baseline
