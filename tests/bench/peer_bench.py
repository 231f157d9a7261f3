"""Our engine and its peers, side by side on the same GGUF, and the targets beside the ratios.

    scripts/python.sh tests/bench/peer_bench.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf \\
        --peers DIR [--large Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf] [--pages mmap,huge] \\
        [--runs 5] [--only PATTERN] [--json FILE]

DIR holds the builds of peers/build_llama_cpp.sh (in DIR/llama) and peers/build_ik_llama.sh (in
DIR/ik). The engines take turns within each repetition. Nothing else may use the machine meanwhile:
a whole run takes about a quarter of an hour a repetition.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import bench_models  # noqa: E402
import targets  # noqa: E402
from cost_cases import (bus_on_one_core, cluster_memory, cpud_costs, peer_costs,  # noqa: E402
                        replica_memory)
from our_engine import Engine, has_option  # noqa: E402
from peer_tools import find_peers  # noqa: E402
from rate_cases import (cluster_rows, cpud_batched, cpud_single, peer_batched,  # noqa: E402
                        peer_large, peer_single, roofline)
from rows import (HOSTED_STAGES, REPLICAS, SEPARATE_STAGES, TWO_STAGES, Case,  # noqa: E402
                  Setup)

PAGES = {"mmap": ("", "4KiB", ()), "huge": (" huge", "2MiB", ("--weights", "huge"))}
OTHER_QUANTS = ("Q4_0", "Q8_0")
QUIET_LOAD = 0.3

Results = dict[str, dict[str, list[float]]]


def all_cases(setup: Setup) -> list[Case]:
    """In the order within a repetition."""
    engines = {"": setup.ours, **setup.others}
    cases = [roofline(setup)]
    cases += [cpud_single(setup, f"cpud{s}", e) for s, e in engines.items()]
    cases += [peer_single(setup, peer, 1) for peer in setup.peers]
    cases += [cluster_rows(setup, kind, s, e) for s, e in engines.items()
              for kind in (TWO_STAGES, HOSTED_STAGES, SEPARATE_STAGES)]
    cases += [peer_single(setup, peer, 2) for peer in setup.peers]
    cases += [cpud_batched(setup, f"cpud{s}", e) for s, e in engines.items()]
    cases += [peer_batched(setup, peer, 1) for peer in setup.peers]
    cases += [cluster_rows(setup, REPLICAS, s, e) for s, e in engines.items()]
    cases += [peer_batched(setup, peer, 2) for peer in setup.peers]
    cases += [peer_batched(setup, peer, 2, kind) for kind in setup.same_model
              for peer in setup.peers]
    cases += [bus_on_one_core(setup, stages) for stages in (0, 2, 3)]
    cases += [cpud_costs(setup)]
    cases += [peer_costs(setup, peer, threads) for threads in (1, 2) for peer in setup.peers]
    cases += [cluster_memory(setup), replica_memory(setup)]
    if setup.shape_gguf is not None:
        cases += [cpud_single(setup, f"cpud{s}", e, setup.shape_gguf) for s, e in engines.items()]
        files = {" Q4_K_M": setup.large_gguf, "": setup.shape_gguf}
        cases += [peer_large(setup, peer, suffix, gguf) for suffix, gguf in files.items()
                  for peer in setup.peers if gguf is not None]
    return cases


def run_all(cases: Sequence[Case], failures: list[str], runs: int, only: str,
            save: Callable[[Results], None]) -> Results:
    """`only`: a regular expression, searched in the rows' names."""
    results: Results = {}
    for repetition in range(1, runs + 1):
        for case in cases:
            wanted = {row for row in case.rows if re.search(only, row)}
            if not wanted:
                continue
            start_s = time.monotonic()
            try:
                values = case.run(wanted)
            except (AssertionError, RuntimeError, ValueError) as error:  # the others are not lost
                failures.append(f"FAILED {', '.join(sorted(wanted))}: {error}")
                print(failures[-1], file=sys.stderr)
                continue
            for (row, engine), value in values.items():
                results.setdefault(row, {}).setdefault(engine, []).append(value)
                print(f"{repetition}/{runs} {row:<40} {engine:<28} {value:10.2f}", file=sys.stderr)
            print(f"   {time.monotonic() - start_s:.1f} s", file=sys.stderr)
            save(results)
    return results


def print_results(results: Results) -> None:
    print(f"\n{'row':<42} {'engine':<32} {'median':>10} {'min':>10} {'max':>10} {'runs':>4}")
    for row in results:
        for engine, values in results[row].items():
            print(f"{row:<42} {engine:<32} {statistics.median(values):10.2f} {min(values):10.2f} "
                  f"{max(values):10.2f} {len(values):4}")


