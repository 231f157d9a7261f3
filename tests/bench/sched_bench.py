"""The scheduler under load, llama.cpp's server beside it, and the targets beside the ratios.

    scripts/python.sh tests/bench/sched_bench.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf \\
        --peers DIR [--runs 5] [--requests 128] [--only PATTERN] [--json FILE]

Many clients at once; a long prompt amid streams; the same prefix again; one client's request
behind another's hundred. DIR holds the build of peers/build_llama_cpp.sh (in DIR/llama). The
engines take turns within each repetition, which takes about five minutes. Nothing else may use
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from peer_bench import ROOT, compare, comparison_parser, end_by_sigterm, parsed

import sched_targets  # noqa: E402  (peer_bench has set the path)
from our_engine import Engine  # noqa: E402
from sched_cases import SchedSetup, all_cases  # noqa: E402


def make_setup(options: argparse.Namespace) -> SchedSetup:
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build").resolve()
    setup = SchedSetup(Engine(build), None, options.gguf, options.cores, options.requests)
    setup.find_llama(options.peers)
    return setup


def parse() -> argparse.Namespace:
    parser = comparison_parser(__doc__)
    parser.add_argument("--requests", type=int, default=128, help="of each closed loop")
    return parsed(parser)


def main() -> None:
    options = parse()
    end_by_sigterm()
    setup = make_setup(options)
    compare(options, setup, all_cases(setup), sched_targets.verdicts, requests=options.requests)


if __name__ == "__main__":
    main()
