"""What the client hands to its caller. All of it is immutable; log-probabilities are natural."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and its likeliest rivals. The floats are the router's float32, exactly."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]  # (token id, logprob), likeliest first, at most K


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens index, index + 1, ... of an answer and the text that they completed.

    With echo the prompt's text is a piece of its own, without tokens. Text may be empty: a
    character can take several tokens. The texts of a choice's pieces, joined, are its text.
    """

    index: int
    token_ids: list[int]
    text: str
    text_offset: int  # of text in the choice's text, in UTF-8 bytes
    logprobs: list[TokenLogprob] | None  # one per token id; None when not asked for
    choice: int = 0  # below the parameter n


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int  # of all choices
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Durations:
    """Where the router saw the time go, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the n answers to a request."""

    index: int
    text: str  # of choice 0: starts with the prompt's text when echo was asked for
    token_ids: list[int]  # without the token that ended the answer
    logprobs: list[TokenLogprob] | None  # one per token id
    finish_reason: str  # "stop", "length" or "cancelled"
    stop: str | int | None  # the stop string or token id that ended the answer


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished answer. With n > 1 what is said of one answer is choice 0's."""

    request_id: str
    text: str  # starts with the prompt's text when echo was asked for
    token_ids: list[int]  # without the token that ended the answer
    logprobs: list[TokenLogprob] | None  # one per token id
    prompt_ids: list[int]
    prompt_logprobs: list[TokenLogprob | None] | None  # one per prompt id, None for the first
    finish_reason: str  # "stop", "length" or "cancelled"
    stop: str | int | None  # the stop string or token id that ended the answer
    usage: Usage
    durations: Durations
    model: str
    fingerprint: str  # of the numerics: equal fingerprints give equal bits
    seed: int  # with it, the same request gives the same tokens
    choices: list[Choice]  # all n


@dataclass(frozen=True, slots=True)
class ChoiceProgress:
    token_ids: list[int]
    logprobs: list[TokenLogprob]  # one per token id, or empty; stays with the client
    text: str  # of token_ids, without the echoed prompt


@dataclass(frozen=True, slots=True)
class Progress:
    """All that a router needs to continue an answer which another one began."""

    request_id: str
    attempt: int  # of the submission that made this progress; 0 is the first
    parameters: dict[str, Any]
    prompt_ids: list[int]
    choices: list[ChoiceProgress]  # n
    prompt_logprobs: list[TokenLogprob | None]  # those received; stays with the client
    seed: int
    fingerprint: str

    @property
    def token_ids(self) -> list[int]:
        """Of choice 0."""
        return self.choices[0].token_ids

    @property
    def text(self) -> str:
        """Of choice 0."""
        return self.choices[0].text


@dataclass(frozen=True, slots=True)
class Pong:
    router_incarnation: int  # another one: the router was restarted
    round_trip_s: float
