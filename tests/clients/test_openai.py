"""OpenAI's own Python client, unchanged."""

from __future__ import annotations

import asyncio
import json
import time

import openai
import pytest
from cluster import Cluster
from conftest import MODEL

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
                                           "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                   "required": ["city"], "additionalProperties": False}}}


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, max_retries=0) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_chat_and_its_stream(client):
    asked = {"model": MODEL, "messages": CHAT, "max_completion_tokens": 12, "temperature": 0,
             "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.system_fingerprint.startswith("fp_")
    assert all(len(token.top_logprobs) == 2 for token in whole.choices[0].logprobs.content)
    text, usage, finish = "", None, None
    stream = client.chat.completions.create(**asked, stream=True,
                                            stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert finish == whole.choices[0].finish_reason


def test_completions(client):
    asked = {"model": MODEL, "prompt": "One, two,", "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**asked, echo=True, logprobs=1)
    assert whole.choices[0].text.startswith("One, two,")
    assert whole.choices[0].logprobs.token_logprobs[0] is None
    many = client.completions.create(**{**asked, "prompt": ["One, two,", "A, b,"]}, n=2, seed=1)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    streamed = "".join(chunk.choices[0].text for chunk in
                       client.completions.create(**asked, stream=True))
    assert "One, two," + streamed == whole.choices[0].text


def test_extras(client):
    answer = client.completions.create(model=MODEL, prompt="Yes or no?", max_tokens=4,
                                       extra_body={"top_k": 5, "choice": ["yes", "no"]})
    assert answer.choices[0].text in ("yes", "no")


def test_errors_are_those_of_the_library(client, url):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=CHAT, temperature=-1)
    assert bad.value.param == "temperature" and bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt="word " * 20000)
    assert long.value.code == "context_length_exceeded"
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_a_timeout_ends_the_request(client, cluster):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).completions.create(
            model=MODEL, prompt="Once", max_tokens=4000, extra_body={"ignore_eos": True})
    deadline = time.monotonic() + 20
    while cluster.client().status()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_schema(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Invent a person."}], max_tokens=200,
        temperature=0, response_format={"type": "json_schema", "json_schema": {
            "name": "person", "strict": True, "schema": PERSON}})
    if answer.choices[0].finish_reason == "stop":
        person = json.loads(answer.choices[0].message.content)
        assert set(person) == {"name", "age"} and isinstance(person["age"], int)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL, messages=CHAT, response_format={"type": "json_schema", "json_schema": {
                "name": "x", "schema": {"type": "no such type"}}})


def test_tools_are_optional_to_a_template_without_them(client):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, tools=[WEATHER],
                                            max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as refused:  # SmolLM2's has none
        client.chat.completions.create(model=MODEL, messages=CHAT, tools=[WEATHER],
                                       tool_choice="required", max_tokens=8)
    assert refused.value.param == "tool_choice"


def test_many_at_once_with_asyncio(url):
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, max_retries=0) as client:
            async def ask(i: int) -> str:
                stream = await client.completions.create(
                    model=MODEL, prompt=f"{i}, {i + 1},", max_tokens=8, temperature=0, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(ask(i) for i in range(16)))

    assert asyncio.run(ask_all()) == asyncio.run(ask_all())


def test_a_killed_stage_is_a_pause_of_the_stream(build, gguf, tmp_path):
    """kill -9 in mid-stream, and another process of that name: the client sees the same text."""
    import models
    with Cluster(build, models.split_cached(gguf, 2), tmp_path,
                 router=["--http", "127.0.0.1:*"]) as cluster:
        with openai.OpenAI(base_url=cluster.endpoints["http"] + "/v1", max_retries=0) as client:
            asked = {"model": MODEL, "messages": CHAT, "max_completion_tokens": 60, "seed": 5,
                     "temperature": 0.8, "extra_body": {"ignore_eos": True}}
            undisturbed = client.chat.completions.create(**asked)
            for lost in ("stage-0", "stage-1"):
                text, chunks, finish = "", 0, None
                for chunk in client.chat.completions.create(**asked, stream=True):
                    text += chunk.choices[0].delta.content or ""
                    finish = chunk.choices[0].finish_reason or finish
                    chunks += 1
                    if chunks == 10:
                        cluster.restart(lost)
                assert text == undisturbed.choices[0].message.content
                assert finish == undisturbed.choices[0].finish_reason == "length"
        assert cluster.client().status()["counters"]["replays"] >= 2  # it was in mid-stream
        cluster.stop()


def test_a_refusal_by_a_full_queue_is_asked_again(build, gguf, tmp_path):
    """429 with Retry-After: the client comes back by itself."""
    import models
    with Cluster(build, models.split_cached(gguf, 1), tmp_path,
                 router=["--http", "127.0.0.1:*", "--max-queue-size", "1",
                         "--route-sequences", "1"]) as cluster:
        with openai.OpenAI(base_url=cluster.endpoints["http"] + "/v1", max_retries=20) as client:
            asked = {"model": MODEL, "prompt": "Once", "max_tokens": 30,
                     "extra_body": {"ignore_eos": True}}

            async def ask_all():
                async with openai.AsyncOpenAI(base_url=client.base_url, max_retries=20) as many:
                    return await asyncio.gather(*(many.completions.create(**asked)
                                                  for _ in range(5)))

            answers = asyncio.run(ask_all())
        assert all(answer.usage.completion_tokens == 30 for answer in answers)
        assert cluster.client().status()["errors"]["queue_full"] > 0  # some were refused first
        cluster.stop()
