"""Cuts a GGUF model into the partition files that ChatLoop's workers map.

    split_model.py --model MODEL.gguf --output DIR --num-partitions N
    split_model.py --verify DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: import as the package, not from its folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from model_splitter.errors import EXIT_BAD_INPUT, SplitError
from model_splitter.report import Reporter
from model_splitter.split import SplitOptions, split
from model_splitter.verify import verify_directory


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="split_model.py", description=__doc__.splitlines()[0])
    version = Path(__file__).parents[1].joinpath("chatloop/VERSION").read_text().strip()
    parser.add_argument("--version", action="version", version=f"%(prog)s {version}")
    parser.add_argument("--model", type=Path, help="GGUF file of the llama architecture")
    parser.add_argument("--output", type=Path, help="model directory to write or replace")
    parser.add_argument("--num-partitions", type=int, default=1,
                        help="stage processes to cut the layers for (default 1)")
    parser.add_argument("--quantization", choices=("none", "int8", "int4"), default="none",
                        help="none keeps the file's precision, losslessly (default)")
    parser.add_argument("--sampler", choices=("last", "own"), default="last",
                        help="where the LM head will run: with the last stage (default), or in a "
                             "process of its own; decides the balance of the cut, nothing else")
    parser.add_argument("--verify", type=Path, metavar="DIR",
                        help="check a model directory instead of writing one")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    reporter = Reporter(options.quiet)
    try:
        if options.verify is not None:
            verify_directory(options.verify, reporter)
            return 0
        if options.model is None or options.output is None:
            parser.error("--model and --output are needed (or --verify DIR)")
        split(SplitOptions(options.model, options.output, options.num_partitions,
                           options.quantization, options.sampler), reporter)
        return 0
    except SplitError as error:
        print(f"split_model.py: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"split_model.py: {where}{error.strerror or error}; check the disk and the "
              "permissions of --output", file=sys.stderr)
    except KeyboardInterrupt:
        print("split_model.py: interrupted, nothing was written", file=sys.stderr)
        return 130
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
