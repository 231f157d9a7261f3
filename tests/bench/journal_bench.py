"""What resumable streams and their journal cost.

    CHATLOOP_BUILD=build tests/bench/journal_bench.py --gguf FILE.gguf [--rounds 9]
        [--streams 32] [--max-tokens 128] [--folder DIR]

Three clusters of two stages are up at once and take turns under the same streams over HTTP:
`plain` ones, `resumable` ones that are kept in memory, and those that are in a `journal`, too, in a
folder below DIR (default: the system's for temporary files). A row a round: tokens/s, and CPU time
per token of all processes. Nothing else may use the machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "process"),
                str(ROOT / "tests" / "splitter")]

import models  # noqa: E402
from cluster import Cluster  # noqa: E402

from http_load import over_http  # noqa: E402
from side_by_side import Row, Side, print_ratios, prompt_of, take_turns, turns_parser  # noqa: E402

VARIANTS = ("plain", "resumable", "journal")


class HttpSide(Side):
    def round(self, number: int, streams: int, max_tokens: int) -> Row:
        requests = [{"token_ids": prompt_of(number, stream), "max_tokens": max_tokens,
                     "resumable": self.name != "plain"} for stream in range(streams)]
        before_s, began = self.cpu_s(), time.monotonic()
        tokens = over_http(self.cluster.endpoints["http"], requests).tokens
        took_s, spent_s = time.monotonic() - began, self.cpu_s() - before_s
        return {"tokens/s": tokens / took_s, "CPU us/token": 1e6 * spent_s / tokens}


def main() -> None:
    parser = turns_parser(__doc__, rounds=9, max_tokens=128)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    build = Path(os.environ.get("CHATLOOP_BUILD") or ROOT / "build").resolve()
    model = models.split_cached(options.gguf, 2)
    with tempfile.TemporaryDirectory(dir=options.folder) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        sides = []
        for variant in VARIANTS:
            router = ["--http", "127.0.0.1:*"]
            if variant == "journal":
                router += ["--journal-dir", str(folder / "kept")]
            cluster = stack.enter_context(Cluster(build, model, folder / variant, router=router))
            stack.callback(cluster.stop)
            sides.append(HttpSide(variant, cluster))
        rows = take_turns(sides, options)
        kept = [file for file in (folder / "kept").iterdir() if file.name != "lock"]
        print(f"{len(kept)} files of {sum(file.stat().st_size for file in kept) / len(kept):.0f} "
              "bytes are kept at the end")
    print_ratios(rows, "plain")


if __name__ == "__main__":
    main()
