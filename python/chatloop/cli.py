"""The command line: chatloop generate | bench | status | top | trace | ping."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .bench.command import add_command as add_bench
from .client import DEFAULT_ENDPOINT, Client
from .errors import UNREACHABLE, ChatLoopError
from .notice import RouteNotice
from .results import Generation
from .version import version_line
from .view import top, trace
from .view.stages import stage_rows

EXIT_ERROR = 1
EXIT_UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

# Options that are parameters of the request, by the parameter's name.
_SAMPLING = (
    ("max_tokens", int, "most tokens in the answer; default 256"),
    ("temperature", float, "0, the default, is greedy"),
    ("top_p", float, "nucleus sampling"),
    ("top_k", int, "0 is off"),
    ("min_p", float, "least probability, as a share of the likeliest token's"),
    ("typical_p", float, "locally typical sampling"),
    ("repetition_penalty", float, "of tokens in prompt and answer; 1 is off"),
    ("presence_penalty", float, "of tokens in the answer; 0 is off"),
    ("frequency_penalty", float, "the same, for each time"),
    ("seed", int, "of the sampling; a random one is printed by --json"),
    ("n", int, "answers to the prompt"),
    ("min_tokens", int, "least tokens in the answer"),
    ("priority", int, "the higher goes first; default 0"),
    ("deadline_ms", int, "end with an error when the answer is not there by then"),
    ("traceparent", str, "of the caller's trace (W3C Trace Context)"),
    ("model", str, "refuse to be served by another model"),
    ("logprobs", int, "log-probabilities of the tokens and of K rivals, in --json"),
    ("prompt_logprobs", int, "the same for the prompt"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 an error, 69 no router, 130 interrupted; argparse takes 2.

    SIGTERM raises SystemExit(143), so that it cancels the request as Ctrl-C does.
    """
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        with Client(
            options.endpoint.split(","),
            timeout_s=options.timeout,
            connect_timeout_s=options.connect_timeout,
        ) as client:
            options.run(client, options)
        return 0
    except ChatLoopError as error:
        _end_line()
        missing = error.code == UNREACHABLE
        cure = "; scripts/quickstart.sh --keep starts one on this machine" if missing else ""
        if error.retry_after_ms is not None:
            cure = f"; ask again in {error.retry_after_ms / 1000:g} s"
        print(f"chatloop: {top.printable(str(error))}{cure}", file=sys.stderr)
        return EXIT_UNREACHABLE if missing else EXIT_ERROR
    except KeyboardInterrupt:
        _end_line()
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as in `chatloop generate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--endpoint",
        default=DEFAULT_ENDPOINT,
        help="of the router, or of several, with commas; default: %(default)s",
    )
    common.add_argument("--timeout", type=float, default=600.0, help="seconds between two pieces")
    common.add_argument("--connect-timeout", type=float, default=5.0, help="seconds")
    common.add_argument("--json", action="store_true", help="print one JSON object")

    parser = argparse.ArgumentParser(prog="chatloop", description="Talk to a ChatLoop router.")
    parser.add_argument("--version", action="version", version=version_line("chatloop"))
    commands = parser.add_subparsers(required=True, metavar="command")

    generate = commands.add_parser("generate", parents=[common], help="continue or answer a prompt")
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", help="'-' reads it from standard input")
    generate.add_argument("--chat", action="store_true", help="the prompt is a user's message")
    generate.add_argument("--system", help="the system's message before it; implies --chat")
    for name, kind, text in _SAMPLING:
        generate.add_argument("--" + name.replace("_", "-"), type=kind, help=text)
    generate.add_argument("--stop", action="append", help="end before this text; may be repeated")
    generate.add_argument("--stop-token-ids", type=int, action="append", metavar="ID",
                          help="end before this token; may be repeated")
    generate.add_argument("--logit-bias", type=_bias, action="append", metavar="ID=BIAS",
                          help="is added to the logit of a token; may be repeated")
    form = generate.add_mutually_exclusive_group()
    form.add_argument("--json-schema", type=_file_text, metavar="FILE",
                      help="the answer is JSON of the schema in this file")
    form.add_argument("--regex", help="the whole answer is one that this expression matches")
    form.add_argument("--choice", action="append", metavar="TEXT",
                      help="the answer is one of these texts; may be repeated")
    generate.add_argument("--echo", action="store_true", help="print the prompt, too")
    generate.add_argument("--ignore-eos", action="store_true", help="go on to --max-tokens")
    generate.add_argument("--stats", action="store_true", help="a last line on standard error")

    add_bench(commands, common)

    status = commands.add_parser("status", parents=[common], help="the router and its workers")
    status.set_defaults(run=_status)
    top.add_command(commands, common)
    trace.add_command(commands, common)
    ping = commands.add_parser("ping", parents=[common], help="is the router there?")
    ping.set_defaults(run=_ping)
    return parser


def _generate(client: Client, options: argparse.Namespace) -> None:
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    parameters: dict[str, Any] = {name: getattr(options, name) for name, _, _ in _SAMPLING}
    parameters.update(stop=options.stop, stop_token_ids=options.stop_token_ids)
    parameters.update(logit_bias=dict(options.logit_bias) if options.logit_bias else None)
    parameters.update(json_schema=options.json_schema, regex=options.regex, choice=options.choice)
    parameters.update(echo=options.echo or None, ignore_eos=options.ignore_eos or None)
    if options.chat or options.system is not None:
        said = [options.system] if options.system is not None else []
        system = [{"role": "system", "content": text} for text in said]
        parameters["messages"] = [*system, {"role": "user", "content": prompt}]
    else:
        parameters["prompt"] = prompt

    started_s = time.monotonic()
    first_s: float | None = None
    first_tokens = 0  # tokens of the first piece: their time is not decoding time
    with RouteNotice(client) as notice, client.stream(**parameters) as stream:
        for piece in stream:
            notice.stop()
            if first_s is None and piece.token_ids:
                first_s, first_tokens = time.monotonic(), len(piece.token_ids)
            if not options.json and options.n in (None, 1):  # several would mix
                print(piece.text, end="", flush=True)
        result = stream.result
    ended_s = time.monotonic()
    _print_result(result, options.json)
    if options.stats:
        tokens = result.usage.completion_tokens - first_tokens
        decode_s = ended_s - (ended_s if first_s is None else first_s)
        wait_s = None if first_s is None else first_s - started_s
        print(_stats_line(result, wait_s, tokens, decode_s), file=sys.stderr)


def _print_result(result: Generation, as_json: bool) -> None:
    """What was not printed while it came."""
    if as_json:
        print(json.dumps(dataclasses.asdict(result)), flush=True)
        return
    several = result.choices if len(result.choices) > 1 else []
    for choice in several:
        print(f"--- choice {choice.index}, {choice.finish_reason}\n{choice.text}")
    print(end="" if several else "\n", flush=True)


def _file_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error}") from error


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    return int(token_id), float(bias)


def _stats_line(
    result: Generation, first_token_s: float | None, decoded: int, decode_s: float
) -> str:
    """Times as this client saw them; the rate counts the tokens after the first piece."""
    rate = f"{decoded / decode_s:.1f} tokens/s" if decoded and decode_s > 0.0 else "- tokens/s"
    first = "-" if first_token_s is None else f"{first_token_s * 1000:.0f} ms"
    return (
        f"{result.usage.prompt_tokens} prompt tokens, "
        f"{result.usage.completion_tokens} completion tokens, {rate}, "
        f"first token after {first}, {result.finish_reason}"
    )


def _status(client: Client, options: argparse.Namespace) -> None:
    info = client.status()
    if options.json:
        print(json.dumps(info))
        return
    rows = stage_rows(info) if info.get("workers") else []
    events = info.pop("events", [])
    requests = info.pop("requests", [])
    workers = info.pop("workers", [])
    routes, histograms = info.pop("routes", []), info.pop("histograms", {})
    if not info.get("no_route"):
        info.pop("no_route", None)
    for name, value in info.items():
        if isinstance(value, dict):
            _print_counters(f"{name:12}", value)
            continue
        shown = ("no", "yes")[value] if isinstance(value, bool) else value
        print(f"{name:12} {top.printable(str(shown))}")
    for worker in workers:
        print(f"worker       {_worker_line(worker)}")
        _print_counters("            ", worker.get("counters", {}))
    for route in routes:
        print(f"route        {_route_line(route)}")
        _print_counters("            ", route.get("counters", {}))
    for name, histogram in histograms.items():
        if sum(histogram["counts"]):
            print(f"{name:24} {_histogram_line(histogram)}")
    for request in requests:
        print(f"request      {top.printable(request['id'])}: {request['state']}, "
              f"{request['prompt_tokens']} + {request['completion_tokens']} tokens, "
              f"{top.duration(request['age_us'] / 1e6)}")
    if rows:
        print(flush=True)
        top.make_console().print(top.StageTable(rows))
    for event in events:
        print(f"{top.duration(event['age_us'] / 1e6):>8} ago  {top.printable(event['text'])}")


def _print_counters(label: str, counters: Mapping[str, int]) -> None:
    """Those that are not zero, in one line."""
    text = ", ".join(f"{name} {count}" for name, count in counters.items() if count)
    if text:
        print(f"{label} {text}")


def _worker_line(worker: Mapping[str, Any]) -> str:
    """One worker of STATUS; roles are bits: 1 stage, 2 sampler."""
    first, end = worker["layers"]
    roles = []
    if worker["roles"] & 1:
        roles.append(f"layers {first}..{end - 1}")
    if worker["roles"] & 2:
        roles.append("sampler")
    cache = f", {worker['kv_cache_dtype']} KV cache" if worker["roles"] & 1 else ""
    return (f"{worker['name']}: {', '.join(roles)}; {worker['state']}, {worker['kernels']} kernels"
            f"{cache}")


def _route_line(route: Mapping[str, Any]) -> str:
    """One route: who is on it, and the part of its time with work that each of them computed."""
    work_us = route["counters"].get("work_us", 0)
    hops = [f"{hop['worker']} {100 * hop['busy_us'] / work_us:.0f}% busy" if work_us
            else hop["worker"] for hop in route["hops"]]
    state = "up" if route["up"] else "coming up"
    return f"{route['generation']}: {state}, {route['running']} running; {', '.join(hops)}"


def _histogram_line(histogram: Mapping[str, Any]) -> str:
    """How many, their mean, and the bounds below which half and 99% of them lie."""
    counts = histogram["counts"]
    total = sum(counts)

    def below(part: float) -> str:
        seen = 0
        for bound, count in zip(histogram["bounds"], counts):
            seen += count
            if seen >= part * total:
                return f"<= {bound:g}"
        return f"> {histogram['bounds'][-1]:g}"
    return (f"{total} times, mean {histogram['sum'] / total:.1f}, half {below(0.5)}, "
            f"99% {below(0.99)}")


def _ping(client: Client, options: argparse.Namespace) -> None:
    pong = client.ping()
    if options.json:
        print(json.dumps(dataclasses.asdict(pong)))
    else:
        print(f"router {pong.router_incarnation:016x}: {pong.round_trip_s * 1000:.2f} ms")


def _end_line() -> None:
    """Whatever was streamed so far must not share a line with the error."""
    if sys.stdout.isatty():
        print(flush=True)
