"""The parameters map of a request, as docs/protocol.md names them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class Parameters(TypedDict, total=False):
    """Keyword arguments of generate and stream. Left out or None: the router's default.

    Exactly one of prompt, messages and token_ids. The router checks the ranges.
    """

    prompt: str | None
    messages: Iterable[Mapping[str, str]] | None  # {"role": ..., "content": ...}
    token_ids: Iterable[int] | None
    model: str | None
    max_tokens: int | None
    temperature: float | None  # 0, the default, is greedy
    top_p: float | None
    top_k: int | None  # 0 is off
    min_p: float | None
    typical_p: float | None
    seed: int | None
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    echo: bool | None
    logprobs: int | None  # this many rivals beside each token; 0: the token's own only
    prompt_logprobs: int | None
    ignore_eos: bool | None


def parameters_map(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent. A sampled request gets a seed, so that sending it again is the same request."""
    sent = {name: value for name, value in parameters.items() if value is not None}
    for name in ("messages", "token_ids", "stop_token_ids", "stop"):
        value = sent.get(name)
        if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            sent[name] = list(value)  # an iterator must survive a second attempt
    if "seed" not in sent and sent.get("temperature", 0) != 0:
        sent["seed"] = secrets.randbits(64)
    return sent
