"""What a change costs: two builds of the processes under the same load, in turns.

    CHATLOOP_BUILD=build tests/bench/two_builds_bench.py --gguf FILE.gguf --other BUILD
        [--other-interval-secs 0.2] [--rounds 15] [--streams 32] [--max-tokens 128]

For the cost of reliability without faults, BUILD is this tree with `crc32c` of src/wire/crc.cpp
returning 0, and the interval of its heartbeats 60 s. Nothing else may use the machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from cluster import Cluster  # noqa: E402

from side_by_side import Side, print_ratios, take_turns, turns_parser  # noqa: E402


def main() -> None:
    parser = turns_parser(__doc__, rounds=15, max_tokens=128)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--other-interval-secs", default="0.2")
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build")
    model = models.split_cached(options.gguf, 2)
    other = ["--health-check-interval-secs", options.other_interval_secs]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = []
        for name, folder_of, router in (("this", build, []), ("other", options.other, other)):
            cluster = stack.enter_context(
                Cluster(folder_of.resolve(), model, Path(folder) / name, router=router))
            stack.callback(cluster.stop)
            sides.append(Side(name, cluster))
        rows = take_turns(sides, options)
    print_ratios(rows, "other")


if __name__ == "__main__":
    main()
