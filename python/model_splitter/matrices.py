"""Logical matrices and their panel form.

A logical matrix is row-major and unpadded: w[n][k], N outputs of K inputs each. It is one of five
forms; quantized forms keep groups of 32 along K, scale and minimum as raw f16. Rearranging one is a
permutation of bytes and never changes a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

GROUP = 32   # weights that share a scale
PANEL = 16   # outputs side by side in a panel

# The last name of each stored tensor and its safetensors type, per form.
FLOAT_TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
QUANT_TYPES = {"q8": "I8", "q4": "U8", "q4m": "U8"}


@dataclass(frozen=True)
class Matrix:
    """One logical matrix.

    form  f32, f16, bf16: `data` (N, K), bf16 as its raw uint16
          q8:  `data` int8 (N, K/32, 32), w = scale * q
          q4:  `data` uint8 (N, K/32, 16), byte j holds k = j (low) and k = 16 + j (high nibble),
               w = scale * (q - 8)
          q4m: the same bytes, w = scale * q + minimum
    scales, minima  float16 (N, K/32)
    """

    form: str
    data: np.ndarray
    scales: Optional[np.ndarray] = None
    minima: Optional[np.ndarray] = None

    @property
    def is_quantized(self) -> bool:
        return self.form in QUANT_TYPES

    @property
    def rows(self) -> int:
        return self.data.shape[0]

    @property
    def cols(self) -> int:
        return self.data.shape[1] * GROUP if self.is_quantized else self.data.shape[1]

    @property
    def weights(self) -> int:
        return self.rows * self.cols

    def select_rows(self, order: np.ndarray) -> "Matrix":
        """The matrix whose row i is this one's row order[i]."""
        return Matrix(self.form, self.data[order],
                      None if self.scales is None else self.scales[order],
                      None if self.minima is None else self.minima[order])

    def slice_rows(self, first: int, end: int) -> "Matrix":
        return self.select_rows(slice(first, end))

    def dequantize(self) -> np.ndarray:
        """The weights as f32 (N, K). Exact for float forms; quantized forms round twice at most."""
        if self.form == "bf16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        if not self.is_quantized:
            return self.data.astype(np.float32)
        quants = self.data if self.form == "q8" else unpack_nibbles(self.data)
        values = quants.astype(np.float32)
        if self.form == "q4":
            values -= 8
        values *= self.scales.astype(np.float32)[..., None]
        if self.form == "q4m":
            values += self.minima.astype(np.float32)[..., None]
        return values.reshape(self.rows, self.cols)


def unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 (..., 16) -> uint8 (..., 32) in the order of k."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def pack_nibbles(quants: np.ndarray) -> np.ndarray:
    """uint8 (..., 32) of 0..15 -> (..., 16); the inverse of unpack_nibbles."""
    return quants[..., :16] | (quants[..., 16:] << 4)


def panel_count(rows: int) -> int:
    return -(-rows // PANEL)


def _pad_rows(array: np.ndarray) -> np.ndarray:
    """(N, ...) -> (P * 16, ...), zero rows added."""
    missing = panel_count(array.shape[0]) * PANEL - array.shape[0]
    if missing == 0:
        return array
    return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def _panel_scales(scales: np.ndarray) -> np.ndarray:
    """(N, G) -> [P, G, 16]."""
    padded = _pad_rows(scales)
    return padded.reshape(-1, PANEL, padded.shape[1]).transpose(0, 2, 1)


def to_panels(matrix: Matrix) -> dict[str, tuple[str, np.ndarray]]:
    """The stored tensors of a matrix that is multiplied: suffix -> (safetensors type, array)."""
    padded = _pad_rows(matrix.data)
    if not matrix.is_quantized:
        panels = padded.reshape(-1, PANEL, padded.shape[1]).transpose(0, 2, 1)
        return {"weight": (FLOAT_TYPES[matrix.form], np.ascontiguousarray(panels))}
    groups = padded.shape[1]
    chunks = padded.shape[2] // 4  # of 4 quants (q8) or 4 bytes (q4): one 32-bit lane per output
    lanes = padded.reshape(-1, PANEL, groups, chunks, 4).transpose(0, 2, 3, 1, 4)
    scales = _panel_scales(matrix.scales)
    if matrix.form == "q4m":
        scales = np.stack([scales, _panel_scales(matrix.minima)], axis=2)
    return {("q8" if matrix.form == "q8" else "q4"):
            (QUANT_TYPES[matrix.form], np.ascontiguousarray(lanes)),
            "scales": ("F16", np.ascontiguousarray(scales))}


def to_rows(matrix: Matrix) -> dict[str, tuple[str, np.ndarray]]:
    """The stored tensors of a matrix whose rows are looked up (the embedding)."""
    if not matrix.is_quantized:
        return {"weight": (FLOAT_TYPES[matrix.form], np.ascontiguousarray(matrix.data))}
    if matrix.form == "q8":
        return {"q8": ("I8", np.ascontiguousarray(matrix.data).reshape(matrix.rows, matrix.cols)),
                "scales": ("F16", np.ascontiguousarray(matrix.scales))}
    scales = matrix.scales
    if matrix.form == "q4m":
        scales = np.stack([matrix.scales, matrix.minima], axis=2)
    return {"q4": ("U8", np.ascontiguousarray(matrix.data)),
            "scales": ("F16", np.ascontiguousarray(scales))}


def logical_bytes(matrix: Matrix) -> list[np.ndarray]:
    """What model_id hashes, in this order: quants or weights, scales, minima; row-major."""
    parts = [matrix.data, matrix.scales, matrix.minima]
    return [np.ascontiguousarray(part) for part in parts if part is not None]
