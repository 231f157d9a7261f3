"""Log-probabilities of the real processes against an independent f64 forward pass (oracle.py).

Float models are compared end to end with a bound that sees two swapped rows of one matrix. With
quantized weights rounding flips int8 steps, so an end-to-end bound sees gross errors only (a wrong
RoPE base, a missing layer; oracle.py says what not); layer by layer, where the bound is sharp, the
C++ unit tests compare with a forward pass of their own, as a layer's residual cannot be had from
outside.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import tiny_gguf
from chatloop import Client
from cluster import Cluster
from models import split_tiny

VOCABULARY = len(tiny_gguf.TOKENS)
# 80 positions of the ten tokens: more than one KV block, more than one frame.
TINY_IDS = np.random.default_rng(5).integers(2, VOCABULARY, 80).tolist()
SMOLLM2_IDS = 64
TOP = 32  # the most that the protocol gives


def prompt_entries(client: Client, ids: list[int], top: int):
    """[row i: (tokens, log-probabilities) after ids[0..i]] for all rows but the last."""
    entries = client.generate(token_ids=ids, prompt_logprobs=top, max_tokens=0).prompt_logprobs
    rows = [dict([(entry.token_id, entry.logprob), *entry.top]) for entry in entries[1:]]
    for entry, row in zip(entries[1:], rows):
        values = [value for _, value in entry.top]
        assert values == sorted(values, reverse=True) and len(values) == top
        assert dict(entry.top).get(entry.token_id, entry.logprob) == entry.logprob
    return rows


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_tiny_models_end_to_end(build, tmp_path, kind):
    model = split_tiny(tmp_path, 2, kind=kind, seed=11)
    path = str(tmp_path / "tiny.gguf")
    with Cluster(build, model, tmp_path / "run") as cluster:
        rows = prompt_entries(cluster.client(), TINY_IDS, VOCABULARY)
        cluster.stop()
    found = np.array([[row[token] for token in range(VOCABULARY)] for row in rows])
    expected = oracle.logprobs(path, TINY_IDS)[:-1]
    bound = oracle.logprobs_bound(path, TINY_IDS[:-1])
    assert bound.violation(found, expected) is None
    if kind.startswith("F"):  # such a bound tells this model from any other
        assert bound.absolute < expected.std() / 20
    # The bound can fail: two rows of one matrix swapped, or (quantized) the next model's logits.
    weights = oracle.load(path).weights
    rows_of = weights["blk.2.attn_k.weight" if kind.startswith("F") else "output.weight"].values
    rows_of[[2, 3]] = rows_of[[3, 2]]
    wrong = oracle.logprobs(path, TINY_IDS)[:-1]
    oracle.load.cache_clear()
    assert bound.violation(found, wrong) is not None


def test_smollm2_end_to_end(smollm2_cluster, gguf, reference):
    """The 32 likeliest tokens and the next one of each row, as far as the protocol tells them."""
    ids = reference["perplexity"]["ids"][:SMOLLM2_IDS]
    rows = prompt_entries(smollm2_cluster.client(), ids, TOP)
    tokens = np.array([list(row)[:TOP] for row in rows])
    found = np.array([list(row.values())[:TOP] for row in rows])
    expected = np.take_along_axis(oracle.logprobs(str(gguf), ids)[:-1], tokens, axis=1)
    bound = oracle.logprobs_bound(str(gguf), ids[:-1], tokens)
    distance = oracle.distance(found - expected)
    print(f"distance {distance}, bound {bound}")
    assert bound.violation(found, expected) is None
    assert bound.mean_rms < expected.std() / 2
