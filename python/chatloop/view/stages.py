"""Rows and figures out of STATUS, with rates from the difference of two of them. No terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STAGE, SAMPLER = 1, 2
Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StageRow:
    """One worker in one of its roles. Shares and percentages are of the time between the two
    STATUS, or since the start where there is one only. None: nothing to tell it from."""

    worker: str
    role: str  # "stage", "sampler"
    state: str  # "loading", "ready", "draining"
    layers: list[int] | None  # first, last
    queue: int  # frames in its hands
    in_flight: int  # frames on its route
    rows_per_s: float | None
    step_p50_ms: float | None  # computing one frame
    step_p99_ms: float | None
    wait_share: float | None  # of a frame's time at the worker: in its queue
    busy_share: float | None  # of the time in which its route had work
    bubble_share: float | None  # of that time, what no role of its process computed
    cpu_percent: float | None
    memory_bytes: int
    kv_used: int | None  # blocks
    kv_blocks: int | None
    loop_gap_ms: float


def stage_rows(now: Status, before: Status | None = None) -> list[StageRow]:
    """In the order of the layers, samplers last."""
    elapsed_us = now["uptime_us"] - (before["uptime_us"] if before else 0)
    earlier = {worker["name"]: worker for worker in before["workers"]} if before else {}
    rows = []
    for worker in now["workers"]:
        old = earlier.get(worker["name"], {})
        work = {entry["role"]: entry for entry in worker["work"]}
        old_work = {entry["role"]: entry for entry in old.get("work", ())}
        deltas = {role: _delta(entry, old_work.get(role)) for role, entry in work.items()}
        idle = _bubble(list(deltas.values()))
        for role in (STAGE, SAMPLER):
            if worker["roles"] & role:
                rows.append(_row(now, worker, old, role, deltas.get(role), idle, elapsed_us))
    return sorted(rows, key=lambda row: (row.layers is None, row.layers or [], row.worker))


def _row(
    now: Status,
    worker: Mapping[str, Any],
    old: Mapping[str, Any],
    role: int,
    delta: dict[str, Any] | None,
    bubble: float | None,
    elapsed_us: int,
) -> StageRow:
    route = _route_of(now, worker["name"])
    counters = route["counters"] if route and role == STAGE else {}
    first, end = worker["layers"]
    cpu_ms = worker["counters"]["cpu_ms"] - old.get("counters", {}).get("cpu_ms", 0)
    time_us = delta["busy_us"] + delta["queue_us"] if delta else 0
    return StageRow(
        worker=worker["name"],
        role="stage" if role == STAGE else "sampler",
        state=worker["state"],
        layers=[first, end - 1] if role == STAGE else None,
        queue=worker["frames_held"],
        in_flight=route["counters"].get("in_flight", 0) if route else 0,
        rows_per_s=delta["rows"] * 1e6 / elapsed_us if delta and elapsed_us > 0 else None,
        step_p50_ms=_ms(quantile(delta["step_s"], 0.5)) if delta else None,
        step_p99_ms=_ms(quantile(delta["step_s"], 0.99)) if delta else None,
        wait_share=delta["queue_us"] / time_us if delta and time_us > 0 else None,
        busy_share=delta["busy_us"] / delta["work_us"] if delta and delta["work_us"] > 0 else None,
        bubble_share=bubble,
        cpu_percent=100 * cpu_ms * 1e3 / elapsed_us if old and elapsed_us > 0 else None,
        memory_bytes=worker["counters"]["memory_bytes"],
        kv_used=counters.get("kv_held"),
        kv_blocks=counters.get("kv_blocks"),
        loop_gap_ms=worker["loop_gap_us"] / 1e3,
    )


def _route_of(status: Status, worker: str) -> Mapping[str, Any] | None:
    for route in reversed(status["routes"]):
        if any(hop["worker"] == worker for hop in route["hops"]):
            found: Mapping[str, Any] = route
            return found
    return None


def _delta(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was added since; all of it when the counters have begun anew (another router)."""
    if before is None or before["frames"] > now["frames"]:
        return dict(now)
    names = ("frames", "rows", "busy_us", "queue_us", "work_us")
    delta: dict[str, Any] = {name: now[name] - before[name] for name in names}
    delta["step_s"] = histogram_delta(now["step_s"], before["step_s"])
    return delta


def _bubble(deltas: Sequence[Mapping[str, Any]]) -> float | None:
    work_us = max((delta["work_us"] for delta in deltas), default=0)
    if work_us <= 0:
        return None
    busy_us: int = sum(delta["busy_us"] for delta in deltas)
    return min(1.0, max(0.0, 1.0 - busy_us / work_us))


def histogram_delta(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    if before is None or before["bounds"] != now["bounds"] or before["sum"] > now["sum"]:
        return dict(now)
    counts = [new - old for new, old in zip(now["counts"], before["counts"])]
    return {"bounds": now["bounds"], "counts": counts, "sum": now["sum"] - before["sum"]}


def quantile(histogram: Mapping[str, Any], part: float) -> float | None:
    """As Prometheus' histogram_quantile: linear within the bucket; None without values."""
    total = sum(histogram["counts"])
    if total == 0:
        return None
    rank, seen, low = part * total, 0, 0.0
    for bound, count in zip(histogram["bounds"], histogram["counts"]):
        if count and seen + count >= rank:
            return float(low + (bound - low) * (rank - seen) / count)
        seen += count
        low = bound
    return float(histogram["bounds"][-1])


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def header(now: Status, before: Status | None = None) -> dict[str, Any]:
    """The cluster in a few figures."""
    elapsed_us = now["uptime_us"] - (before["uptime_us"] if before else 0)
    tokens = now["counters"]["tokens_committed"]
    earlier = before["counters"]["tokens_committed"] if before else 0
    old = before["histograms"] if before else {}
    first = histogram_delta(now["histograms"]["time_to_first_token_ms"],
                            old.get("time_to_first_token_ms"))
    between = histogram_delta(now["histograms"]["inter_token_ms"], old.get("inter_token_ms"))
    return {
        "router": now["router"],
        "model": now["model"],
        "ready": now["ready"],
        "no_route": now.get("no_route", ""),
        "uptime_s": now["uptime_us"] / 1e6,
        "running": now["running"],
        "waiting": now["waiting"],
        "tokens_per_s": (tokens - earlier) * 1e6 / elapsed_us if elapsed_us > 0 else None,
        "time_to_first_token_p50_ms": quantile(first, 0.5),
        "time_to_first_token_p99_ms": quantile(first, 0.99),
        "inter_token_p50_ms": quantile(between, 0.5),
        "inter_token_p99_ms": quantile(between, 0.99),
        "requests": now["counters"]["requests"],
        "routes_up": sum(route["up"] for route in now["routes"]),
        "routes_lost": now["counters"]["routes_down"],
        "workers_lost": now["counters"]["workers_lost"],
        "preemptions": now["counters"]["preemptions"],
        "errors": sum(now["errors"].values()),
    }


def as_json(now: Status, before: Status | None = None) -> dict[str, Any]:
    """What `chatloop top --once --json` prints."""
    return {
        "header": header(now, before),
        "stages": [asdict(row) for row in stage_rows(now, before)],
        "requests": now["requests"],
        "events": now["events"],
    }
