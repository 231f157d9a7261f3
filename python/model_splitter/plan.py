"""Where to cut: contiguous layer ranges whose heaviest compute process is as light as possible."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable

from model_splitter.errors import SplitError


# Every token passes the layers, only generated ones the head. Where the cut is made, as many tokens
# are taken for read as for generated.
HEAD_DIVISOR = 2


@dataclass(frozen=True)
class Plan:
    ranges: list[tuple[int, int]]  # [first, end) per partition
    costs: list[int]               # multiplications per token, per compute process
    sampler_is_own: bool           # the last cost is then the sampler's


def make_plan(layer_costs: list[int], head_cost: int, partitions: int, sampler: str) -> Plan:
    """sampler: `last` runs the head in the last partition's process, `own` in one of its own."""
    layers = len(layer_costs)
    if not 1 <= partitions <= layers:
        raise SplitError(f"--num-partitions {partitions}: the model has {layers} layers and each "
                         f"partition needs at least one; choose 1 to {layers}")
    burden = head_cost if sampler == "last" else 0
    ranges = _balanced(layer_costs, burden // HEAD_DIVISOR, partitions)
    costs = [sum(layer_costs[first:end]) for first, end in ranges]
    costs[-1] += burden
    if sampler == "own":
        costs.append(head_cost)
    return Plan(ranges, costs, sampler == "own")


def _balanced(costs: list[int], extra: int, partitions: int) -> list[tuple[int, int]]:
    """The lightest heaviest part; among those cuts the most even one. `extra` burdens the last."""
    heaviest = _best_cut(costs, extra, partitions, lambda so_far, load: max(so_far, load))[0]
    over = sum(costs) + extra + 1  # a part over the bound costs more than any even cut

    def unevenness(so_far: int, load: int) -> int:
        return so_far + load * load + (over * over * partitions if load > heaviest else 0)

    cuts = (0, *_best_cut(costs, extra, partitions, unevenness)[1])
    return list(zip(cuts[:-1], cuts[1:]))


def _best_cut(costs: list[int], extra: int, partitions: int,
              join: Callable[[int, int], int]) -> tuple[int, tuple[int, ...]]:
    """(least score, ends of the parts); join(score so far, load of the next part) -> score."""
    layers = len(costs)
    before = [0, *itertools.accumulate(costs)]
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # layers placed -> score, ends
    for part in range(partitions):
        is_last = part == partitions - 1
        ends = [layers] if is_last else range(part + 1, layers - partitions + part + 2)
        burden = extra if is_last else 0
        best = {end: min((join(score, before[end] - before[first] + burden), (*placed, end))
                         for first, (score, placed) in best.items() if first < end)
                for end in ends}
    return best[layers]