def machine(cores: tuple[int, int]) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {"cpu": cpu[1] if cpu else platform.machine(), "cpus": os.cpu_count(),
            "kernel": platform.release(), "cores": list(cores), "load_before": os.getloadavg()[0],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def commit_here() -> str:
    return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT,
                          capture_output=True, text=True).stdout.strip()


def make_setup(options: argparse.Namespace) -> Setup:
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build").resolve()
    machine_bench = build / "tests" / "bench" / "machine_bench"
    if not machine_bench.exists():
        sys.exit(f"{machine_bench} is missing: ninja -C {build} tests/bench/machine_bench")
    pages = options.pages.split(",")
    if "huge" in pages and not has_option(build, "--weights"):
        sys.exit("chatloop-cpud has no --weights: this build cannot do --pages huge")
    engines = {PAGES[page][0]: Engine(build, PAGES[page][2], options.pin_stages) for page in pages}
    peers, missing = find_peers(options.peers, "huge" in pages)
    first, *others = engines
    same_model: dict[str, Path] = {}
    quantize = (options.peers or Path()) / "llama" / "build" / "bin" / "llama-quantize"
    if peers and quantize.exists():
        same_model = {kind: bench_models.requantized(options.gguf, kind, quantize)
                      for kind in OTHER_QUANTS}
    elif peers:
        missing.append("no llama-quantize: the other quantizations are left out")
    setup = Setup(engines[first], {s: engines[s] for s in others}, peers, options.gguf, same_model,
                  bench_models.random_shape() if options.shape else None, options.large,
                  machine_bench, options.cores)
    setup.notes.update(missing)
    return setup


def full_path(text: str) -> Path:
    path = Path(text).resolve()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return path


def two_cores(text: str) -> tuple[int, int]:
    first, second = map(int, text.split(","))
    return first, second


def comparison_parser(doc: str) -> argparse.ArgumentParser:
    """What every comparison takes; `parsed` reads it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--gguf", type=full_path, required=True)
    parser.add_argument("--peers", type=full_path, help="folder with the builds llama and ik")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose names this expression finds")
    parser.add_argument("--json", type=Path, help="written after every case")
    parser.add_argument("--cores", type=two_cores,
                        default=tuple(sorted(os.sched_getaffinity(0))[-2:]),
                        help="two CPUs as 2,3; what has one thread runs on the second")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    if len(options.cores) != 2:
        parser.error("two CPUs are needed")
    return options


def parse() -> argparse.Namespace:
    parser = comparison_parser(__doc__)
    parser.add_argument("--large", type=full_path,
                        help="Q4_K_M file of the 1.5B model, for the peers")
    parser.add_argument("--no-shape", dest="shape", action="store_false",
                        help="leave out the random weights in the shape of a 1.5B model")
    parser.add_argument("--pages", default="mmap", choices=("mmap", "huge", "mmap,huge"),
                        help="of our weights; with huge the fork also runs with huge pages")
    parser.add_argument("--pin-stages", action="store_true", help="each stage on a CPU of its own")
    return parsed(parser)


def compare(options: argparse.Namespace, setup: Any, cases: Sequence[Case],
            verdicts: Callable[[Results], Sequence[Any]], **settings: object) -> NoReturn:
    """Runs all cases, writes --json after each, prints rows and targets. `setup` has notes and
    failures; `settings` are written, too."""
    about, commit = machine(options.cores), commit_here()
    if about["load_before"] > QUIET_LOAD:
        setup.notes.add(f"the machine was not quiet: its load was {about['load_before']:.1f}")
    os.sched_setaffinity(0, options.cores)  # the clients, too

    def save(results: Results) -> None:
        if options.json:
            options.json.write_text(json.dumps(
                {"machine": about, "commit": commit, "gguf": options.gguf.name, **settings,
                 "notes": sorted(setup.notes), "failures": setup.failures, "results": results,
                 "targets": [vars(verdict) for verdict in verdicts(results)]}, indent=1) + "\n")

    results = run_all(cases, setup.failures, options.runs, options.only, save)
    print(f"{about['cpu']}, {about['cpus']} CPUs, {options.gguf.name}, commit {commit}")
    print_results(results)
    print("\n" + "\n".join(verdict.line() for verdict in verdicts(results)))
    print("\n".join([*sorted(setup.notes), *setup.failures]))
    sys.exit(1 if setup.failures else 0)


def end_by_sigterm() -> None:
    """What was started ends, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> None:
    options = parse()
    end_by_sigterm()
    setup = make_setup(options)
    suffixes = {PAGES[page][0]: PAGES[page][1] for page in options.pages.split(",")}
    compare(options, setup, all_cases(setup),
            lambda results: targets.verdicts(results, suffixes), pin_stages=options.pin_stages)


if __name__ == "__main__":
    main()
