"""The command: its options, its runs, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..client import Client
from ..errors import ChatLoopError
from .generator import Peer, closed_loop, open_loop, peers
from .metrics import LIMITS, PERCENTS, Outcome, details, summary
from .workload import LENGTHS_HELP, Lengths, Workload, read_dataset

_TITLES = {
    "ttft": "time to first token",
    "itl": "time between tokens",
    "tpot": "time per token after it",
    "e2el": "end to end",
}


def add_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Below the subparsers of `chatloop`."""
    bench = commands.add_parser("bench", parents=[common], help="measure under load")
    bench.set_defaults(run=run)
    load = bench.add_mutually_exclusive_group()
    load.add_argument("--concurrency", type=_numbers(int), default=[1], metavar="N[,N...]",
                      help="closed loop: so many requests at any time; a run for each")
    load.add_argument("--request-rate", type=_numbers(float), metavar="R[,R...]",
                      help="open loop: so many arrive in a second, as a Poisson process")
    bench.add_argument("--num-prompts", type=_whole(1), default=100,
                       help="of each run; default 100")
    bench.add_argument("--num-warmups", type=_whole(0), default=4, help="before them; default 4")
    bench.add_argument("--clients", type=_whole(1), default=1,
                       help="links that the requests are spread over: the router shares fairly "
                            "among clients; default 1")
    for name, what in (("--input-len", "of the prompts"), ("--output-len", "of the answers")):
        bench.add_argument(name, type=_parsed(Lengths.parse), default=Lengths("fixed", (128,)),
                           help=f"{what}, {LENGTHS_HELP}; default 128")
    bench.add_argument("--prefix-len", type=_whole(0), default=0,
                       help="tokens that all prompts of a run begin with, before --input-len")
    bench.add_argument("--vocab-size", type=_whole(1), default=32000,
                       help="prompts are random ids below it; default 32000")
    bench.add_argument("--dataset", type=Path, metavar="FILE",
                       help='prompts from lines of JSON with "prompt" and other parameters')
    bench.add_argument("--stop-at-eos", dest="ignore_eos", action="store_false",
                       help="answers may end before --output-len")
    bench.add_argument("--temperature", type=float, help="0, the default, is greedy")
    bench.add_argument("--seed", type=int, default=0, help="of lengths, prompts and arrivals")
    bench.add_argument("--goodput", type=_parsed(_limit), nargs="+", metavar="NAME:MS",
                       help="requests within these limits count: " + ", ".join(LIMITS))
    bench.add_argument("--detailed", action="store_true", help="each request's times in --json")


def run(client: Client, options: argparse.Namespace) -> None:
    """With --json a line of JSON for each run, in the names of vLLM's benchmark."""
    model = client.status()["model"]
    dataset = read_dataset(options.dataset) if options.dataset else []
    parameters = {"temperature": options.temperature, "ignore_eos": options.ignore_eos or None}

    def workload(count: int) -> Workload:
        return Workload(count, options.input_len, options.output_len, options.vocab_size,
                        options.prefix_len, options.seed, dataset, parameters)

    limits = dict(options.goodput or [])
    loads = options.request_rate or options.concurrency
    with peers(options.endpoint, options.clients, options.connect_timeout) as clients:
        if options.num_warmups:
            closed_loop(clients, workload(options.num_warmups).requests(len(loads)),
                        options.num_warmups, options.timeout)
        for i, load in enumerate(loads):
            before_s = time.process_time()
            outcomes = _one_run(clients, workload(options.num_prompts), i, load, options)
            cpu_s = time.process_time() - before_s
            result = _about(model, load, options) | summary(outcomes, limits)
            tokens = sum(outcome.output_tokens for outcome in outcomes)
            result["client_cpu_us_per_token"] = 1e6 * cpu_s / max(tokens, 1)
            if options.json:
                more = details(outcomes) if options.detailed else {}
                print(json.dumps(result | more), flush=True)
            else:
                _print(result)
            _complain(outcomes)


def _one_run(
    clients: list[Peer], workload: Workload, i: int, load: float, options: argparse.Namespace
) -> list[Outcome]:
    requests = workload.requests(i)
    if options.request_rate:
        return open_loop(clients, requests, workload.arrivals_s(load, i), options.timeout)
    return closed_loop(clients, requests, int(load), options.timeout)


def _about(model: str, load: float, options: argparse.Namespace) -> dict[str, Any]:
    is_open = bool(options.request_rate)
    return {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": "chatloop",
        "model_id": model,
        "num_prompts": options.num_prompts,
        "request_rate": load if is_open else "inf",
        "burstiness": 1.0,
        "max_concurrency": None if is_open else int(load),
        "seed": options.seed,
    }


def _complain(outcomes: list[Outcome]) -> None:
    """One line for what failed; raises when nothing succeeded."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors and len(errors) == len(outcomes):
        code, _, text = errors[0].partition(": ")
        raise ChatLoopError(code, f"{text} (no request succeeded)")
    if errors:
        print(f"chatloop: {len(errors)} requests failed, the first by {errors[0]}",
              file=sys.stderr)


def _print(result: dict[str, Any]) -> None:
    load = (f"{result['request_rate']:g} requests/s" if result["max_concurrency"] is None
            else f"concurrency {result['max_concurrency']}")
    goodput = result["request_goodput"]
    print(f"{load}: {result['completed']} requests, {result['failed']} failed, "
          f"{result['duration']:.2f} s")
    print(f"  {result['request_throughput']:.2f} requests/s, "
          f"{result['output_throughput']:.1f} output tokens/s, "
          f"{result['total_token_throughput']:.1f} tokens/s with the prompts"
          + ("" if goodput is None else f", goodput {goodput:.2f} requests/s"))
    columns = {"mean": "mean", "median": "median", **{f"P{p}": f"p{p}" for p in PERCENTS}}
    print(f"  {'ms':<24}" + "".join(f"{title:>10}" for title in columns))
    for name, title in _TITLES.items():
        cells = (result[f"{column}_{name}_ms"] for column in columns.values())
        print(f"  {title:<24}" + "".join(f"{cell:10.1f}" for cell in cells))
    print(f"  the client took {result['client_cpu_us_per_token']:.1f} us of CPU per token",
          flush=True)


# ---- options ----


def _parsed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse shows the text of this error only."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> list[Any]:
        numbers = [kind(word) for word in text.split(",")]
        if not all(0 < number < 1e9 for number in numbers):
            raise ValueError(f"{text!r}: positive numbers are wanted")
        return numbers

    return _parsed(parse)


def _whole(least: int) -> Callable[[str], Any]:
    def parse(text: str) -> int:
        if int(text) < least:
            raise ValueError(f"{text}: at least {least}")
        return int(text)

    return _parsed(parse)


def _limit(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    if name not in LIMITS:
        raise ValueError(f"{text!r}: one of {', '.join(LIMITS)}, a colon, and milliseconds")
    return name, float(limit)
