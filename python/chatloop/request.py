"""One request on its way: the router's messages go in, checked pieces and the end come out.

No socket and no clock, so that every order of messages can be tested.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from . import protocol
from .choice import ChoiceAnswer, contradiction, overlap
from .errors import TIMEOUT, ChatLoopError, MissingError, malformed
from .results import Durations, Generation, Piece, Progress, TokenLogprob, Usage

CHOICES_MAX = 16


def no_news() -> None:
    """What is called while nobody wants to be woken."""


class Request:
    """submitted --ACCEPTED--> running --PIECE...--> ended, by DONE or by an error.

    A message that repeats what is held is compared with it and dropped; one that contradicts it
    ends the request, because equal requests have equal answers, bit for bit. One before which
    something is missing makes it `lost`: the router is to be asked once more.
    """

    def __init__(self, request_id: str, parameters: dict[str, Any]) -> None:
        self.request_id = request_id
        self.pieces: deque[Piece] = deque()  # not yet taken by the caller
        self.error: ChatLoopError | None = None
        self.attempt = 0  # of the message sent last; 0 is SUBMIT
        self.on_news: Callable[[], None] = no_news  # after every change of the above
        self.abandoned = False  # nobody waits for it: it is not attempted again
        self.lost = False  # something of it did not come: a next attempt is due
        self.withdrawn = False  # CANCELled before ACCEPTED came: to be submitted anew
        self.sent_nonce = 0  # of the PING before its last message
        self._parameters = parameters
        self._accepted: protocol.Accepted | None = None
        self._resumes = False  # RESUME was sent, its ACCEPTED has not come
        self._done: protocol.Done | None = None
        self._prompt_logprobs: list[TokenLogprob | None] = []
        self._choices = [ChoiceAnswer(i) for i in range(_choice_count(parameters))]
        self._echo = b""

    @property
    def ended(self) -> bool:
        return self._done is not None or self.error is not None

    @property
    def accepted(self) -> bool:
        return self._accepted is not None

    @property
    def committed(self) -> int:
        """Tokens of all choices that are held."""
        return sum(len(choice.token_ids) for choice in self._choices)

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
            choices=[choice.progress for choice in self._choices],
            prompt_logprobs=list(self._prompt_logprobs),
            seed=self._accepted.seed,
            fingerprint=self._accepted.fingerprint,
        )

    def first_message(self) -> bytes:
        return protocol.submit(self.request_id, self._parameters)

    def next_attempt(self) -> bytes:
        """The message for a router that does not know this request."""
        progress = self.progress
        self.attempt += 1
        self.lost = False
        self._resumes = progress is not None
        return self.first_message() if progress is None else protocol.resume(progress)

    def restore(self, progress: Progress) -> bytes:
        """Takes over what an earlier stream held. Returns the message that continues it."""
        message = protocol.resume(progress)
        self.attempt = progress.attempt + 1
        for choice, held in zip(self._choices, progress.choices, strict=True):
            choice.restore(held)
        self._prompt_logprobs = list(progress.prompt_logprobs)
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
        except MissingError:
            if self._resumes:
                return  # of the attempt before, which goes on until RESUME arrives
            self.lost = True
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
            raise MissingError("a part of an answer before ACCEPTED")
        elif isinstance(message, protocol.PieceMessage):
            self._on_piece(message)
        elif isinstance(message, protocol.ChoiceDone):
            self._on_choice_done(message)
        else:
            self._on_prompt_piece(message)

    def _on_accepted(self, message: protocol.Accepted) -> None:
        self._resumes = False
        if self._accepted is not None:
            if message != self._accepted:
                raise contradiction("ACCEPTED")
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
        choice = self._choice(message.choice)
        echo_bytes = 0 if choice.index else len(self._echo)
        piece = choice.take(message, self._wants("logprobs"), echo_bytes)
        if piece.token_ids or piece.text:
            self.pieces.append(piece)

    def _on_choice_done(self, message: protocol.ChoiceDone) -> None:
        if len(self._choices) == 1:
            raise malformed("the end of a choice where there is but one")
        self._choice(message.choice).on_end(message)

    def _choice(self, index: int) -> ChoiceAnswer:
        if index >= len(self._choices):
            raise malformed(f"something of choice {index} of {len(self._choices)}")
        return self._choices[index]

    def _on_prompt_piece(self, message: protocol.PromptPiece) -> None:
        known = overlap(
            self._prompt_logprobs, message.index, message.entries, "prompt log-probabilities"
        )
        assert self._accepted is not None
        if message.index + len(message.entries) > len(self._accepted.prompt_ids):
            raise malformed("more log-probabilities of the prompt than it has ids")
        self._prompt_logprobs += message.entries[known:]

    def _on_done(self, message: protocol.Done) -> None:
        if message.finish_reason != "cancelled":  # which may come at any time
            if self._accepted is None:
                raise MissingError("DONE before ACCEPTED")
            complete = len(self._prompt_logprobs) == len(self._accepted.prompt_ids)
            if self._wants("prompt_logprobs") and not complete:
                raise MissingError("DONE before all log-probabilities of the prompt")
            if len(self._choices) > 1 and any(choice.end is None for choice in self._choices):
                raise MissingError("DONE before the end of each choice")
            if message.completion_tokens > self.committed:
                raise MissingError("DONE before all tokens")
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
        choices = [
            choice.result(
                b"" if choice.index else self._echo,
                self._wants("logprobs"),
                done.finish_reason,
                done.stop,
            )
            for choice in self._choices
        ]
        return Generation(
            request_id=self.request_id,
            text=choices[0].text,
            token_ids=choices[0].token_ids,
            logprobs=choices[0].logprobs,
            prompt_ids=accepted.prompt_ids,
            prompt_logprobs=self._prompt_logprobs if self._wants("prompt_logprobs") else None,
            finish_reason=choices[0].finish_reason,
            stop=choices[0].stop,
            usage=Usage(
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                total_tokens=done.prompt_tokens + done.completion_tokens,
            ),
            durations=Durations(done.queue_ms, done.prefill_ms, done.decode_ms),
            model=accepted.model,
            fingerprint=accepted.fingerprint,
            seed=accepted.seed,
            choices=choices,
        )


def _choice_count(parameters: dict[str, Any]) -> int:
    """The parameter n, if the router will accept it."""
    try:
        count = int(parameters.get("n") or 1)
    except (TypeError, ValueError, OverflowError):
        return 1
    return count if 1 <= count <= CHOICES_MAX else 1
