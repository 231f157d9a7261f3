"""The one exception of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .results import Progress

# Codes that the client adds to those of core/result.hpp, which come from the router.
UNREACHABLE = "unreachable"  # no router answers at the endpoint; retryable
TIMEOUT = "timeout"  # the router lives, the answer did not come in timeout_s; retryable
CLOSED = "closed"  # the client was closed, or belongs to the process before a fork

_QUOTED_MAX = 256  # characters of a router's message in a text


class ChatLoopError(Exception):
    """A request, or a message to the router, that did not succeed.

    code: a name of core/result.hpp ("queue_full", ...), or "unreachable", "timeout", "closed".
    message: one line, the cause.
    retryable: the same request may succeed when it is sent again.
    committed: tokens of the answer that were final when it failed.
    retry_after_ms: when it pays to ask again; None: not known.
    progress: what the client held of the answer then; `resume` continues it. None: nothing.
    """

    def __init__(
        self,
        code: str,
        message: str,
        retryable: bool = False,
        committed: int = 0,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(code, message, retryable, committed, retry_after_ms)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.committed = committed
        self.retry_after_ms = retry_after_ms
        self.progress: Progress | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class MissingError(ChatLoopError):
    """Something before a message did not come: it was lost with a connection."""

    def __init__(self, what: str) -> None:
        super().__init__("malformed", f"the router sent {what}")


def closed() -> ChatLoopError:
    return ChatLoopError(CLOSED, "the client was closed; make another one")


def unreachable(endpoint: str, why: str) -> ChatLoopError:
    text = f"{endpoint}: {why}; check that one runs, and that this is its front"
    return ChatLoopError(UNREACHABLE, text, retryable=True)


def duplicate(request_id: str) -> ChatLoopError:
    return ChatLoopError("duplicate_id", f"a request {request_id!r} is running on this client")


def no_answer(endpoint: str, question: str, timeout_s: float) -> ChatLoopError:
    text = f"{endpoint}: no answer to {question} within {timeout_s:g} s"
    return ChatLoopError(TIMEOUT, text, retryable=True)


def malformed(what: str) -> ChatLoopError:
    """The router sent bytes that docs/protocol.md does not allow."""
    return ChatLoopError("malformed", f"the router sent {what[:_QUOTED_MAX]}")
