"""What a model is besides its tensors; the fields are those of partition_metadata.json."""

from __future__ import annotations

from dataclasses import dataclass

from model_splitter.rope import RopeScaling


@dataclass(frozen=True)
class ModelSpec:
    architecture: str
    hidden_size: int
    ffn_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rot_dim: int
    norm_eps: float
    attn_scale: float
    rope_base: float
    rope_scaling: RopeScaling
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0

    # Enter model_id: everything the logits depend on that is no tensor. RoPE enters by its table.
    INTEGERS = ("hidden_size", "ffn_size", "n_layers", "n_heads", "n_kv_heads", "head_dim",
                "vocab_size", "context_length", "rot_dim")
    FLOATS = ("norm_eps", "attn_scale", "embedding_scale", "residual_scale", "logit_scale",
              "attn_softcap", "logit_softcap")
