"""What came of a run, under the names of vLLM's `vllm bench serve`, so that its tools read it."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PERCENTS = (95, 99)
LIMITS = ("ttft", "tpot", "e2el")  # what a goodput may ask for, in milliseconds


@dataclass(slots=True)
class Outcome:
    """One request as its client saw it. Times are of one monotonic clock."""

    start_s: float  # sent, or due when the load has a timetable
    piece_s: list[float] = field(default_factory=list)  # of each piece with tokens
    prompt_tokens: int = 0
    output_tokens: int = 0
    end_s: float = 0.0
    error: str | None = None  # why it failed

    @property
    def ttft_s(self) -> float:
        """Time to first token; of an answer without any, to its end."""
        return (self.piece_s[0] if self.piece_s else self.end_s) - self.start_s

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: the gaps between pieces, which have a token each as a rule."""
        return [after - before for before, after in itertools.pairwise(self.piece_s)]

    @property
    def e2el_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; 0 when there is none."""
        after_first = self.output_tokens - 1
        return (self.e2el_s - self.ttft_s) / after_first if after_first > 0 else 0.0

    def is_good(self, limits_ms: Mapping[str, float]) -> bool:
        found = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2el": self.e2el_s}
        return all(1000 * found[name] <= limit for name, limit in limits_ms.items())


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between two values, as numpy's; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def summary(
    outcomes: Sequence[Outcome], limits_ms: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Without limits there is no goodput. Tokens of requests that failed do not count."""
    done = [outcome for outcome in outcomes if outcome.error is None]
    duration_s = max(o.end_s for o in outcomes) - min(o.start_s for o in outcomes)
    rate = 1.0 / duration_s if duration_s > 0.0 else 0.0
    total_input = sum(outcome.prompt_tokens for outcome in done)
    total_output = sum(outcome.output_tokens for outcome in done)
    good = sum(outcome.is_good(limits_ms or {}) for outcome in done)
    found: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": total_input,
        "total_output_tokens": total_output,
        "request_throughput": len(done) * rate,
        "request_goodput": good * rate if limits_ms else None,
        "output_throughput": total_output * rate,
        "total_token_throughput": (total_input + total_output) * rate,
    }
    seconds = {
        "ttft": [outcome.ttft_s for outcome in done],
        "tpot": [outcome.tpot_s for outcome in done if outcome.output_tokens > 1],
        "itl": [gap for outcome in done for gap in outcome.itl_s],
        "e2el": [outcome.e2el_s for outcome in done],
    }
    for name, values in seconds.items():
        found |= _statistics(name, [1000 * value for value in values])
    return found


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of each request, in their order; in seconds as vLLM has them."""
    return {
        "input_lens": [outcome.prompt_tokens for outcome in outcomes],
        "output_lens": [outcome.output_tokens for outcome in outcomes],
        "ttfts": [outcome.ttft_s for outcome in outcomes],
        "itls": [outcome.itl_s for outcome in outcomes],
        "latencies": [outcome.e2el_s for outcome in outcomes],
        "start_times": [outcome.start_s for outcome in outcomes],
        "errors": [outcome.error or "" for outcome in outcomes],
    }


def _statistics(name: str, values_ms: Sequence[float]) -> dict[str, float]:
    found = {
        f"mean_{name}_ms": statistics.fmean(values_ms) if values_ms else 0.0,
        f"median_{name}_ms": percentile(values_ms, 50),
        f"std_{name}_ms": statistics.pstdev(values_ms) if values_ms else 0.0,
    }
    return found | {f"p{p}_{name}_ms": percentile(values_ms, p) for p in PERCENTS}
