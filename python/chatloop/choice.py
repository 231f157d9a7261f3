"""One of the answers to a request on its way."""

from __future__ import annotations

from typing import Any

from . import protocol
from .errors import ChatLoopError, MissingError, malformed
from .results import Choice, ChoiceProgress, Piece, TokenLogprob

# What one answer may hold, whatever a router sends: the longest context, and 64 bytes a token.
ANSWER_TOKENS_MAX = 262144
ANSWER_BYTES_MAX = 16 << 20


class ChoiceAnswer:
    """What was held of a choice, and what a piece of it adds."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []  # as long as token_ids, or empty
        self.text = bytearray()  # UTF-8, without the echoed prompt
        self.end: protocol.ChoiceDone | None = None

    @property
    def progress(self) -> ChoiceProgress:
        return ChoiceProgress(list(self.token_ids), list(self.logprobs), self.text.decode())

    def restore(self, progress: ChoiceProgress) -> None:
        self.token_ids = list(progress.token_ids)
        self.logprobs = list(progress.logprobs)
        self.text = bytearray(progress.text.encode())

    def take(self, message: protocol.PieceMessage, wants_logprobs: bool, echo_bytes: int) -> Piece:
        """What is new in `message`. Raises ChatLoopError when it contradicts what is held."""
        known = overlap(self.token_ids, message.index, message.token_ids, "token ids")
        entries = message.logprobs or []
        if wants_logprobs and len(entries) != len(message.token_ids):
            raise malformed("a piece without the log-probabilities that were asked for")
        if entries and message.index < len(self.logprobs):
            overlap(self.logprobs, message.index, entries, "log-probabilities")
        known_bytes = overlap(self.text, message.text_offset, message.text, "text")

        if message.index + len(message.token_ids) > ANSWER_TOKENS_MAX:
            raise malformed(f"more than {ANSWER_TOKENS_MAX} tokens")
        if message.text_offset + len(message.text) > ANSWER_BYTES_MAX:
            raise malformed(f"more than {ANSWER_BYTES_MAX} bytes of text")

        fresh_text = message.text[known_bytes:]
        piece = Piece(
            index=len(self.token_ids),
            token_ids=message.token_ids[known:],
            text=_whole_text(fresh_text),
            text_offset=echo_bytes + len(self.text),
            logprobs=entries[known:] if wants_logprobs else None,
            choice=self.index,
        )
        if self.end is not None and (piece.token_ids or piece.text):
            raise malformed("a piece behind the end of its choice")
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs or []
        self.text += fresh_text
        return piece

    def on_end(self, message: protocol.ChoiceDone) -> None:
        if self.end is not None and message != self.end:
            raise contradiction("the end of a choice")
        self.end = message

    def result(
        self, echo: bytes, wants_logprobs: bool, finish_reason: str, stop: str | int | None
    ) -> Choice:
        """finish_reason and stop: of a choice that has no end of its own."""
        if self.end is not None:
            finish_reason, stop = self.end.finish_reason, self.end.stop
        return Choice(
            index=self.index,
            text=(echo + self.text).decode(),
            token_ids=self.token_ids,
            logprobs=self.logprobs if wants_logprobs else None,
            finish_reason=finish_reason,
            stop=stop,
        )


def overlap(held: Any, start: int, received: Any, what: str) -> int:
    """How many of `received`, which begins at `start`, are already the tail of `held`."""
    if start > len(held):
        raise MissingError(f"{what} from {start} on, but those from {len(held)} on are missing")
    known = min(len(held) - start, len(received))
    if held[start : start + known] != received[:known]:
        raise contradiction(what)
    return known


def contradiction(what: str) -> ChatLoopError:
    return ChatLoopError("internal", f"the router repeated {what} with another content")


def _whole_text(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise malformed("text that overlaps held text within a character") from error
