"""Turns a source's tensors into partition files, each tensor read, converted and hashed once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np

from model_splitter.container import PartitionWriter
from model_splitter.gguf_source import (LAYER_BIASES, LAYER_MATRICES, LAYER_NORMS, GgufSource)
from model_splitter.identity import ModelIdentity
from model_splitter.matrices import GROUP, Matrix, to_panels, to_rows
from model_splitter.quantize import quantize_int4, quantize_int8
from model_splitter.rope import rope_table
from model_splitter.spec import ModelSpec

LAYER_TENSORS_MAX = len(LAYER_NORMS) + 2 * len(LAYER_MATRICES) + len(LAYER_BIASES)


@dataclass
class QuantizationError:
    """Sums over the weights that were quantized here, for one relative rms figure."""

    squared_error: float = 0.0
    squared_weight: float = 0.0
    requantized: set[str] = field(default_factory=set)  # forms of already quantized sources
    kept: set[str] = field(default_factory=set)         # forms that were left as they are
    float_kept: set[str] = field(default_factory=set)   # matrices with K % 32 != 0

    @property
    def relative_rms(self) -> float:
        return math.sqrt(self.squared_error / self.squared_weight) if self.squared_weight else 0.0


class Converter:
    def __init__(self, source: GgufSource, quantization: str, on_tensor: Callable[[], None]):
        self.error = QuantizationError()
        self.identity = ModelIdentity()
        self._source = source
        self._quantization = quantization
        self._on_tensor = on_tensor
        spec = source.spec
        self._rope = rope_table(spec.context_length, spec.rot_dim, spec.rope_base,
                                spec.rope_scaling)
        for name, table in zip(("rope.cos", "rope.sin"), self._rope):
            self.identity.add_floats(name, table)
        add_spec(self.identity, spec)

    def write_partition(self, path: Path, first: int, end: int) -> PartitionWriter:
        """Layers [first, end); the first partition also gets the embedding. Not yet finished."""
        writer = PartitionWriter(path, 4 + LAYER_TENSORS_MAX * (end - first))
        if first == 0:
            embedding = self._vocabulary_matrix("token_embd.weight")
            self.identity.add_matrix("embed", embedding)
            self._add(writer, "embed", to_rows(embedding))
        for name, table in zip(("rope.cos", "rope.sin"), self._rope):
            writer.add(name, "F32", table)
        for layer in range(first, end):
            self._write_layer(writer, layer)
        return writer

    def write_head(self, path: Path) -> PartitionWriter:
        writer = PartitionWriter(path, 3)
        norm = self._source.vector("output_norm.weight", self._source.spec.hidden_size)
        self._add_vector(writer, "norm", norm)
        if self._source.is_tied:
            head = self._vocabulary_matrix("token_embd.weight")
        else:
            head = self._vocabulary_matrix("output.weight")
            self.identity.add_matrix("head", head)
        self._add(writer, "head", to_panels(head))
        return writer

    def _write_layer(self, writer: PartitionWriter, layer: int) -> None:
        def write_matrices(*names: str) -> None:
            for name in names:
                matrix = self._convert(f"layers.{layer}.{name}",
                                       self._source.layer_matrix(layer, name), is_vocabulary=False)
                self.identity.add_matrix(f"layers.{layer}.{name}", matrix)
                self._add(writer, f"layers.{layer}.{name}", to_panels(matrix))

        def write_norm(name: str) -> None:
            self._add_vector(writer, f"layers.{layer}.{name}",
                             self._source.layer_norm(layer, name))

        write_norm("attn_norm")
        write_matrices("wq", "wk", "wv", "wo")
        for name in LAYER_BIASES:
            bias = self._source.layer_bias(layer, name)
            if bias is not None:
                self._add_vector(writer, f"layers.{layer}.{name}", bias)
        write_norm("ffn_norm")
        write_matrices("w1", "w3", "w2")

    def _vocabulary_matrix(self, gguf_name: str) -> Matrix:
        spec = self._source.spec
        matrix = self._source.matrix(gguf_name, spec.vocab_size, spec.hidden_size)
        return self._convert(gguf_name, matrix, is_vocabulary=True)

    def _add_vector(self, writer: PartitionWriter, name: str, values: np.ndarray) -> None:
        self.identity.add_floats(name, values)
        self._add(writer, name, {"": ("F32", np.ascontiguousarray(values))})

    def _add(self, writer: PartitionWriter, name: str,
             stored: dict[str, tuple[str, np.ndarray]]) -> None:
        for suffix, (dtype, array) in stored.items():
            writer.add(f"{name}.{suffix}" if suffix else name, dtype, array)
        self._on_tensor()

    def _convert(self, name: str, matrix: Matrix, is_vocabulary: bool) -> Matrix:
        """The matrix in the form that --quantization asks for; head and embedding are never
        made 4-bit, and what is already in the wanted form (or 4-bit, under int4) is kept."""
        if self._quantization == "none":
            return matrix
        if matrix.cols % GROUP:
            self.error.float_kept.add(name)
            return matrix
        wants_int4 = self._quantization == "int4"
        kept = ("q4", "q4m") if wants_int4 else ("q8",)
        if matrix.form in kept or (is_vocabulary and matrix.form == "q8"):
            self.error.kept.add(matrix.form)
            return matrix
        if matrix.is_quantized:
            self.error.requantized.add(matrix.form)
        weights = matrix.dequantize()
        quantize = quantize_int4 if wants_int4 and not is_vocabulary else quantize_int8
        result = quantize(weights, name)
        difference = result.dequantize() - weights
        self.error.squared_error += float(np.square(difference).sum(dtype=np.float64))
        self.error.squared_weight += float(np.square(weights).sum(dtype=np.float64))
        return result


def add_spec(identity: ModelIdentity, spec: ModelSpec) -> None:
    identity.add_scalar("architecture", spec.architecture)
    for name in ModelSpec.INTEGERS:
        identity.add_scalar(name, int(getattr(spec, name)))
    for name in ModelSpec.FLOATS:
        identity.add_scalar(name, float(getattr(spec, name)))


def tensor_steps(spec: ModelSpec) -> int:
    """An upper bound of on_tensor calls, for the progress bar."""
    return spec.n_layers * (len(LAYER_NORMS) + len(LAYER_MATRICES)) + 3
