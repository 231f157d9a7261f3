"""Every parameter of sampling through real processes, against a forward pass and numpy.

The model is tiny and of floats, so that the oracle's logits are the processes' but for rounding
(oracle.py), and a decision that hangs on less than MARGIN is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import oracle
import pytest
import tiny_gguf
from chatloop import ChatLoopError, Client, Generation
from cluster import Cluster
from counts import counts
from models import split_tiny

VOCABULARY = len(tiny_gguf.TOKENS)
STOP_IDS = (0, 1)  # of the model
EOS = 1
PROMPT = np.random.default_rng(8).integers(5, 8, 20).tolist()  # a penalty tells them from others
MARGIN = 1e-3
ALWAYS = 100.0  # a bias that no logit of this model comes up to


@pytest.fixture(scope="module")
def tiny_floats(build, tmp_path_factory) -> Iterator[tuple[Cluster, str]]:
    """Its likeliest token has about half of the probability, and it is seldom the one before."""
    folder = tmp_path_factory.mktemp("sampling")
    output = np.random.default_rng(4).normal(size=(VOCABULARY, tiny_gguf.HIDDEN)) / 5
    model = split_tiny(folder, 2, kind="F32", seed=3, tensors={"output.weight": output})
    with Cluster(build, model, folder / "run", own_sampler=True) as cluster:
        yield cluster, str(folder / "tiny.gguf")
        cluster.stop()


@pytest.fixture
def client(tiny_floats) -> Client:
    return tiny_floats[0].client()


@pytest.fixture
def logits_behind(tiny_floats):
    """Of the token behind the ids."""
    return lambda ids: oracle.logits(tiny_floats[1], ids)[-1]


def adjusted(z: np.ndarray, prompt: list[int], output: list[int], *, masked: tuple[int, ...] = (),
             logit_bias: dict[int, float] | None = None, repetition_penalty: float = 1.0,
             frequency_penalty: float = 0.0, presence_penalty: float = 0.0) -> np.ndarray:
    z = z.copy()
    z[list(masked)] = -np.inf
    for token, bias in (logit_bias or {}).items():
        z[token] += bias
    for token in {*prompt, *output}:
        z[token] *= 1 / repetition_penalty if z[token] > 0 else repetition_penalty
    times = np.bincount(output, minlength=len(z))
    return z - times * frequency_penalty - (times > 0) * presence_penalty


# ---- what adjusts the logits ----

ADJUSTMENTS = {
    "none": {},
    "repetition": {"repetition_penalty": 1.7},
    "repetition-below-1": {"repetition_penalty": 0.6},
    "frequency": {"frequency_penalty": 0.35},
    "presence": {"presence_penalty": 1.25},
    "negative": {"presence_penalty": -0.5, "frequency_penalty": -0.2},
    "bias": {"logit_bias": {3: 2.5, 6: -100.0, 9: 0.75}},
    "all": {"logit_bias": {2: 1.0, 7: -0.5}, "repetition_penalty": 1.3, "frequency_penalty": 0.2,
            "presence_penalty": 0.3},
}


@pytest.mark.parametrize("parameters", ADJUSTMENTS.values(), ids=ADJUSTMENTS)
def test_greedy_tokens_are_those_of_the_adjusted_logits(client, logits_behind, parameters):
    tokens = client.generate(token_ids=PROMPT, max_tokens=60, ignore_eos=True,
                             **parameters).token_ids
    assert len(tokens) == 60
    looked_at = 0
    for i, token in enumerate(tokens):
        z = adjusted(logits_behind(PROMPT + tokens[:i]), PROMPT, tokens[:i], masked=STOP_IDS,
                     **parameters)
        second, first = np.sort(z)[-2:]
        if first - second > MARGIN:
            assert token == np.argmax(z), i
            looked_at += 1
    assert looked_at > 40
    if parameters:  # and it makes a difference
        assert tokens != client.generate(token_ids=PROMPT, max_tokens=60, ignore_eos=True).token_ids


def test_log_probabilities_are_those_of_the_raw_logits(client):
    found = client.generate(token_ids=PROMPT, max_tokens=30, ignore_eos=True, logprobs=VOCABULARY,
                            **ADJUSTMENTS["all"])
    assert len(found.logprobs) == 30
    rows = client.generate(token_ids=PROMPT + found.token_ids, max_tokens=0,
                           prompt_logprobs=VOCABULARY).prompt_logprobs
    assert found.logprobs == rows[len(PROMPT):]
    best = [entry.top[0][0] for entry in found.logprobs]
    assert best != found.token_ids  # which the penalties chose otherwise


# ---- what filters ----


def kept(p: np.ndarray, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
         typical_p: float = 1.0) -> set[int]:
    """The ids that one filter leaves, by their probabilities."""

    def prefix(order: np.ndarray, share: float) -> set[int]:
        return set(order[:int(np.searchsorted(np.cumsum(p[order]), share)) + 1].tolist())

    likeliest = np.argsort(-p)
    if top_k:
        return set(likeliest[:top_k].tolist())
    if top_p < 1:
        return prefix(likeliest, top_p)
    if min_p > 0:
        return set(np.flatnonzero(p >= min_p * p.max()).tolist())
    surprise = -np.log(p)
    return prefix(np.argsort(np.abs(surprise - p @ surprise)), typical_p)


@pytest.mark.parametrize("filters", [
    {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.35}, {"typical_p": 0.5}],
    ids=lambda filters: next(iter(filters)))
def test_only_what_a_filter_leaves_is_drawn(client, logits_behind, filters):
    temperature = 2.0
    z = logits_behind(PROMPT) / temperature
    p = np.exp(z - z.max())
    allowed = kept(p / p.sum(), **filters)
    assert 1 < len(allowed) < VOCABULARY

    def drawn(**parameters: float) -> set[int]:
        ids: set[int] = set()
        for seed in range(12):
            choices = client.generate(token_ids=PROMPT, max_tokens=1, n=16, seed=seed,
                                      temperature=temperature, **parameters).choices
            ids.update(choice.token_ids[0] if choice.token_ids else choice.stop
                       for choice in choices)
        return ids

    assert drawn(**filters) == allowed
    assert drawn() > allowed


def test_temperature_and_seed(client):
    def answer(**parameters: float) -> list[int]:
        return client.generate(token_ids=PROMPT, max_tokens=40, ignore_eos=True,
                               **parameters).token_ids

    assert answer() == answer(temperature=0, seed=5) == answer(temperature=1.0, seed=5, top_k=1)
    assert answer(temperature=1.0, seed=5) == answer(temperature=1.0, seed=5)
    assert len({tuple(answer(temperature=1.0, seed=seed)) for seed in range(4)}) == 4
    unseeded = client.generate(token_ids=PROMPT, max_tokens=40, ignore_eos=True, temperature=1.0)
    assert unseeded.token_ids == answer(temperature=1.0, seed=unseeded.seed)


# ---- what ends an answer ----


def ended(result: Generation) -> tuple[int, str, object]:
    return len(result.token_ids), result.finish_reason, result.stop


def test_min_tokens_keeps_stop_ids_away(client):
    stopping = {"token_ids": PROMPT, "max_tokens": 20, "logit_bias": {4: ALWAYS}}
    assert ended(client.generate(**stopping, stop_token_ids=[4])) == (0, "stop", 4)
    held_off = client.generate(**stopping, stop_token_ids=[4], min_tokens=7)
    assert ended(held_off) == (7, "stop", 4) and 4 not in held_off.token_ids
    whole = client.generate(**stopping, stop_token_ids=[4], min_tokens=20)
    assert ended(whole) == (20, "length", None)


def test_min_tokens_and_ignore_eos_keep_the_models_end_away(client):
    ending = {"token_ids": PROMPT, "max_tokens": 20, "logit_bias": {EOS: ALWAYS}}
    assert ended(client.generate(**ending)) == (0, "stop", EOS)
    assert ended(client.generate(**ending, min_tokens=3)) == (3, "stop", EOS)
    assert ended(client.generate(**ending, ignore_eos=True)) == (20, "length", None)


def test_stop_strings_count_from_min_tokens_on(client):
    text = {"token_ids": PROMPT, "max_tokens": 20, "logit_bias": {2: ALWAYS}}  # aaaa...
    assert client.generate(**text).text == "a" * 20
    at_once = client.generate(**text, stop="a")
    assert (at_once.text, *ended(at_once)) == ("", 1, "stop", "a")
    later = client.generate(**text, stop="a", min_tokens=6)
    assert (later.text, *ended(later)) == ("aaaaa", 6, "stop", "a")
    across = client.generate(**text, stop="aaa", min_tokens=6)  # looked for from the sixth on
    assert (across.text, *ended(across)) == ("aaaaa", 8, "stop", "aaa")


def test_a_deadline_ends_what_is_not_done(client):
    with pytest.raises(ChatLoopError) as caught:
        client.generate(token_ids=PROMPT, max_tokens=8000, ignore_eos=True, deadline_ms=300)
    error = caught.value
    assert (error.code, error.retryable) == ("deadline_exceeded", False)
    assert 0 < len(error.progress.token_ids) <= error.committed < 8000
    assert str(error.committed) in error.message
    generous = client.generate(token_ids=PROMPT, max_tokens=5, ignore_eos=True, deadline_ms=60_000)
    assert len(generous.token_ids) == 5


def test_priority_changes_no_answer(client):
    found = [client.generate(token_ids=PROMPT, max_tokens=9, temperature=1.0, seed=3,
                             priority=priority) for priority in (-100, 0, 100)]
    assert found[0].token_ids == found[1].token_ids == found[2].token_ids


# ---- choices ----

THREE = {"token_ids": PROMPT, "max_tokens": 30, "temperature": 1.0, "seed": 11, "n": 3,
         "ignore_eos": True, "logprobs": 1}


def test_choices_are_answers_of_their_own(client):
    with client.stream(**THREE) as stream:
        pieces = list(stream)
        result = stream.result
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    for choice in result.choices:
        mine = [piece for piece in pieces if piece.choice == choice.index]
        assert [token for piece in mine for token in piece.token_ids] == choice.token_ids
        assert "".join(piece.text for piece in mine) == choice.text
        assert [entry.token_id for entry in choice.logprobs] == choice.token_ids
    assert len({tuple(choice.token_ids) for choice in result.choices}) == 3
    assert result.usage.completion_tokens == 90
    alone = client.generate(**{**THREE, "n": 1})
    assert alone.choices == result.choices[:1]
    assert client.generate(**THREE).choices == result.choices
    greedy = client.generate(**{**THREE, "temperature": 0}).choices
    assert greedy[0].token_ids == greedy[1].token_ids == greedy[2].token_ids


def test_each_choice_has_an_end_of_its_own(client):
    parameters = {**THREE, "max_tokens": 200, "ignore_eos": False, "n": 8, "temperature": 1.5}
    result = client.generate(**parameters)
    lengths = [len(choice.token_ids) for choice in result.choices]
    assert len(set(lengths)) > 2
    for choice in result.choices:
        reason = "stop" if choice.stop in STOP_IDS else "length"
        assert choice.finish_reason == reason
        assert (len(choice.token_ids) == 200) == (reason == "length")
    assert result.usage.completion_tokens == sum(lengths)
    assert (result.finish_reason, result.token_ids) == (
        result.choices[0].finish_reason, result.choices[0].token_ids)


def test_choices_share_the_prompts_blocks(client):
    ids = np.random.default_rng(21).integers(2, VOCABULARY, 300).tolist()
    before = counts(client)
    client.generate(token_ids=ids, max_tokens=4, n=5, ignore_eos=True)
    after = counts(client)
    assert after["prefix_tokens"] - before["prefix_tokens"] == 4 * 256
    assert after["tokens_prefilled"] - before["tokens_prefilled"] == 300 + 4 * (300 - 256)


def test_echo_and_prompt_log_probabilities_are_the_first_choices(client):
    result = client.generate(**{**THREE, "max_tokens": 2}, echo=True, prompt_logprobs=1)
    assert len(result.prompt_logprobs) == len(PROMPT)
    plain = client.generate(**{**THREE, "max_tokens": 2})
    prompt = "".join(tiny_gguf.TOKENS[token] for token in PROMPT).replace("Ġ", " ")
    assert [choice.text for choice in result.choices] == [
        prompt + plain.choices[0].text, plain.choices[1].text, plain.choices[2].text]


def test_resume_goes_on_with_all_choices(tiny_floats):
    client, another = tiny_floats[0].client(), tiny_floats[0].client()
    whole = client.generate(**THREE)
    for taken in (1, 20, 60):
        with client.stream(**THREE) as stream:
            for _ in range(taken):
                next(stream)
            progress = stream.progress
        assert sum(len(choice.token_ids) for choice in progress.choices) >= taken
        with another.resume(progress) as rest:
            pieces = list(rest)
            assert rest.result.choices == whole.choices
        told = sum(len(piece.token_ids) for piece in pieces)
        assert told == 90 - sum(len(choice.token_ids) for choice in progress.choices)


def test_cancel_ends_all_choices(client):
    with client.stream(**{**THREE, "max_tokens": 8000}) as stream:
        for piece in stream:
            if piece.choice == 2:
                break
        stream.cancel()
        for _ in stream:
            pass
        result = stream.result
    assert [choice.finish_reason for choice in result.choices] == ["cancelled"] * 3
    tokens = sum(len(choice.token_ids) for choice in result.choices)
    assert 3 <= tokens == result.usage.completion_tokens < 3 * 8000
    status = client.status()
    assert (status["running"], status["waiting"]) == (0, 0)
