"""model_id and cut_id: what makes two model directories the same model, and the same cut."""

from __future__ import annotations

import hashlib
from typing import Iterable

import numpy as np

from model_splitter.matrices import Matrix, logical_bytes

NUMERICS_ABI = 1


class ModelIdentity:
    """Collects digests of logical tensors in any order; docs/model_format.md has the exact text."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def add_matrix(self, name: str, matrix: Matrix) -> None:
        self._add(name, matrix.form, (matrix.rows, matrix.cols), logical_bytes(matrix))

    def add_floats(self, name: str, values: np.ndarray) -> None:
        assert values.dtype == np.float32
        self._add(name, "f32", values.shape, [np.ascontiguousarray(values)])

    def add_scalar(self, name: str, value: object) -> None:
        """A float enters as the bits of its f32, anything else as its text."""
        if isinstance(value, float):
            value = np.float32(value).view(np.uint32).item().to_bytes(4, "big").hex()
        self._put(f"scalar {name}", str(value))

    def _add(self, name: str, form: str, shape: Iterable[int], parts: list[np.ndarray]) -> None:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.data.cast("B"))
        size = "x".join(str(extent) for extent in shape)
        self._put(f"tensor {name}", f"{form} {size} {digest.hexdigest()}")

    def _put(self, key: str, text: str) -> None:
        assert key not in self._lines, key
        self._lines[key] = text

    def model_id(self) -> str:
        lines = [f"chatloop model, numerics_abi {NUMERICS_ABI}"]
        lines += [f"{key} {self._lines[key]}" for key in sorted(self._lines)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def cut_id(model_id: str, ranges: list[tuple[int, int]]) -> str:
    text = " ".join([model_id, *(f"{first}-{end}" for first, end in ranges)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
