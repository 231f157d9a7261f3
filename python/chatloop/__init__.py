"""ChatLoop's Python client. The protocol is docs/protocol.md, "Client front"."""

from .client import DEFAULT_ENDPOINT, Client
from .errors import ChatLoopError
from .results import Durations, Generation, Piece, Pong, Progress, TokenLogprob, Usage
from .stream import Stream

__all__ = [
    "DEFAULT_ENDPOINT",
    "ChatLoopError",
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
