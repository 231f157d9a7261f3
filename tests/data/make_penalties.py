"""Writes penalties.json: rule 11's adjustments of logits (docs/numerics.md) by numpy's float32.

    python make_penalties.py > penalties.json

Dense and step by step over the whole vocabulary, with the ids of prompt and output as they came: an
implementation that shares neither code nor shape with src/sampler/adjust.cpp.
"""

from __future__ import annotations

import json

import numpy as np

VOCABULARY = 40
F32 = np.float32


def adjusted(z, masked, bias, prompt, output, repetition, frequency, presence):
    z = z + F32(0)
    z[masked] = -np.inf
    for token, value in bias:
        z[token] = z[token] + F32(value)
    seen = np.isin(np.arange(VOCABULARY), [*prompt, *output])
    z = np.where(seen, np.where(z > 0, z / F32(repetition), z * F32(repetition)), z)
    counts = np.bincount(output, minlength=VOCABULARY).astype(F32)
    z = z - counts * F32(frequency)
    return z - np.where(counts > 0, F32(presence), F32(0))


def bits(values) -> list[int]:
    return np.asarray(values, dtype=F32).view(np.uint32).tolist()


def case(rng: np.random.Generator) -> dict:
    def some(most: int) -> list[int]:
        return rng.integers(0, VOCABULARY, rng.integers(0, most)).tolist()

    def one_of(values):
        return float(F32(values[rng.integers(len(values))]))

    z = rng.normal(0, 8, VOCABULARY).astype(F32)
    z[rng.integers(0, VOCABULARY, 3)] = [0.0, -0.0, 1e-40]
    masked = sorted(set(some(5)))
    bias = [[int(token), float(F32(rng.uniform(-100, 100)))] for token in sorted(set(some(8)))]
    prompt, output = some(60), some(120)
    penalties = dict(repetition=one_of([1, 0.3, 1.1, 1.3, 10]),
                     frequency=one_of([0, 0.1, -0.7, 2]), presence=one_of([0, 0.3, -2, 1.5]))
    return {"logits": bits(z), "masked": masked, "bias": bias, "prompt": prompt, "output": output,
            **penalties, "adjusted": bits(adjusted(z, masked, bias, prompt, output, **penalties))}


def main() -> None:
    rng = np.random.default_rng(20261124)
    print(json.dumps([case(rng) for _ in range(30)], separators=(",", ":")).replace("},{", "},\n{"))


main()
