"""Reads a llama-architecture GGUF: the spec, and logical tensors in ChatLoop's row order.

Everything not understood is refused by name: a key or tensor that is skipped would be a silently
different model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Optional

import numpy as np
from gguf import GGUFReader

from model_splitter.errors import SplitError
from model_splitter.matrices import GROUP, Matrix
from model_splitter.rope import RopeScaling
from model_splitter.spec import ModelSpec

# Logical name -> GGUF name, within a layer.
LAYER_NORMS = {"attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}
LAYER_MATRICES = {"wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
                  "w1": "ffn_gate", "w3": "ffn_up", "w2": "ffn_down"}
LAYER_BIASES = {"bq": "attn_q", "bk": "attn_k", "bv": "attn_v", "bo": "attn_output"}

# Keys of the architecture that are read below, or say nothing about the function computed.
KNOWN_KEYS = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
    "attention.key_length", "attention.value_length", "attention.scale", "attention.causal",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scale_linear", "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "expert_count", "expert_used_count", "attention.sliding_window",
}
SIZE_MAX = 1 << 24  # of any extent: larger ones are damage, not a model


class GgufSource:
    """An opened, checked GGUF file."""

    def __init__(self, path: Path):
        self.path = path
        self._reader = _open(path)
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._arch = self._architecture()
        self.spec = self._read_spec()
        self.is_tied = "output.weight" not in self.tensors
        self._check_tensor_names()

    # ---- keys

    def key(self, name: str, default: Any = None) -> Any:
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    def _arch_key(self, name: str, kind: type, default: Any = None) -> Any:
        full = f"{self._arch}.{name}"
        value = self.key(full, default)
        if value is None:
            raise SplitError(f"{self.path}: the key {full} is missing; "
                             "convert the model again with a current converter")
        if kind is int and not (isinstance(value, int) and 0 < value <= SIZE_MAX):
            raise SplitError(f"{self.path}: {full} = {_short(value)} is not supported; "
                             "a single positive number is expected")
        if kind is float and not (isinstance(value, (int, float)) and math.isfinite(value)
                                  and value > 0):
            raise SplitError(f"{self.path}: {full} = {_short(value)} is not supported; "
                             "a single positive number is expected")
        return value

    def _architecture(self) -> str:
        arch = self.key("general.architecture")
        if arch != "llama":
            raise SplitError(f"{self.path}: general.architecture {_short(arch)} is not supported; "
                             "use a model of the llama architecture")
        if self.key("split.count", 1) not in (0, 1):
            raise SplitError(f"{self.path}: split.count {self.key('split.count')}: the model is "
                             "spread over several files; merge them with llama-gguf-split --merge")
        for name in self._reader.fields:
            if name.startswith("adapter."):
                raise SplitError(f"{self.path}: {name}: a LoRA adapter is not a model; "
                                 "merge it into its base model first")
            if name.startswith(f"{arch}.") and name[len(arch) + 1:] not in KNOWN_KEYS:
                raise SplitError(f"{self.path}: the key {name} is not supported; "
                                 "use a plain llama model without this feature")
        for feature in ("expert_count", "expert_used_count", "attention.sliding_window"):
            if self.key(f"{arch}.{feature}", 0):
                raise SplitError(f"{self.path}: {arch}.{feature} = "
                                 f"{_short(self.key(f'{arch}.{feature}'))} is not supported; use a "
                                 "dense model with full attention")
        if not self.key(f"{arch}.attention.causal", True):
            raise SplitError(f"{self.path}: {arch}.attention.causal = false is not supported; "
                             "use a model that generates text")
        return arch

    def _read_spec(self) -> ModelSpec:
        hidden = self._arch_key("embedding_length", int)
        heads = self._arch_key("attention.head_count", int)
        kv_heads = self._arch_key("attention.head_count_kv", int, heads)
        head_dim = self._arch_key("attention.key_length", int, max(1, hidden // heads))
        if self._arch_key("attention.value_length", int, head_dim) != head_dim:
            raise SplitError(f"{self.path}: {self._arch}.attention.value_length differs from "
                             "key_length, which is not supported; use another model")
        rot_dim = self._arch_key("rope.dimension_count", int, head_dim)
        if heads % kv_heads or rot_dim % 2 or rot_dim > head_dim:
            raise SplitError(f"{self.path}: {heads} heads, {kv_heads} KV heads and {rot_dim} of "
                             f"{head_dim} rotated dimensions do not fit together; "
                             "the file is damaged or of an unsupported model")
        embedding = self._tensor("token_embd.weight")
        scale = self.key(f"{self._arch}.attention.scale", 0.0) or 1.0 / math.sqrt(head_dim)
        return ModelSpec(
            architecture=self._arch, hidden_size=hidden,
            ffn_size=self._arch_key("feed_forward_length", int),
            n_layers=self._arch_key("block_count", int),
            n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim,
            vocab_size=int(embedding.shape[-1]),
            context_length=self._arch_key("context_length", int), rot_dim=rot_dim,
            norm_eps=_f32(self._arch_key("attention.layer_norm_rms_epsilon", float)),
            attn_scale=_f32(scale), rope_base=self._arch_key("rope.freq_base", float, 10000.0),
            rope_scaling=self._rope_scaling(rot_dim))

    def _rope_scaling(self, rot_dim: int) -> RopeScaling:
        legacy = self.key(f"{self._arch}.rope.scale_linear")
        kind = self.key(f"{self._arch}.rope.scaling.type", "linear" if legacy else "none")
        factor = float(self.key(f"{self._arch}.rope.scaling.factor", legacy or 1.0))
        if not (math.isfinite(factor) and factor >= 1.0):
            raise SplitError(f"{self.path}: {self._arch}.rope.scaling.factor = {factor} is not "
                             "supported; a number of at least 1 is expected")
        divisors = None
        if "rope_freqs.weight" in self.tensors:
            divisors = [float(value) for value in self.vector("rope_freqs.weight", rot_dim // 2)]
            if kind != "none" or not all(math.isfinite(d) and d > 0 for d in divisors):
                raise SplitError(f"{self.path}: rope_freqs.weight beside rope.scaling.type {kind}, "
                                 "or not positive, is not supported; convert the model again")
            return RopeScaling("llama3", divisors=divisors)
        if kind in ("none", "linear"):
            return RopeScaling(kind, factor)
        if kind != "yarn":
            raise SplitError(f"{self.path}: {self._arch}.rope.scaling.type {_short(kind)} is not "
                             "supported; none, linear, yarn and llama3's rope_freqs are")
        return RopeScaling(
            kind, factor,
            original_context=self._arch_key("rope.scaling.original_context_length", int),
            attn_factor=self._arch_key("rope.scaling.attn_factor", float, 1.0),
            beta_fast=self._arch_key("rope.scaling.yarn_beta_fast", float, 32.0),
            beta_slow=self._arch_key("rope.scaling.yarn_beta_slow", float, 1.0))

    # ---- tensors

    def _tensor(self, name: str):
        if name not in self.tensors:
            raise SplitError(f"{self.path}: the tensor {name} is missing; "
                             "the file is incomplete, fetch or convert it again")
        return self.tensors[name]

    def _check_tensor_names(self) -> None:
        known = {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"}
        layer_names = [f"{name}.weight" for name in (*LAYER_NORMS.values(),
                                                     *LAYER_MATRICES.values())]
        layer_names += [f"{name}.bias" for name in LAYER_BIASES.values()]
        self._tensor(f"blk.{self.spec.n_layers - 1}.attn_norm.weight")  # bounds a damaged count
        for layer in range(self.spec.n_layers):
            known.update(f"blk.{layer}.{name}" for name in layer_names)
        for name in self.tensors:
            if name not in known:
                raise SplitError(f"{self.path}: the tensor {name} is not supported; "
                                 "use a plain llama model without this feature")

    def vector(self, name: str, size: int) -> np.ndarray:
        """A 1-D float tensor, widened to f32."""
        matrix = self._decode(name, [size])
        if matrix.is_quantized:
            raise SplitError(f"{self.path}: the vector {name} is quantized; convert the model "
                             "again with float norms and biases")
        values = matrix.dequantize().reshape(size)
        if not np.isfinite(values).all():
            raise SplitError(f"{self.path}: {name} holds a value that is not finite; "
                             "the file is damaged, fetch or convert it again")
        return values

    def matrix(self, name: str, rows: int, cols: int) -> Matrix:
        matrix = self._decode(name, [rows, cols])
        for part in (matrix.scales, matrix.minima,
                     None if matrix.is_quantized else matrix.dequantize()):
            if part is not None and not np.isfinite(part).all():
                raise SplitError(f"{self.path}: {name} holds a value that is not finite; "
                                 "the file is damaged, fetch or convert it again")
        return matrix

    def layer_norm(self, layer: int, logical: str) -> np.ndarray:
        return self.vector(f"blk.{layer}.{LAYER_NORMS[logical]}.weight", self.spec.hidden_size)

    def layer_matrix(self, layer: int, logical: str) -> Matrix:
        rows, cols = self.layer_shape(logical)
        matrix = self.matrix(f"blk.{layer}.{LAYER_MATRICES[logical]}.weight", rows, cols)
        order = self._half_split_order(logical)
        return matrix if order is None else matrix.select_rows(order)

    def layer_bias(self, layer: int, logical: str) -> Optional[np.ndarray]:
        name = f"blk.{layer}.{LAYER_BIASES[logical]}.bias"
        if name not in self.tensors:
            return None
        values = self.vector(name, self.layer_shape("w" + logical[1])[0])
        order = self._half_split_order("w" + logical[1])
        return values if order is None else values[order]

    def layer_shape(self, logical: str) -> tuple[int, int]:
        """(outputs, inputs) of a layer's matrix."""
        spec = self.spec
        q, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
        return {"wq": (q, spec.hidden_size), "wk": (kv, spec.hidden_size),
                "wv": (kv, spec.hidden_size), "wo": (spec.hidden_size, q),
                "w1": (spec.ffn_size, spec.hidden_size), "w3": (spec.ffn_size, spec.hidden_size),
                "w2": (spec.hidden_size, spec.ffn_size)}[logical]

    def _half_split_order(self, logical: str) -> Optional[np.ndarray]:
        """Llama GGUFs rotate neighbours (2j, 2j + 1); we rotate halves (j, j + rot_dim / 2)."""
        heads = {"wq": self.spec.n_heads, "wk": self.spec.n_kv_heads}.get(logical)
        if heads is None:
            return None
        rotated = np.arange(self.spec.rot_dim).reshape(-1, 2).T.ravel()
        within = np.concatenate([rotated, np.arange(self.spec.rot_dim, self.spec.head_dim)])
        return (np.arange(heads)[:, None] * self.spec.head_dim + within).ravel()

    def _decode(self, name: str, shape: list[int]) -> Matrix:
        tensor = self._tensor(name)
        found = [int(extent) for extent in tensor.shape[::-1]]
        if found != shape:
            raise SplitError(f"{self.path}: {name} has shape {found} where the keys say {shape}; "
                             "the file is damaged, fetch or convert it again")
        rows, kind = math.prod(shape[:-1]), tensor.tensor_type.name
        raw = tensor.data.reshape(-1).view(np.uint8)
        if kind == "F32":
            return Matrix("f32", raw.view("<f4").reshape(rows, -1))
        if kind == "F16":
            return Matrix("f16", raw.view("<f2").reshape(rows, -1))
        if kind == "BF16":
            return Matrix("bf16", raw.view("<u2").reshape(rows, -1))
        if kind not in ("Q4_0", "Q4_1", "Q8_0"):
            raise SplitError(f"{self.path}: {name} has type {kind}, which is not supported; "
                             "use F32, F16, BF16, Q8_0, Q4_0 or Q4_1")
        blocks = raw.reshape(rows, shape[-1] // GROUP, -1)
        scales = blocks[:, :, 0:2].copy().view("<f2")[..., 0]
        if kind == "Q8_0":
            return Matrix("q8", blocks[:, :, 2:].view(np.int8), scales)
        if kind == "Q4_0":
            return Matrix("q4", blocks[:, :, 2:], scales)
        return Matrix("q4m", blocks[:, :, 4:], scales,
                      blocks[:, :, 2:4].copy().view("<f2")[..., 0])


def _open(path: Path) -> GGUFReader:
    if path.is_dir():
        raise SplitError(f"{path} is a directory; give a GGUF file (llama.cpp's "
                         "convert_hf_to_gguf.py makes one from a Hugging Face directory)")
    try:
        with open(path, "rb") as stream:
            magic = stream.read(4)
        if magic != b"GGUF":
            raise SplitError(f"{path} is not a GGUF file; give one of GGUF version 2 or 3")
        reader = GGUFReader(path, "r")
    except OSError as error:
        raise SplitError(f"{path}: {error.strerror or error}; check the path given to --model")
    except SplitError:
        raise
    except Exception as error:  # the library's parser raises whatever a damaged file runs into
        raise SplitError(f"{path}: truncated or damaged GGUF ({_short(error)}); "
                         "fetch or convert it again")
    if reader.endianess.name != "LITTLE":
        raise SplitError(f"{path}: big-endian GGUF is not supported; convert the model again")
    return reader


def _f32(value: float) -> float:
    return float(np.float32(value))


def _short(value: object) -> str:
    """A value of the file in a message: one line, bounded."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
