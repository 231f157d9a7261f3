"""Constrained answers of a real model, through the ZeroMQ client: each is what was asked for, and
the same tokens whoever computes them, whenever, beside whom.
"""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from answers import Answer, ask, ask_cpud, of_generation
from chatloop import ChatLoopError
from chatloop.parameters import parameters_map
from random_schemas import random_schema

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                           "age": {"type": "integer", "minimum": 0, "maximum": 120},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b"]},
                                                    "maxItems": 3}},
          "required": ["name", "age", "tags"], "additionalProperties": False}
SUM = 'start: term ("+" term){1,3}\nterm: /[0-9]{1,2}/ | "(" start ")"\n'
MAX_TOKENS = 400
AT_ONCE = 10


def chat(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def of_schema(number: int) -> dict:
    schema = random_schema(number)
    return {"messages": chat(f"Write JSON that fits this schema: {json.dumps(schema)}"),
            "json_schema": schema, "max_tokens": MAX_TOKENS, "temperature": 0.7 * (number % 3),
            "seed": number}


def check_schemas(cluster, numbers: range) -> None:
    client = cluster.client()
    for first in range(numbers.start, numbers.stop, AT_ONCE):
        requests = [of_schema(n) for n in range(first, min(first + AT_ONCE, numbers.stop))]
        for request, answer in zip(requests, ask(client, requests), strict=True):
            schema, text = request["json_schema"], answer.text
            assert answer.finish_reason == "stop", (schema, text)
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                                format_checker=checker)


def test_answers_under_random_schemas_are_valid(smollm2_cluster):
    check_schemas(smollm2_cluster, range(20))


@pytest.mark.long
def test_answers_under_200_random_schemas_are_valid(smollm2_cluster):
    check_schemas(smollm2_cluster, range(20, 220))


@pytest.fixture
def constrained() -> list[dict]:
    """Each kind of constraint, greedy and sampled, with what else changes the choice."""
    common = {"max_tokens": 120, "logprobs": 2, "seed": 3}
    return [
        {"messages": chat("Who are you?"), "json_schema": SCHEMA, **common},
        {"messages": chat("Who are you?"), "json_schema": SCHEMA, "temperature": 1.0, "n": 3, **common},
        {"messages": chat("Say something."), "json_object": True, "temperature": 0.5,
         "repetition_penalty": 1.2, **common},
        {"prompt": "Call me at ", "regex": r"\(?[0-9]{3}\)?-[0-9]{4}( or not)?", **common},
        {"prompt": "1+1=", "grammar": SUM, "temperature": 0.9, "top_p": 0.9, **common},
        {"prompt": "Is water wet?", "choice": ["yes", "no", "perhaps not"], **common},
        {"prompt": "The sea", "regex": "[a-z ]{5,}", "temperature": 0.7, "min_tokens": 9,
         "presence_penalty": 0.5, **common},
    ]


def test_each_kind_is_what_was_asked_for(smollm2_cluster, constrained):
    client = smollm2_cluster.client()
    named, sampled, any_object, phone, total, choice, letters = ask(client, constrained)
    jsonschema.validate(json.loads(named.text), SCHEMA)
    for text in [sampled.text, *(text for _, text in sampled.others)]:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len({sampled.text, *(text for _, text in sampled.others)}) > 1
    assert re.fullmatch(r"\(?[0-9]{3}\)?-[0-9]{4}( or not)?", phone.text)
    if total.finish_reason == "stop":
        eval_free = re.sub(r"[0-9]{1,2}", "n", total.text)
        while (shorter := re.sub(r"\(n(\+n){1,3}\)", "n", eval_free)) != eval_free:
            eval_free = shorter
        assert re.fullmatch(r"n(\+n){1,3}", eval_free), total.text
    assert choice.text in ("yes", "no", "perhaps not")
    assert re.fullmatch("[a-z ]{5,}", letters.text) and len(letters.token_ids) >= 9
    assert any_object.text.startswith("{")
    if any_object.finish_reason == "stop":
        assert isinstance(json.loads(any_object.text), dict)


def test_the_same_tokens_alone_and_in_company_in_one_process_and_in_two(
        build, smollm2, smollm2_cluster, constrained, tmp_path):
    client = smollm2_cluster.client()
    together = ask(client, constrained)
    alone = [of_generation(client.generate(**request)) for request in constrained]
    assert alone == together
    sent = [parameters_map(request) for request in constrained]
    assert ask_cpud(build, smollm2(1), tmp_path, sent) == together


def test_a_resumed_answer_goes_on_within_its_constraint(smollm2_cluster):
    request = {"messages": chat("Who are you?"), "json_schema": SCHEMA, "max_tokens": 100,
               "temperature": 0.8, "seed": 12}
    whole = smollm2_cluster.client().generate(**request)
    other = smollm2_cluster.client()
    for taken in (1, len(whole.token_ids) // 2):
        with smollm2_cluster.client().stream(**request) as stream:
            next(stream)
            while len(stream.progress.token_ids) < taken:
                next(stream)
            progress = stream.progress
        resumed = other.resume(progress)
        for _ in resumed:
            pass
        assert resumed.result.token_ids == whole.token_ids
        assert resumed.result.finish_reason == whole.finish_reason


@pytest.mark.parametrize("parameters", [
    {"json_schema": "{"}, {"json_schema": {"type": "none"}}, {"regex": "a("},
    {"grammar": "start: none"}, {"grammar": "start: " + "(" * 1000},
    {"choice": []}, {"choice": ["a"], "json_object": True},
    {"json_schema": {"$ref": "#/$defs/none"}},
], ids=str)
def test_a_constraint_that_cannot_be_served_is_refused(smollm2_cluster, parameters):
    with pytest.raises(ChatLoopError) as caught:
        smollm2_cluster.client().generate(prompt="x", max_tokens=4, **parameters)
    assert caught.value.code == "invalid_request"
    assert not caught.value.retryable


def test_others_go_on_beside_a_refused_constraint(smollm2_cluster):
    client = smollm2_cluster.client()
    request = {"prompt": "The sea", "max_tokens": 24, "ignore_eos": True, "seed": 1}
    expected: Answer = of_generation(client.generate(**request))
    stream = client.stream(**request)
    with pytest.raises(ChatLoopError):
        client.generate(prompt="x", regex="a(", max_tokens=4)
    for _ in stream:
        pass
    assert of_generation(stream.result) == expected
