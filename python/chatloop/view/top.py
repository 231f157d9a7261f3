"""chatloop top: the cluster in a terminal, drawn anew every interval."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..client import Client
from ..errors import ChatLoopError
from .stages import StageRow, Status, as_json, header, stage_rows

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

STATE_STYLES = {"ready": "green", "loading": "yellow", "draining": "yellow"}
EVENTS_SHOWN = 5
REQUESTS_SHOWN = 12
WIDE_COLUMNS = 100


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    top = commands.add_parser("top", parents=[common], help="watch the stages at work")
    top.set_defaults(run=run)
    top.add_argument("--interval", type=_seconds, default=1.0, help="seconds between two pictures")
    top.add_argument("--once", action="store_true", help="one picture, of one interval, and end")
    top.add_argument("--requests", action="store_true", help="a line for each request, too")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must lie in 0.1..3600")
    return value


def run(client: Client, options: argparse.Namespace) -> None:
    before = client.status()
    time.sleep(options.interval)
    if options.once or options.json:
        _once(client, options, before)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            try:
                now = client.status()
            except ChatLoopError as error:
                live.update(_trouble(error), refresh=True)
            else:
                live.update(picture(now, before, requests=options.requests), refresh=True)
                before = now
            time.sleep(options.interval)


def _once(client: Client, options: argparse.Namespace, before: Status) -> None:
    now = client.status()
    if options.json:
        print(json.dumps(as_json(now, before)), flush=True)
        return
    make_console().print(picture(now, before, requests=options.requests))


def make_console() -> Console:
    """Plain and wide where no terminal says how wide it is."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)


def picture(now: Status, before: Status | None, *, requests: bool = False) -> RenderableType:
    from rich.console import Group

    parts = [_header_text(header(now, before)), StageTable(stage_rows(now, before))]
    if requests:
        parts.append(_request_table(now["requests"]))
    if now["events"]:
        parts.append(_events(now["events"]))
    return Group(*parts)


def _trouble(error: ChatLoopError) -> RenderableType:
    from rich.text import Text

    return Text(f"chatloop top: {error}", style="bold red")


def _header_text(head: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    text = Text()
    text.append(printable(head["router"]), style="bold")
    text.append(f"  {printable(head['model'])}  ")
    ready = head["ready"]
    text.append("ready" if ready else "no route", style="bold green" if ready else "bold red")
    text.append(f"  up {duration(head['uptime_s'])}\n")
    if head["no_route"]:
        text.append(f"{printable(head['no_route'])}\n", style="bold red")
    text.append(
        f"{head['running']} running, {head['waiting']} waiting   "
        f"{number(head['tokens_per_s'])} tokens/s\n"
        f"first token {number(head['time_to_first_token_p50_ms'])} / "
        f"{number(head['time_to_first_token_p99_ms'])} ms, "
        f"next {number(head['inter_token_p50_ms'])} / {number(head['inter_token_p99_ms'])} ms "
        "(P50 / P99)\n"
    )
    lost = head["routes_lost"] or head["workers_lost"]
    text.append(
        f"{head['requests']} requests, {head['errors']} errors, {head['preemptions']} preemptions, "
    )
    text.append(f"{head['routes_up']} routes up, {head['routes_lost']} lost, "
                f"{head['workers_lost']} workers lost", style="yellow" if lost else "")
    return text


class StageTable:
    """All columns where there is room, else those that an operator looks at first."""

    def __init__(self, rows: list[StageRow]) -> None:
        self._rows = rows

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield self._table(narrow=options.max_width < WIDE_COLUMNS)

    def _table(self, *, narrow: bool) -> Table:
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("stage", "state", "layers"):
            table.add_column(name, no_wrap=True)
        figures = [_figures(row) for row in self._rows]
        names = [name for name in _FIGURES if not (narrow and name in _LEFT_OUT_WHERE_NARROW)]
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for row, values in zip(self._rows, figures, strict=True):
            table.add_row(*_who(row), *(values[name] for name in names))
        return table


_FIGURES = ("queue", "in flight", "tokens/s", "step P50", "P99 ms", "wait", "bubble", "CPU",
            "memory", "KV")
_LEFT_OUT_WHERE_NARROW = ("in flight", "wait", "CPU")


def _who(row: StageRow) -> tuple[RenderableType, RenderableType, RenderableType]:
    from rich.text import Text

    layers = "head" if row.layers is None else f"{row.layers[0]}-{row.layers[1]}"
    return (printable(row.worker), Text(row.state, style=STATE_STYLES.get(row.state, "red")),
            layers)


def _figures(row: StageRow) -> dict[str, str]:
    used = None if not row.kv_blocks else (row.kv_used or 0) / row.kv_blocks
    return {
        "queue": str(row.queue), "in flight": str(row.in_flight),
        "tokens/s": number(row.rows_per_s), "step P50": number(row.step_p50_ms),
        "P99 ms": number(row.step_p99_ms), "wait": share(row.wait_share),
        "bubble": share(row.bubble_share),
        "CPU": "-" if row.cpu_percent is None else f"{row.cpu_percent:.0f}%",
        "memory": f"{row.memory_bytes / 2**20:.0f} MiB", "KV": share(used),
    }


def _request_table(requests: list[Mapping[str, Any]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("request", no_wrap=True, max_width=40)
    table.add_column("state", no_wrap=True)
    for name in ("prompt", "answer", "age", "route"):
        table.add_column(name, justify="right", no_wrap=True)
    for request in requests[:REQUESTS_SHOWN]:
        table.add_row(printable(request["id"]), request["state"], str(request["prompt_tokens"]),
                      str(request["completion_tokens"]), duration(request["age_us"] / 1e6),
                      str(request["generation"] or "-"))
    if len(requests) > REQUESTS_SHOWN:
        table.add_row(f"and {len(requests) - REQUESTS_SHOWN} more")
    return table


def _events(events: list[Mapping[str, Any]]) -> RenderableType:
    from rich.text import Text

    text = Text()
    for event in events[-EVENTS_SHOWN:]:
        text.append(f"\n{duration(event['age_us'] / 1e6):>8} ago  {printable(event['text'])}",
                    style="yellow" if event["warning"] else "dim")
    return text


def printable(text: str) -> str:
    """Names and ids are other people's: no control character of theirs reaches the terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"
