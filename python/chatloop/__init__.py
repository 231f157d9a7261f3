"""ChatLoop's Python clients, with and without asyncio. See docs/protocol.md, "Client front"."""

from .async_client import AsyncClient
from .async_stream import AsyncStream
from .client import DEFAULT_ENDPOINT, Client
from .errors import ChatLoopError
from .results import (
    Choice,
    ChoiceProgress,
    Durations,
    Generation,
    Piece,
    Pong,
    Progress,
    TokenLogprob,
    Usage,
)
from .stream import Stream

__all__ = [
    "DEFAULT_ENDPOINT",
    "AsyncClient",
    "AsyncStream",
    "ChatLoopError",
    "Choice",
    "ChoiceProgress",
    "Client",
    "Durations",
    "Generation",
    "Piece",
    "Pong",
    "Progress",
    "Stream",
    "TokenLogprob",
    "Usage",
]
