"""Rates from the times at which tokens arrived: for each sequence its times in seconds, from the
moment in which the first request was sent."""

from __future__ import annotations

from collections.abc import Sequence

Arrivals = Sequence[Sequence[float]]


def tokens_in(arrivals: Arrivals) -> int:
    return sum(len(times) for times in arrivals)


def end_of(arrivals: Arrivals) -> float:
    return max(times[-1] for times in arrivals)


def whole_rate(arrivals: Arrivals) -> float:
    """Generated tokens over the whole time, prompts included."""
    return tokens_in(arrivals) / end_of(arrivals)


def decode_rate(arrivals: Arrivals, one_token: Arrivals) -> float:
    """Without the prompts: `one_token` is the same load with one token for each sequence, so the
    difference is what the other tokens cost. A scheduler that decodes while it still reads prompts
    has no time in which it does one of them only."""
    return ((tokens_in(arrivals) - tokens_in(one_token))
            / (end_of(arrivals) - end_of(one_token)))


def window_rate(arrivals: Arrivals) -> float | None:
    """While all sequences decode: from the last first token to the first last one. None when that
    is less than a quarter of the tokens, which says nothing."""
    start = max(times[0] for times in arrivals)
    end = min(times[-1] for times in arrivals)
    tokens = sum(start < time <= end for times in arrivals for time in times)
    if end <= start or tokens < tokens_in(arrivals) / 4:
        return None
    return tokens / (end - start)
