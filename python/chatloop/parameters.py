"""The parameters map of a request, as docs/protocol.md names them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class Parameters(TypedDict, total=False):
    """Keyword arguments of generate and stream. Left out or None: the router's default.

    Exactly one of prompt, messages and token_ids. The router checks the ranges.
    """

    prompt: str | None
    messages: Iterable[Mapping[str, Any]] | None  # OpenAI's: {"role": ..., "content": ...}
    token_ids: Iterable[int] | None
    model: str | None
    max_tokens: int | None
    temperature: float | None  # 0, the default, is greedy
    top_p: float | None
    top_k: int | None  # 0 is off
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None  # of what prompt and answer have; 1 is off
    presence_penalty: float | None  # of what the answer has; 0 is off
    frequency_penalty: float | None  # the same, for each time
    logit_bias: Mapping[int, float] | None  # by token id
    seed: int | None
    n: int | None  # choices: answers to the one prompt
    min_tokens: int | None  # before which nothing ends the answer
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    echo: bool | None
    logprobs: int | None  # this many rivals beside each token; 0: the token's own only
    prompt_logprobs: int | None
    ignore_eos: bool | None
    priority: int | None  # the higher first; 0 is the default
    deadline_ms: int | None  # from the request's arrival at the router
    traceparent: str | None  # of the caller's trace (W3C Trace Context)
    # What the answer must look like: at most one of these.
    json_schema: str | Mapping[str, Any] | bool | None
    json_object: bool | None  # any JSON object
    regex: str | None  # of the whole answer
    grammar: str | None  # Lark
    choice: Iterable[str] | None  # one of these texts
    # For the chat template of messages.
    tools: str | Iterable[Mapping[str, Any]] | None  # as OpenAI has them
    chat_template_kwargs: str | Mapping[str, Any] | None


def parameters_map(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent. A sampled request gets a seed, so that sending it again is the same request."""
    sent = {name: value for name, value in parameters.items() if value is not None}
    for name in ("messages", "token_ids", "stop_token_ids", "stop", "choice", "tools"):
        value = sent.get(name)
        if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
            sent[name] = list(value)  # an iterator must survive a second attempt
    if isinstance(sent.get("logit_bias"), Mapping):
        sent["logit_bias"] = dict(sent["logit_bias"])
    for name in ("json_schema", "tools", "chat_template_kwargs"):
        if name in sent and not isinstance(sent[name], str):
            sent[name] = json.dumps(sent[name])
    if isinstance(sent.get("messages"), list):
        sent["messages"] = [_message(message) for message in sent["messages"]]
    if "seed" not in sent and sent.get("temperature", 0) != 0:
        sent["seed"] = secrets.randbits(64)
    return sent


def _message(message: Any) -> Any:
    """A message as the router takes it: calls are JSON text, a content of text parts is one text.

    What is no message stays as it is: the router says what is wrong with it.
    """
    if not isinstance(message, Mapping):
        return message
    sent = {key: value for key, value in message.items() if value is not None or key == "content"}
    if isinstance(sent.get("tool_calls"), list):
        sent["tool_calls"] = json.dumps(sent["tool_calls"])
    content = sent.get("content")
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        sent["content"] = "".join(part["text"] for part in content)
    if "tool_calls" in sent:
        sent.setdefault("content", None)
    return sent


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and "text" in part
