"""What http_bench.py's medians are held against."""

from __future__ import annotations

from dataclasses import dataclass

from http_cases import (ALONE_ROW, BETWEEN_ROWS, CALM, CPUD_ROW, CROWD, DECODING, FREED_ROW,
                        GAP_ROW, HTTP, ONE_CPUD, OTHERS_ROW, OWN_ROUTER, RATE_ROW, TTFT_ROWS,
                        TWO_CPUDS, VANISHED, ZEROMQ)
from sched_cases import LLAMA
from targets import Bound, Ratio, Results, Verdict, median

TTFT_MS = 1.0  # that HTTP may add


@dataclass(frozen=True)
class Added:
    """By HTTP to the time to the first token."""

    row: str

    def verdict(self, results: Results) -> Verdict | None:
        ours, anchor = (median(results, self.row, name) for name in (OWN_ROUTER, ZEROMQ))
        if ours is None or anchor is None:
            return None
        return Verdict("added to one request's TTFT", f"{OWN_ROUTER} {ours:.2f}",
                       f"{ZEROMQ} {anchor:.2f}", ours - anchor, TTFT_MS, ours - anchor < TTFT_MS,
                       " ms")


def targets() -> list[Ratio | Added | Bound]:
    found: list[Ratio | Added | Bound] = [
        Ratio(RATE_ROW, [(RATE_ROW, HTTP)], [(RATE_ROW, LLAMA)], 4.0)]
    found += [Ratio(row, [(row, HTTP)], [(row, LLAMA)], 1.0, at_most=True)
              for row in (*TTFT_ROWS, list(BETWEEN_ROWS)[-1])]
    found += [Added(ALONE_ROW),
              Ratio(RATE_ROW, [(RATE_ROW, OWN_ROUTER)], [(RATE_ROW, ZEROMQ)], 0.98)]
    found += [Ratio(OTHERS_ROW, [(OTHERS_ROW, crowd)], [(OTHERS_ROW, calm)], 1.1, at_most=True)
              for crowd, calm in ((CROWD, CALM), (VANISHED, DECODING))]
    return [*found, Bound("clients that vanish: freed", FREED_ROW, 1000.0, " ms"),
            Bound("the router's loop amid 4 MiB prompts", GAP_ROW, 60.0, " ms"),
            Ratio("two cpuds", [(CPUD_ROW, TWO_CPUDS)], [(CPUD_ROW, ONE_CPUD)], 1.8)]


def verdicts(results: Results) -> list[Verdict]:
    """Of the targets whose sides were measured."""
    return [verdict for target in targets()
            if (verdict := target.verdict(results)) is not None]
