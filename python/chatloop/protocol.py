"""Bytes of the client front (docs/protocol.md): encode what we say, check what we hear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack

from .errors import ChatLoopError, malformed
from .results import Progress, TokenLogprob

VERSION = 1
FRONT_BYTES_MAX = 4 << 20  # the router drops the link of a client that sends more

SUBMIT, CANCEL, RESUME, PING, STATUS_QUERY, TRACE_QUERY = 1, 2, 3, 4, 5, 6
ACCEPTED, PIECE, PROMPT_PIECE, DONE, ERROR, PONG, STATUS = 65, 66, 67, 68, 69, 70, 71
CHOICE_DONE, TRACE = 72, 73


@dataclass(frozen=True, slots=True)
class Accepted:
    request_id: str
    prompt_ids: list[int]
    seed: int
    fingerprint: str
    model: str
    prompt_text: str | None


@dataclass(frozen=True, slots=True)
class PieceMessage:
    request_id: str
    index: int
    token_ids: list[int]
    text: bytes  # whole UTF-8
    text_offset: int  # bytes of the answer, the echoed prompt not counted
    logprobs: list[TokenLogprob] | None
    choice: int


@dataclass(frozen=True, slots=True)
class PromptPiece:
    request_id: str
    index: int
    entries: list[TokenLogprob | None]


@dataclass(frozen=True, slots=True)
class ChoiceDone:
    request_id: str
    choice: int
    finish_reason: str
    stop: str | int | None
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Done:
    request_id: str
    finish_reason: str
    stop: str | int | None
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Failure:
    request_id: str | None
    code: str
    message: str
    retryable: bool
    committed: int
    retry_after_ms: int | None

    def error(self) -> ChatLoopError:
        return ChatLoopError(
            self.code, self.message, self.retryable, self.committed, self.retry_after_ms
        )


@dataclass(frozen=True, slots=True)
class RunningRequest:
    attempt: int
    tokens: int  # that have been sent, of all choices


@dataclass(frozen=True, slots=True)
class PongMessage:
    nonce: int
    router_incarnation: int
    requests: dict[str, RunningRequest] | None = None  # of this client; None: not told


@dataclass(frozen=True, slots=True)
class StatusMessage:
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TraceMessage:
    request_id: str
    trace: dict[str, Any] | None  # None: the router does not know the request


RequestMessage: TypeAlias = Accepted | PieceMessage | PromptPiece | ChoiceDone | Done | Failure
RouterMessage: TypeAlias = RequestMessage | PongMessage | StatusMessage | TraceMessage


# ---- client to router ----


def submit(request_id: str, parameters: Mapping[str, Any]) -> bytes:
    return _encode(SUBMIT, request_id, parameters)


def cancel(request_id: str) -> bytes:
    return _encode(CANCEL, request_id)


def resume(progress: Progress) -> bytes:
    """The message that continues `progress` as its next attempt."""
    tokens = [choice.token_ids for choice in progress.choices]
    so_far = {
        "prompt_ids": progress.prompt_ids,
        **({"token_ids": tokens[0]} if len(tokens) == 1 else {"choices": tokens}),
        "seed": progress.seed,
        "fingerprint": progress.fingerprint,
    }
    return _encode(RESUME, progress.request_id, progress.attempt + 1, progress.parameters, so_far)


def ping(nonce: int) -> bytes:
    """Its PONG says which requests run."""
    return _encode(PING, nonce, True)


def status_query() -> bytes:
    return _encode(STATUS_QUERY)


def trace_query(request_id: str) -> bytes:
    return _encode(TRACE_QUERY, request_id)


def _encode(*body: Any) -> bytes:
    try:
        message: bytes = msgpack.packb([VERSION, *body], default=_plain)
    except UnicodeEncodeError as error:
        raise ChatLoopError("not_utf8", f"text that has no UTF-8 form: {error.reason}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ChatLoopError("invalid_request", f"cannot be encoded: {error}") from error
    if len(message) > FRONT_BYTES_MAX:
        text = f"the request takes {len(message)} bytes, the most is {FRONT_BYTES_MAX}"
        raise ChatLoopError("prompt_too_long", text)
    return message


def _plain(value: Any) -> Any:
    """Numpy's numbers and arrays, ranges and other iterables, as msgpack knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a value of type {type(value).__name__}")


# ---- router to client ----


def decode(message: bytes) -> RouterMessage:
    """The message in `message`. Raises ChatLoopError("malformed") for anything else."""
    try:
        fields = msgpack.unpackb(message)
    except ValueError as error:  # the base of all that msgpack raises for bad bytes
        raise malformed(f"bytes that are not msgpack: {error}") from error
    if not isinstance(fields, list) or len(fields) < 2 or fields[0] != VERSION:
        raise malformed("a message of another protocol version")
    known = _DECODERS.get(fields[1]) if isinstance(fields[1], int) else None
    if known is None:
        raise malformed(f"a message of unknown type {fields[1]!r}")
    length, decoder = known
    is_long_pong = fields[1] == PONG and len(fields) == 5  # with the requests that run
    if len(fields) != 2 + length and not is_long_pong:
        raise malformed(f"a message of type {fields[1]} with {len(fields)} elements")
    return decoder(*fields[2:])


