"""Both clients against real routers: the same answers, through a restart of the router, too."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from answers import Answer, of_generation
from cluster import Cluster, wait_until

from chatloop import AsyncClient, ChatLoopError, Client

# Everything that shapes an answer: sampling, rivals, the prompt's own, echo, stop strings and ids.
REQUESTS = [
    {"prompt": "Once upon a time", "max_tokens": 12, "logprobs": 3, "prompt_logprobs": 2,
     "echo": True, "seed": 1},
    {"prompt": "The sea is", "max_tokens": 16, "temperature": 0.9, "top_p": 0.95, "seed": 5,
     "logprobs": 0, "stop": [" the", "."]},
    {"messages": [{"role": "user", "content": "Say hello in French, with Grüße."}],
     "max_tokens": 12, "temperature": 0.7, "top_k": 20, "seed": 2**64 - 1, "ignore_eos": True},
    {"prompt": "What is the capital of France?", "max_tokens": 12, "seed": 2},  # ends at once
    {"token_ids": [504, 2330, 282], "max_tokens": 10, "stop_token_ids": [28, 30], "echo": True,
     "seed": 3},
]
LONG = {"token_ids": [2, 3, 4], "ignore_eos": True, "max_tokens": 4000, "temperature": 1.0,
        "seed": 9, "logprobs": 2}  # of the tiny model: some seconds


def whole(result) -> tuple:
    return (of_generation(result), result.stop, result.usage, result.model)


async def read(client: AsyncClient, request: dict) -> tuple:
    stream = client.stream(**request)
    pieces = [piece async for piece in stream]
    assert "".join(piece.text for piece in pieces) == stream.result.text
    assert [i for piece in pieces for i in piece.token_ids] == stream.result.token_ids
    return whole(stream.result)


def test_both_clients_give_the_same_answers(smollm2_cluster):
    blocking = [whole(smollm2_cluster.client().generate(**request)) for request in REQUESTS]
    assert [answer[1] for answer in blocking[2:4]] == [None, 2]

    async def main() -> list:
        async with AsyncClient(smollm2_cluster.endpoints["front"], timeout_s=120) as client:
            assert (await client.status())["ready"]
            return await asyncio.gather(*(read(client, request) for request in REQUESTS))

    assert asyncio.run(main()) == blocking


def test_errors_of_the_router_are_the_same_for_both(tiny_cluster):
    endpoint = tiny_cluster.endpoints["front"]
    refused = [{"prompt": "x", "token_ids": [2]}, {"token_ids": [2], "top_p": 7.0},
               {"token_ids": [2], "nonsense": 1}, {"token_ids": [2], "model": "another"},
               {"token_ids": [2] * 9000}]

    def seen(error: ChatLoopError) -> tuple:
        return (error.code, error.message, error.retryable, error.committed)

    def of_client(request: dict) -> tuple:
        with Client(endpoint) as client, pytest.raises(ChatLoopError) as caught:
            client.generate(**request)
        return seen(caught.value)

    async def of_async(request: dict) -> tuple:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(ChatLoopError) as caught:
                await client.generate(**request)
        return seen(caught.value)

    for request in refused:
        assert of_client(request) == asyncio.run(of_async(request))


@pytest.fixture
def own_cluster(build, tiny_model, tmp_path):
    with Cluster(build, tiny_model, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def right_answer(own_cluster) -> Answer:
    return of_generation(own_cluster.client().generate(**LONG))


def test_both_clients_continue_through_kill_9_of_the_router(own_cluster, right_answer):
    async def main() -> list[Answer]:
        async with AsyncClient(own_cluster.endpoints["front"], timeout_s=120) as client:
            stream = client.stream(**LONG)
            await anext(stream)
            own_stream = own_cluster.client().stream(**LONG)
            next(own_stream)
            await asyncio.to_thread(own_cluster.restart_router)
            blocking = asyncio.create_task(asyncio.to_thread(lambda: [*own_stream]))
            pieces = [piece async for piece in stream]
            await blocking
            assert pieces[-1].index + len(pieces[-1].token_ids) == LONG["max_tokens"]
            assert stream.progress.attempt >= 1 and own_stream.progress.attempt >= 1
            return [of_generation(s.result) for s in (stream, own_stream)]

    assert asyncio.run(main()) == [right_answer] * 2


def test_after_an_error_resume_goes_on(build, tiny_model, tmp_path, right_answer):
    with Cluster(build, tiny_model, tmp_path / "impatient",
                 router=("--route-wait-secs", "1")) as cluster:
        client = cluster.client()
        stream = client.stream(**LONG)
        next(stream)
        cluster.processes.pop("stage-0").kill()
        with pytest.raises(ChatLoopError) as caught:
            for _ in stream:
                pass
        error = caught.value
        assert (error.code, error.retryable) == ("no_route", True)
        assert 0 < error.committed == len(error.progress.token_ids) < LONG["max_tokens"]
        cluster.start_worker("stage-0b", "chatloop-stage", "--partition", 0)
        wait_until(lambda: client.status()["ready"], 20, "a route with the new stage")

        async def rest() -> Answer:
            async with AsyncClient(cluster.endpoints["front"], timeout_s=120) as other:
                resumed = other.resume(error.progress)
                async for _ in resumed:
                    pass
                return of_generation(resumed.result)

        assert asyncio.run(rest()) == right_answer


def test_a_router_that_stops_answering_is_reported_in_time(own_cluster):
    router = own_cluster.processes["router"]
    with Client(own_cluster.endpoints["front"], silence_timeout_s=1.0) as client:
        stream = client.stream(**LONG)
        next(stream)
        os.kill(router.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ChatLoopError) as caught:
                for _ in stream:
                    pass
        finally:
            os.kill(router.pid, signal.SIGCONT)
    assert (caught.value.code, caught.value.retryable) == ("unreachable", True)
    assert caught.value.progress is not None


def test_a_caller_may_pause_amid_long_answers(own_cluster):
    """Above the 10 s after which TCP gives up a peer that takes nothing."""
    client = own_cluster.client(timeout_s=20.0)
    streams = [client.stream(**{**LONG, "max_tokens": 8000, "logprobs": 9}) for _ in range(4)]
    for stream in streams:
        next(stream)
    time.sleep(12.0)
    for stream in streams:
        for _ in stream:
            pass
    assert [stream.result.usage.completion_tokens for stream in streams] == [8000] * 4
