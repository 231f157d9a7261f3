"""chatloop trace REQUEST_ID: where the time of one request went, as a waterfall."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from ..client import Client
from ..errors import ChatLoopError
from .top import printable

NAME_WIDTH, BAR_MIN, BAR_MAX = 24, 20, 100
SHADES = {"queue": "░", "tokenization": "▒"}


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    trace = commands.add_parser("trace", parents=[common], help="where a request's time went")
    trace.set_defaults(run=run)
    trace.add_argument("request_id", help="as the client chose it; of the last 256 that ended")


def run(client: Client, options: argparse.Namespace) -> None:
    trace = client.trace(options.request_id)
    if trace is None:
        raise ChatLoopError(
            "invalid_request",
            f"the router does not know request {printable(options.request_id)} (any more)")
    if options.json:
        print(json.dumps(trace), flush=True)
        return
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120
    print("\n".join(waterfall(trace, width)), flush=True)


def waterfall(trace: Mapping[str, Any], width: int) -> list[str]:
    """One line a span: its name, its bar, its time; below a phase what each hop did in it."""
    spans = trace["spans"]
    root = spans[0]
    total_us = max(1, root[4] - root[3])
    bar = min(BAR_MAX, max(BAR_MIN, width - NAME_WIDTH - 42))
    lines = [f"trace {trace['trace_id']}  {_attributes(root[5])}"]
    for name, _, parent, start_us, end_us, attributes in spans:
        depth = 0 if parent == 0 else 1 if parent == root[1] else 2
        label = "  " * depth + printable(name)
        first = min(bar - 1, start_us * bar // total_us)
        last = max(first + 1, -(-end_us * bar // total_us))
        shade = SHADES.get(name, "█" if depth < 2 else "▆")
        drawn = " " * first + shade * (min(bar, last) - first)
        took_ms = (end_us - start_us) / 1e3
        note = _hop_note(attributes) if depth == 2 else ""
        lines.append(f"{label:{NAME_WIDTH}.{NAME_WIDTH}} {drawn:{bar}} {took_ms:10.1f} ms{note}")
    return lines


def _hop_note(attributes: Mapping[str, Any]) -> str:
    busy_ms, queue_ms = attributes["busy_us"] / 1e3, attributes["queue_us"] / 1e3
    return f"  {busy_ms:.1f} busy, {queue_ms:.1f} queued, {attributes['frames']} frames"


def _attributes(attributes: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={printable(str(value))}" for name, value in attributes.items())
