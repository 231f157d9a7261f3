"""One request on its way: the router's messages go in, checked pieces and the end come out.

No socket and no clock, so that every order of messages can be tested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from . import protocol
from .errors import TIMEOUT, ChatLoopError, malformed
from .results import Durations, Generation, Piece, Progress, TokenLogprob, Usage

# What one answer may hold, whatever a router sends: the longest context, and 64 bytes a token.
ANSWER_TOKENS_MAX = 262144
ANSWER_BYTES_MAX = 16 << 20


def no_news() -> None:
    """What is called while nobody wants to be woken."""


class Request:
    """submitted --ACCEPTED--> running --PIECE...--> ended, by DONE or by an error.

    A message that repeats what is held is compared with it and dropped; one that contradicts it
    ends the request, because equal requests have equal answers, bit for bit.
    """

    def __init__(self, request_id: str, parameters: dict[str, Any]) -> None:
        self.request_id = request_id
        self.pieces: deque[Piece] = deque()  # not yet taken by the caller
        self.error: ChatLoopError | None = None
        self.attempt = 0  # of the message sent last; 0 is SUBMIT
        self.on_news: Callable[[], None] = no_news  # after every change of the above
        self.abandoned = False  # nobody waits for it: it is not attempted again
        self._parameters = parameters
        self._accepted: protocol.Accepted | None = None
        self._done: protocol.Done | None = None
        self._prompt_logprobs: list[TokenLogprob | None] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []  # as long as _token_ids, or empty
        self._answer = bytearray()  # UTF-8, without the echoed prompt
        self._echo = b""

    @property
    def ended(self) -> bool:
        return self._done is not None or self.error is not None

    @property
    def accepted(self) -> bool:
        return self._accepted is not None

    @property
    def committed(self) -> int:
        """Tokens of the answer that are held."""
        return len(self._token_ids)

    @property
    def progress(self) -> Progress | None:
        """What another router needs to go on; None before ACCEPTED."""
        if self._accepted is None:
            return None
        return Progress(
            request_id=self.request_id,
            attempt=self.attempt,
            parameters=self._parameters,
            prompt_ids=self._accepted.prompt_ids,
            token_ids=list(self._token_ids),
            logprobs=list(self._logprobs),
            prompt_logprobs=list(self._prompt_logprobs),
            text=self._answer.decode(),
            seed=self._accepted.seed,
            fingerprint=self._accepted.fingerprint,
        )

    def first_message(self) -> bytes:
        return protocol.submit(self.request_id, self._parameters)

    def next_attempt(self) -> bytes:
        """The message for a router that does not know this request."""
        progress = self.progress
        self.attempt += 1
        return self.first_message() if progress is None else protocol.resume(progress)

    def restore(self, progress: Progress) -> bytes:
        """Takes over what an earlier stream held. Returns the message that continues it."""
        message = protocol.resume(progress)
        self.attempt = progress.attempt + 1
        self._token_ids = list(progress.token_ids)
        self._logprobs = list(progress.logprobs)
        self._prompt_logprobs = list(progress.prompt_logprobs)
        self._answer = bytearray(progress.text.encode())
        return message

    def fail(self, error: ChatLoopError) -> None:
        if not self.ended:
            self.error = self._with_progress(error)
            self.on_news()

    def overdue(self, timeout_s: float) -> ChatLoopError:
        """What is raised when no piece came for so long."""
        text = f"no piece of the answer for {timeout_s:g} s"
        return self._with_progress(ChatLoopError(TIMEOUT, text, retryable=True))

    def _with_progress(self, error: ChatLoopError) -> ChatLoopError:
        error.committed = max(error.committed, self.committed)
        error.progress = self.progress
        return error

    def on_message(self, message: protocol.RequestMessage) -> None:
        if self.ended:
            return
        try:
            self._take(message)
        except ChatLoopError as error:
            self.fail(error)
        self.on_news()

    def _take(self, message: protocol.RequestMessage) -> None:
        if isinstance(message, protocol.Accepted):
            self._on_accepted(message)
        elif isinstance(message, protocol.Failure):
            self._on_failure(message)
        elif isinstance(message, protocol.Done):
            self._on_done(message)
        elif self._accepted is None:
            raise malformed("a part of an answer before ACCEPTED")
        elif isinstance(message, protocol.PieceMessage):
            self._on_piece(message)
        else:
            self._on_prompt_piece(message)

    def _on_accepted(self, message: protocol.Accepted) -> None:
        if self._accepted is not None:
            if message != self._accepted:
                raise _contradiction("ACCEPTED")
            return
        self._accepted = message
        if message.prompt_text:
            self._echo = message.prompt_text.encode()
            self.pieces.append(Piece(0, [], message.prompt_text, 0, None))

    def _on_failure(self, message: protocol.Failure) -> None:
        # The answer to a further attempt of which the router did not need to be told.
        if message.code == "duplicate_id" and self.attempt > 0:
            return
        self.fail(message.error())

    def _on_piece(self, message: protocol.PieceMessage) -> None:
        known = _overlap(self._token_ids, message.index, message.token_ids, "token ids")
        entries = message.logprobs or []
        if self._wants("logprobs") and len(entries) != len(message.token_ids):
            raise malformed("a piece without the log-probabilities that were asked for")
        if entries and message.index < len(self._logprobs):
            _overlap(self._logprobs, message.index, entries, "log-probabilities")
        known_bytes = _overlap(self._answer, message.text_offset, message.text, "text")

        if message.index + len(message.token_ids) > ANSWER_TOKENS_MAX:
            raise malformed(f"more than {ANSWER_TOKENS_MAX} tokens")
        if message.text_offset + len(message.text) > ANSWER_BYTES_MAX:
            raise malformed(f"more than {ANSWER_BYTES_MAX} bytes of text")

        fresh_text = message.text[known_bytes:]
        piece = Piece(
            index=len(self._token_ids),
            token_ids=message.token_ids[known:],
            text=_whole_text(fresh_text),
            text_offset=len(self._echo) + len(self._answer),
            logprobs=entries[known:] if self._wants("logprobs") else None,
        )
        self._token_ids += piece.token_ids
        self._logprobs += piece.logprobs or []
        self._answer += fresh_text
        if piece.token_ids or piece.text:
            self.pieces.append(piece)

    def _on_prompt_piece(self, message: protocol.PromptPiece) -> None:
        known = _overlap(
            self._prompt_logprobs, message.index, message.entries, "prompt log-probabilities"
        )
        assert self._accepted is not None
        if message.index + len(message.entries) > len(self._accepted.prompt_ids):
            raise malformed("more log-probabilities of the prompt than it has ids")
        self._prompt_logprobs += message.entries[known:]

    def _on_done(self, message: protocol.Done) -> None:
        if message.finish_reason != "cancelled":  # which may come at any time
            if self._accepted is None:
                raise malformed("DONE before ACCEPTED")
            complete = len(self._prompt_logprobs) == len(self._accepted.prompt_ids)
            if self._wants("prompt_logprobs") and not complete:
                raise malformed("DONE before all log-probabilities of the prompt")
        self._done = message

    def _wants(self, parameter: str) -> bool:
        return self._parameters.get(parameter) is not None

    def generation(self) -> Generation:
        """The finished answer. Raises the request's error, or RuntimeError before the end."""
        if self.error is not None:
            raise self.error
        if self._done is None:
            raise RuntimeError("the answer is not complete: iterate the stream to its end first")
        if self._accepted is None:
            raise ChatLoopError("cancelled", "the request was cancelled before it was accepted")
        done, accepted = self._done, self._accepted
        return Generation(
            request_id=self.request_id,
            text=(self._echo + self._answer).decode(),
            token_ids=self._token_ids,
            logprobs=self._logprobs if self._wants("logprobs") else None,
            prompt_ids=accepted.prompt_ids,
            prompt_logprobs=self._prompt_logprobs if self._wants("prompt_logprobs") else None,
            finish_reason=done.finish_reason,
            stop=done.stop,
            usage=Usage(
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                total_tokens=done.prompt_tokens + done.completion_tokens,
            ),
            durations=Durations(done.queue_ms, done.prefill_ms, done.decode_ms),
            model=accepted.model,
            fingerprint=accepted.fingerprint,
            seed=accepted.seed,
        )


def _overlap(held: Any, start: int, received: Any, what: str) -> int:
    """How many of `received`, which begins at `start`, are already the tail of `held`."""
    if start > len(held):
        raise malformed(f"{what} from {start} on, but those from {len(held)} on are missing")
    known = min(len(held) - start, len(received))
    if held[start : start + known] != received[:known]:
        raise _contradiction(what)
    return known


def _whole_text(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise malformed("text that overlaps held text within a character") from error


def _contradiction(what: str) -> ChatLoopError:
    return ChatLoopError("internal", f"the router repeated {what} with another content")
