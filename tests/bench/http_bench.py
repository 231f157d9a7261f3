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
import os
import resource
from pathlib import Path

from peer_bench import ROOT, compare, comparison_parser, end_by_sigterm, parsed

import http_targets  # noqa: E402  (peer_bench has set the path)
from http_cases import HttpSetup, all_cases  # noqa: E402
from our_engine import Engine  # noqa: E402

DESCRIPTORS = 4096


def make_setup(options: argparse.Namespace) -> HttpSetup:
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build").resolve()
    setup = HttpSetup(Engine(build), None, options.gguf, options.cores, 0)
    setup.find_llama(options.peers)
    return setup


def main() -> None:
    options = parsed(comparison_parser(__doc__))
    end_by_sigterm()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    setup = make_setup(options)
    compare(options, setup, all_cases(setup), http_targets.verdicts)


if __name__ == "__main__":
    main()
