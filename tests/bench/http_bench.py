"""HTTP under load, llama.cpp's server and the ZeroMQ front beside it, and the targets beside the
ratios.

    scripts/python.sh tests/bench/http_bench.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf \\
        --peers DIR [--runs 5] [--only PATTERN] [--json FILE]

32 streams at once, over HTTP, over llama-server's and over the ZeroMQ front; idle, slow and
vanishing clients beside them; large prompts amid them; chatloop-cpud on one core and on two. DIR
holds the build of peers/build_llama_cpp.sh (in DIR/llama). A run takes about two minutes. Nothing
else may use the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path

from peer_bench import (QUIET_LOAD, ROOT, Results, commit_here, full_path, machine, print_results,
                        run_all, two_cores)

import http_targets  # noqa: E402  (peer_bench has set the path)
from http_cases import HttpSetup, all_cases  # noqa: E402
from our_engine import Engine  # noqa: E402

DESCRIPTORS = 4096


def make_setup(options: argparse.Namespace) -> HttpSetup:
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build").resolve()
    setup = HttpSetup(Engine(build), None, options.gguf, options.cores, 0)
    program = (options.peers or Path()) / "llama" / "build" / "bin" / "llama-server"
    if options.peers and program.exists():
        setup.llama = program
    else:
        setup.notes.add("no llama-server: build it with tests/bench/peers/build_llama_cpp.sh and "
                        "name its folder by --peers")
    return setup


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=full_path, required=True)
    parser.add_argument("--peers", type=full_path, help="folder with the build llama")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose names this expression finds")
    parser.add_argument("--json", type=Path, help="written after every case")
    parser.add_argument("--cores", type=two_cores,
                        default=tuple(sorted(os.sched_getaffinity(0))[-2:]), help="as 2,3")
    options = parser.parse_args()
    if len(options.cores) != 2:
        parser.error("two CPUs are needed")
    return options


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends, too
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    setup = make_setup(options)
    about = machine(options.cores)
    if about["load_before"] > QUIET_LOAD:
        setup.notes.add(f"the machine was not quiet: its load was {about['load_before']:.1f}")
    os.sched_setaffinity(0, options.cores)  # the clients, too

    def save(results: Results) -> None:
        if options.json:
            verdicts = [vars(verdict) for verdict in http_targets.verdicts(results)]
            options.json.write_text(json.dumps(
                {"machine": about, "commit": commit_here(), "gguf": options.gguf.name,
                 "notes": sorted(setup.notes), "failures": setup.failures, "results": results,
                 "targets": verdicts}, indent=1) + "\n")

    results = run_all(all_cases(setup), setup.failures, options.runs, options.only, save)
    print(f"{about['cpu']}, {about['cpus']} CPUs, {options.gguf.name}, commit {commit_here()}")
    print_results(results)
    print("\n" + "\n".join(verdict.line() for verdict in http_targets.verdicts(results)))
    print("\n".join([*sorted(setup.notes), *setup.failures]))
    sys.exit(1 if setup.failures else 0)


if __name__ == "__main__":
    main()
