"""The RoPE table (docs/numerics.md rule 6): angles in f64, rounded once to f32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """kind: none, linear, llama3 (one divisor per frequency) or yarn."""

    kind: str = "none"
    factor: float = 1.0
    divisors: Optional[Sequence[float]] = None
    original_context: int = 0
    attn_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


def inverse_frequencies(rot_dim: int, base: float, scaling: RopeScaling) -> list[float]:
    """rot_dim / 2 angular frequencies in radians per position."""
    plain = [base ** (-2.0 * i / rot_dim) for i in range(rot_dim // 2)]
    if scaling.kind == "linear":
        return [f / scaling.factor for f in plain]
    if scaling.kind == "llama3":
        return [f / divisor for f, divisor in zip(plain, scaling.divisors, strict=True)]
    if scaling.kind == "yarn":
        return _yarn_frequencies(plain, rot_dim, base, scaling)
    assert scaling.kind == "none", scaling.kind
    return plain


def _yarn_frequencies(plain: list[float], rot_dim: int, base: float,
                      scaling: RopeScaling) -> list[float]:
    """Fast dimensions keep their frequency, slow ones are divided, a ramp lies between (YaRN)."""
    def dimension_of(rotations: float) -> float:
        span = scaling.original_context / (rotations * 2.0 * math.pi)
        return rot_dim * math.log(span) / (2.0 * math.log(base))

    low = max(0.0, math.floor(dimension_of(scaling.beta_fast)))
    high = min(rot_dim - 1.0, math.ceil(dimension_of(scaling.beta_slow)))
    width = max(0.001, high - low)
    result = []
    for i, frequency in enumerate(plain):
        slow = min(1.0, max(0.0, (i - low) / width))
        result.append(frequency / scaling.factor * slow + frequency * (1.0 - slow))
    return result


def rope_table(context_length: int, rot_dim: int, base: float,
               scaling: RopeScaling) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin), each f32 [context_length, rot_dim / 2]; yarn's attention factor is in both."""
    frequencies = inverse_frequencies(rot_dim, base, scaling)
    magnitude = 1.0
    if scaling.kind == "yarn":
        magnitude = scaling.attn_factor * (1.0 + 0.1 * math.log(scaling.factor))
    tables = []
    for function in (math.cos, math.sin):
        table = np.empty((context_length, len(frequencies)), np.float32)
        for i, frequency in enumerate(frequencies):
            table[:, i] = [magnitude * function(position * frequency)
                           for position in range(context_length)]
        tables.append(table)
    return tables[0], tables[1]
