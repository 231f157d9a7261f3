"""What the measured medians are held against: ratios to the peers, to the roofline, and bounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rows import (BUS_ROW, DECODE_ROW, DEEP_ROW, HOSTED_STAGES, IDLE_ROW, OVER_ROW, PREFILL_ROW,
                  REPLICAS, SEPARATE_STAGES, TWO_STAGES)

Results = Mapping[str, Mapping[str, Sequence[float]]]  # row -> engine -> a value per repetition
Reference = tuple[str, str]  # row, engine


@dataclass(frozen=True)
class Verdict:
    what: str
    ours: str  # which engine, and its median
    anchor: str
    found: float
    wanted: float
    is_met: bool
    unit: str = "x"
    at_most: bool = False  # of a ratio; other units are bounds anyway

    def line(self) -> str:
        sign = "<=" if self.unit != "x" or self.at_most else ">="
        return (f"{self.what:<58} {self.ours:<34} {self.anchor:<34} {self.found:7.2f}{self.unit}"
                f"  {sign} {self.wanted:g}{self.unit:<4} {'met' if self.is_met else 'MISSED'}")


def median(results: Results, row: str, engine: str) -> float | None:
    values = results.get(row, {}).get(engine)
    return statistics.median(values) if values else None


def best(results: Results, references: Iterable[Reference]) -> tuple[float, str] | None:
    """The highest median of those that were measured, and whose it is."""
    found = [(value, f"{engine} {value:.1f}") for row, engine in references
             if (value := median(results, row, engine)) is not None]
    return max(found, default=None)


@dataclass(frozen=True)
class Ratio:
    what: str
    ours: Sequence[Reference]
    anchors: Sequence[Reference]
    wanted: float
    at_most: bool = False

    def verdict(self, results: Results) -> Verdict | None:
        """None when one side was not measured."""
        ours, anchor = best(results, self.ours), best(results, self.anchors)
        if ours is None or anchor is None:
            return None
        ratio = ours[0] / anchor[0]
        is_met = ratio <= self.wanted if self.at_most else ratio >= self.wanted
        return Verdict(self.what, ours[1], anchor[1], ratio, self.wanted, is_met,
                       at_most=self.at_most)


@dataclass(frozen=True)
class Roofline:
    """The share of the read bandwidth that decoding reaches, in the pages of that engine."""

    prefix: str
    engine: str
    pages: str
    wanted: float

    def verdict(self, results: Results) -> Verdict | None:
        rate = median(results, self.prefix + DECODE_ROW, self.engine)
        megabytes = median(results, self.prefix + "bytes a token, MB", self.engine)
        bandwidth = median(results, f"roofline {self.pages}, GB/s", "one core")
        if rate is None or megabytes is None or bandwidth is None:
            return None
        share = rate * megabytes / 1000 / bandwidth
        return Verdict(f"{self.prefix}{DECODE_ROW} of the {self.pages} roofline",
                       f"{self.engine} {rate * megabytes / 1000:.1f} GB/s",
                       f"{bandwidth:.1f} GB/s, {megabytes:.1f} MB a token",
                       share, self.wanted, share >= self.wanted)


@dataclass(frozen=True)
class Bound:
    """Every engine of a row that `counts`, at most so much."""

    what: str
    row: str
    wanted: float
    unit: str
    counts: Callable[[str], bool] = lambda _: True

    def verdict(self, results: Results) -> Verdict | None:
        values = [(value, engine) for engine in results.get(self.row, {})
                  if self.counts(engine) and (value := median(results, self.row, engine))
                  is not None]
        if not values:
            return None
        worst, engine = max(values)
        return Verdict(self.what, f"{engine} {worst:.2f}", "", worst, self.wanted,
                       worst <= self.wanted, self.unit)


@dataclass(frozen=True)
class Loss:
    """How much slower than cpud, in percent."""

    what: str
    row: str
    engine: str
    wanted: float

    def verdict(self, results: Results) -> Verdict | None:
        ours, base = median(results, self.row, self.engine), median(results, self.row, "cpud")
        if ours is None or base is None:
            return None
        loss = 100 * (1 - ours / base)
        return Verdict(self.what, f"{self.engine} {ours:.1f}", f"cpud {base:.1f}", loss,
                       self.wanted, loss < self.wanted, "%")


Target = Ratio | Roofline | Bound | Loss

IK = ("ik", "ik thp")
PEERS = ("llama", *IK)


def at(row: str, engines: Iterable[str]) -> list[Reference]:
    return [(row, engine) for engine in engines]


def threads(names: Iterable[str], count: int, suffix: str = "") -> list[str]:
    return [f"{name} -t {count}{suffix}" for name in names]


def targets(suffixes: Mapping[str, str]) -> list[Target]:
    """`suffixes`: of the page modes of our engine, and the pages of their roofline."""
    found: list[Target] = []
    for suffix, pages in suffixes.items():
        cpud = [f"cpud{suffix}"]
        llama_1, ik_1 = threads(["llama"], 1), threads(IK, 1)

        def ratio(what: str, row: str, ours: list[str], peers: list[str], wanted: float) -> None:
            found.append(Ratio(what + suffix, at(row, ours), at(row, peers), wanted))

        ratio("decode, 1 stream", DECODE_ROW, cpud, llama_1, 2.0)
        ratio("decode, 1 stream", DECODE_ROW, cpud, ik_1, 1.7)
        found.append(Roofline("", *cpud, pages, 0.8))
        ratio("decode, 1 stream, against two threads", DECODE_ROW, cpud, threads(["llama"], 2),
              1.25)
        ratio("decode at 1024", DEEP_ROW, cpud, llama_1 + ik_1, 1.6)
        for stages, wanted in ((HOSTED_STAGES, 0.92), (SEPARATE_STAGES, 0.85)):
            ratio("1 stream over " + stages, DECODE_ROW, [stages + suffix], cpud, wanted)
        ratio("prefill 512", PREFILL_ROW, cpud, llama_1, 5.0)
        ratio("prefill 512 (stretch: 2.5)", PREFILL_ROW, cpud, ik_1, 1.7)
        both = [kind + suffix for kind in (TWO_STAGES, HOSTED_STAGES, REPLICAS)]
        ratio("batch 32, both cores", "batch 32", both, threads(["llama"], 2), 4.5)
        any_quant = [reference for kind in ("", "Q4_0: ", "Q8_0: ") for n in (16, 32)
                     for reference in at(f"{kind}batch {n}", threads(PEERS, 2))]
        found.append(Ratio(f"batch 32 against any quantization at 16 or 32{suffix}",
                           at("batch 32", both), any_quant, 2.5))
        found.append(Roofline("1.5B: ", *cpud, pages, 0.85))
        for row, name, wanted in ((DECODE_ROW, ["llama"], 1.2), (PREFILL_ROW, ["llama"], 2.0),
                                  (PREFILL_ROW, IK, 1.5)):
            ratio(f"1.5B: {row}, against Q4_K_M", f"1.5B: {row}", cpud,
                  threads(name, 1, " Q4_K_M"), wanted)
    found += [Loss(f"bus: {n} stages on one core, 16 sequences", BUS_ROW, f"{n} stages", 3.0)
              for n in (2, 3)]
    found.append(Bound("idle CPU of a whole cluster", IDLE_ROW, 1.0, "%",
                       lambda engine: ":" not in engine))
    found.append(Bound("memory beyond weights and KV, a process", OVER_ROW, 64.0, " MiB"))
    return found


def verdicts(results: Results, suffixes: Mapping[str, str]) -> list[Verdict]:
    """Of the targets whose sides were measured."""
    return [verdict for target in targets(suffixes)
            if (verdict := target.verdict(results)) is not None]
