"""Quantization of float weights per group of 32 along K, for --quantization int8 and int4."""

from __future__ import annotations

import numpy as np

from model_splitter.errors import SplitError
from model_splitter.matrices import GROUP, Matrix, pack_nibbles

F16_MAX = 65504.0
ROWS_AT_ONCE_WEIGHTS = 1 << 18  # of the int4 search: its arrays then stay in the cache
# Candidate ranges of the int4 search: the group's range, shrunk about its middle.
INT4_SHRINKS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.80)


def quantize_int8(weights: np.ndarray, name: str) -> Matrix:
    """q8 with scale = f16(amax / 127), q = rne(w / scale) by the rounded scale."""
    groups = _groups(weights)
    scales = _to_f16(np.abs(groups).max(axis=-1) / np.float32(127), name)
    quants = np.rint(_divide(groups, scales.astype(np.float32)))
    return Matrix("q8", np.clip(quants, -127, 127).astype(np.int8), scales)


def quantize_int4(weights: np.ndarray, name: str) -> Matrix:
    """q4m; per group the candidate with the least squared error, as stored (f16 scale, minimum)."""
    parts = []
    step = max(1, ROWS_AT_ONCE_WEIGHTS // weights.shape[1])
    for first in range(0, weights.shape[0], step):
        parts.append(_int4_rows(_groups(weights[first:first + step]), name))
    quants, scales, minima = (np.concatenate(column) for column in zip(*parts))
    return Matrix("q4m", pack_nibbles(quants), scales, minima)


def _int4_rows(groups: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    middle, half = (low + high) / 2, (high - low) / 2
    best = None
    for shrink in INT4_SHRINKS:
        scale, minimum = half * np.float32(shrink * 2 / 15), middle - half * np.float32(shrink)
        quants = _int4_quants(groups, scale, minimum)
        scale, minimum = _least_squares(groups, quants, scale, minimum)
        candidate = _int4_stored(groups, scale, minimum, name)
        if best is None:
            best = candidate
            continue
        better = candidate[3] < best[3]
        for kept, other in zip(best, candidate):
            kept[better] = other[better]
    return best[0], best[1], best[2]


def _int4_quants(groups: np.ndarray, scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(_divide(groups - minimum[..., None], scale)), 0, 15)


def _int4_stored(groups: np.ndarray, scale: np.ndarray, minimum: np.ndarray,
                 name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(quants, f16 scale, f16 minimum, squared error) with the quants chosen for the rounded."""
    scale_f16, minimum_f16 = _to_f16(scale, name), _to_f16(minimum, name)
    scale, minimum = scale_f16.astype(np.float32), minimum_f16.astype(np.float32)
    quants = _int4_quants(groups, scale, minimum)
    error = quants * scale[..., None] + minimum[..., None] - groups
    return quants.astype(np.uint8), scale_f16, minimum_f16, np.square(error).sum(axis=-1)


def _least_squares(groups: np.ndarray, quants: np.ndarray, scale: np.ndarray,
                   minimum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line w = scale * q + minimum that fits best; the old one where all q are equal."""
    mean_q, mean_w = quants.mean(axis=-1), groups.mean(axis=-1)
    variance = np.square(quants).mean(axis=-1) - mean_q * mean_q
    covariance = (quants * groups).mean(axis=-1) - mean_q * mean_w
    usable = (variance > 1e-3) & (covariance > 0)
    fitted = np.where(usable, covariance / np.where(usable, variance, 1), scale)
    return fitted, np.where(usable, mean_w - fitted * mean_q, minimum)


def _groups(weights: np.ndarray) -> np.ndarray:
    assert weights.shape[1] % GROUP == 0 and weights.dtype == np.float32
    return weights.reshape(weights.shape[0], -1, GROUP)


def _divide(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """values / scale per group; 0 where the scale is 0."""
    divisor = np.where(scale == 0, np.float32(np.inf), scale)
    return values / divisor[..., None]


def _to_f16(values: np.ndarray, name: str) -> np.ndarray:
    if np.abs(values).max(initial=0) > F16_MAX:
        raise SplitError(f"{name}: weights are too large for an f16 scale; "
                         "split with --quantization none")
    return values.astype(np.float16)