def _accepted(request_id: Any, info: Any) -> Accepted:
    info = _map(info)
    prompt_text = info.get("prompt_text")
    return Accepted(
        request_id=_text(request_id),
        prompt_ids=_ids(info.get("prompt_ids")),
        seed=_unsigned(info.get("seed")),
        fingerprint=_text(info.get("fingerprint")),
        model=_text(info.get("model")),
        prompt_text=None if prompt_text is None else _text(prompt_text),
    )


def _piece(
    request_id: Any,
    index: Any,
    token_ids: Any,
    text: Any,
    text_offset: Any,
    logprobs: Any,
    choice: Any,
) -> PieceMessage:
    ids = _ids(token_ids)
    entries = None if logprobs is None else [_entry(entry) for entry in _array(logprobs)]
    if entries is not None and [entry.token_id for entry in entries] != ids:
        raise malformed("log-probabilities of other tokens than the piece's")
    return PieceMessage(
        request_id=_text(request_id),
        index=_unsigned(index),
        token_ids=ids,
        text=_text(text).encode(),
        text_offset=_unsigned(text_offset),
        logprobs=entries,
        choice=_unsigned(choice),
    )


def _prompt_piece(request_id: Any, index: Any, entries: Any) -> PromptPiece:
    decoded = [None if entry is None else _entry(entry) for entry in _array(entries)]
    return PromptPiece(_text(request_id), _unsigned(index), decoded)


def _choice_done(request_id: Any, choice: Any, info: Any) -> ChoiceDone:
    info = _map(info)
    return ChoiceDone(
        request_id=_text(request_id),
        choice=_unsigned(choice),
        finish_reason=_text(info.get("finish_reason")),
        stop=_stop(info.get("stop")),
        completion_tokens=_unsigned(info.get("completion_tokens")),
    )


def _done(request_id: Any, info: Any) -> Done:
    info = _map(info)
    return Done(
        request_id=_text(request_id),
        finish_reason=_text(info.get("finish_reason")),
        stop=_stop(info.get("stop")),
        prompt_tokens=_unsigned(info.get("prompt_tokens")),
        completion_tokens=_unsigned(info.get("completion_tokens")),
        queue_ms=_number(info.get("queue_ms")),
        prefill_ms=_number(info.get("prefill_ms")),
        decode_ms=_number(info.get("decode_ms")),
    )


def _failure(
    request_id: Any, code: Any, message: Any, retryable: Any, committed: Any, retry_after_ms: Any
) -> Failure:
    if not isinstance(retryable, bool):
        raise malformed(f"{retryable!r} where a bool belongs")
    return Failure(
        request_id=None if request_id is None else _text(request_id),
        code=_text(code),
        message=_text(message),
        retryable=retryable,
        committed=_unsigned(committed),
        retry_after_ms=None if retry_after_ms is None else _unsigned(retry_after_ms),
    )


def _pong(nonce: Any, router_incarnation: Any, requests: Any = None) -> PongMessage:
    running = None
    if requests is not None:
        running = dict(_running(one) for one in _array(requests))
    return PongMessage(_unsigned(nonce), _unsigned(router_incarnation), running)


def _running(entry: Any) -> tuple[str, RunningRequest]:
    fields = _array(entry)
    if len(fields) != 3:
        raise malformed(f"a running request of {len(fields)} elements")
    return _text(fields[0]), RunningRequest(_unsigned(fields[1]), _unsigned(fields[2]))


def _status(info: Any) -> StatusMessage:
    return StatusMessage(_map(info))


def _trace(request_id: Any, trace: Any) -> TraceMessage:
    return TraceMessage(_text(request_id), None if trace is None else _map(trace))


# Type -> (elements after it, decoder).
_DECODERS: dict[int, tuple[int, Callable[..., RouterMessage]]] = {
    ACCEPTED: (2, _accepted),
    PIECE: (7, _piece),
    PROMPT_PIECE: (3, _prompt_piece),
    CHOICE_DONE: (3, _choice_done),
    DONE: (2, _done),
    ERROR: (6, _failure),
    PONG: (2, _pong),
    STATUS: (1, _status),
    TRACE: (2, _trace),
}


def _entry(entry: Any) -> TokenLogprob:
    fields = _array(entry)
    if len(fields) != 3:
        raise malformed(f"a token entry of {len(fields)} elements")
    top = []
    for pair in _array(fields[2]):
        if len(_array(pair)) != 2:
            raise malformed("a log-probability without its token")
        top.append((_unsigned(pair[0]), _number(pair[1])))
    return TokenLogprob(_unsigned(fields[0]), _number(fields[1]), top)


def _stop(value: Any) -> str | int | None:
    return value if value is None or isinstance(value, str) else _unsigned(value)


def _ids(value: Any) -> list[int]:
    return [_unsigned(token_id) for token_id in _array(value)]


def _unsigned(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise malformed(f"{value!r} where an unsigned integer belongs")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise malformed(f"{value!r} where a number belongs")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise malformed(f"{value!r} where text belongs")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise malformed(f"{value!r} where an array belongs")
    return value


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise malformed(f"{value!r} where a map belongs")
    return value
