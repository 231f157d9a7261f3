"""What sched_bench.py's medians are held against."""

from __future__ import annotations

from dataclasses import dataclass

from rows import HOSTED_STAGES
from sched_cases import (AGAIN_ROW, ALONE_ROW, AMID_ROW, BEFORE_ROW, DURING_ROW, FIRST_ROW,
                         KERNELS, KINDS, LLAMA, RATE_ROW, TTFT_ROWS)
from targets import Ratio, Results, Verdict, median

STALL_MS = 60.0  # between two tokens, whatever it was before


@dataclass(frozen=True)
class Stall:
    """The tail between tokens while something else is read: under the larger of twice what it was
    before and STALL_MS."""

    what: str
    engine: str

    def verdict(self, results: Results) -> Verdict | None:
        before = median(results, BEFORE_ROW, self.engine)
        during = median(results, DURING_ROW, self.engine)
        if before is None or during is None:
            return None
        wanted = round(max(2 * before, STALL_MS), 1)
        return Verdict(self.what, f"{self.engine} {during:.1f}", f"before {before:.1f}", during,
                       wanted, during < wanted, " ms")


def targets() -> list[Ratio | Stall]:
    found: list[Ratio | Stall] = []
    for kind in KINDS:
        found.append(Ratio(RATE_ROW, [(RATE_ROW, kind)], [(RATE_ROW, LLAMA)], 4.0))
        found += [Ratio(row, [(row, kind)], [(row, LLAMA)], 0.25, at_most=True)
                  for row in TTFT_ROWS]
        found.append(Ratio(f"{RATE_ROW}, of the kernels'", [(RATE_ROW, kind)],
                           [(RATE_ROW, KERNELS)], 0.85))
    for kind in KINDS:
        found.append(Stall("P99 between tokens amid a long prompt", kind))
        found.append(Ratio("prefill amid streams, of alone", [(AMID_ROW, kind)],
                           [(ALONE_ROW, kind)], 0.6))
    found.append(Ratio("TTFT with a known prefix, of the first", [(AGAIN_ROW, HOSTED_STAGES)],
                       [(FIRST_ROW, HOSTED_STAGES)], 0.15, at_most=True))
    return found


def verdicts(results: Results) -> list[Verdict]:
    """Of the targets whose sides were measured."""
    return [verdict for target in targets()
            if (verdict := target.verdict(results)) is not None]
