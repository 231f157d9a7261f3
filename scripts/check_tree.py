#!/usr/bin/env python3
"""Checks the rules of the tree that no compiler checks; a rule a line under RULES.

    check_tree.py [--report FILE]    every finding as path:line: message, then "N passed, N failed"

Every rule first proves on small made-up files that it finds what it forbids and lets pass what it
allows (SAMPLES); a rule that cannot see a violation fails. Then it reads the tracked and the new
files of the tree.
"""

import argparse
import pathlib
import posixpath
import re
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]

# ---- who may include whom: zmq and the actor classes meet in actors/ only ----

# what an actor class sees of the bus
BUS_SEAM = {"bus/outbox.hpp", "bus/message.hpp", "bus/message_pool.hpp"}
MODEL_SEAM = {"model/spec.hpp"}                   # what the router sees of the model
COMPUTE = {"core", "kernel", "model", "wire", "worker"}
MAY_INCLUDE = {
    "core": set(),
    "kernel": {"core"},
    "model": {"core", "kernel"},
    "wire": {"core"},
    "bus": {"core", "wire"},
    "health": {"core"},
    "text": {"core"},
    "worker": {"core", "wire", "health"} | BUS_SEAM,
    "stage": COMPUTE | BUS_SEAM,
    "sampler": COMPUTE | BUS_SEAM,
    "router": {"core", "wire", "health", "text"} | BUS_SEAM | MODEL_SEAM,
    # the front door: requests in, client messages to the router; sockets are libmicrohttpd's
    "http": {"core", "wire", "text"},
    # all actors in one process, over a bus without sockets (cpud and the simulator)
    "host": COMPUTE | {"health", "text", "stage", "sampler", "router"} | BUS_SEAM,
}
LIBRARY_HOME = {  # third-party headers that belong to one folder
    r"(zmq|zmq_addon)\.(hpp|h)": "bus",
    r"msgpack(\.hpp|\.h|/.*)": "wire",
    r"yaml-cpp/.*": "core",
    r"nettle/.*": "model",
    r"microhttpd\.h": "http",
    r"(imm|emm|xmm|smm|nmm|avx)\w*intrin\.h": "kernel",
}

COLUMNS_MAX = 100
LINES_MAX = 400
CODE = {".cpp", ".hpp", ".h", ".py", ".rs", ".sh", ".js"}
CPP = {".cpp", ".hpp", ".h"}
NO_CONTRACTION = "-ffp-contract=off"


class File(NamedTuple):
    path: str
    text: str

    @property
    def suffix(self):
        return pathlib.PurePosixPath(self.path).suffix

    @property
    def top(self):
        return self.path.split("/")[0]

    @property
    def component(self):
        """The folder of src/ or include/chatloop/ that the file belongs to, or None."""
        match = re.match(r"(?:src|include/chatloop)/(\w+)/", self.path)
        return match[1] if match else None

    def matches(self, pattern, flags=0):
        """[(line number, match)] of a pattern, line by line."""
        found = re.compile(pattern, flags)
        return [
            (number, match)
            for number, line in enumerate(self.text.splitlines(), 1)
            if (match := found.search(line))
        ]


def is_generated(file):
    return file.path.endswith((".lock", "requirements.txt")) or file.path.startswith("tests/data/")


# ---- rules: each yields (path, line number, message) ----


def dependency_arrows(files):
    for file in files:
        if file.suffix not in CPP or file.component is None:
            continue
        if file.component not in MAY_INCLUDE:
            yield file.path, 1, f"folder {file.component} has no entry in MAY_INCLUDE"
            continue
        allowed = MAY_INCLUDE[file.component] | {file.component}
        included = r'^\s*#\s*include\s*(?:["<]chatloop/|")((\w+)/[^">]+)[">]'
        for line, match in file.matches(included):
            ours = match[2] in MAY_INCLUDE or "chatloop/" in match[0]
            if ours and match[2] not in allowed and match[1] not in allowed:
                yield file.path, line, f"{file.component} may not include {match[1]}"
        for line, match in file.matches(r'^\s*#\s*include\s*"(\.\./[^"]*)"'):
            yield file.path, line, f"include from the root, not {match[1]}"


def library_homes(files):
    for file in files:
        if file.suffix not in CPP or file.top not in ("src", "include", "actors"):
            continue
        for line, match in file.matches(r'^\s*#\s*include\s*["<]([^">]+)[">]'):
            for pattern, home in LIBRARY_HOME.items():
                if re.fullmatch(pattern, match[1]) and file.component != home:
                    yield file.path, line, f"{match[1]} is included in {home}/ only"


def one_thread(files):
    made = (
        r"std::j?thread\b|std::async\b|\bpthread_create\b|\bthrd_create\b|[<](thread|future)[>]"
        r"|\bthread::(spawn|scope|Builder)\b|\brayon::|\bCLONE_THREAD\b"
    )
    for file in files:
        if file.suffix in CPP | {".rs"} and file.top in ("src", "include", "actors", "text"):
            for line, match in file.matches(made):
                yield file.path, line, f"a process has one thread: {match[0]}"


def no_openmp(files):
    for file in files:
        if file.suffix in CPP or file.path.endswith("meson.build"):
            for line, match in file.matches(r"#\s*pragma\s+omp|-fopenmp|omp\.h|'openmp'"):
                yield file.path, line, f"no OpenMP: {match[0]}"


def exact_floats(files):
    loose = (
        r"-ffast-math|-Ofast|-funsafe-math|-fassociative-math|-freciprocal-math|-ffinite-math"
        r"|-fno-signed-zeros|-fno-rounding-math|-ffp-contract=(?!off)\w+|FP_CONTRACT\s+(ON|DEFAULT)"
        r"|optimize\s*\(\s*\"[^\"]*fast"
    )
    for file in files:
        if file.suffix in CPP or file.path.endswith("meson.build"):
            for line, match in file.matches(loose):
                yield file.path, line, f"the arithmetic contract forbids {match[0]}"
        if file.path == "meson.build" and f"'{NO_CONTRACTION}'" not in file.text:
            yield file.path, 1, f"{NO_CONTRACTION} is missing from the project's arguments"


def short_files(files):
    for file in files:
        count = file.text.count("\n")
        if file.suffix in CODE and count > LINES_MAX:
            yield file.path, count, f"{count} lines; split by hop or concern above {LINES_MAX}"


def short_lines(files):
    for file in files:
        if file.suffix in CPP | {".py"}:
            for line, match in file.matches(f"^.{{{COLUMNS_MAX + 1},}}$"):
                yield file.path, line, f"{len(match[0])} columns, {COLUMNS_MAX} at most"


def clean_whitespace(files):
    for file in files:
        if is_generated(file):
            continue
        for line, _ in file.matches(r"[ \t\r]$"):
            yield file.path, line, "space at the end of the line"
        for line, _ in file.matches(r"\t"):
            yield file.path, line, "a tab"
        if file.text and not file.text.endswith("\n"):
            yield file.path, file.text.count("\n") + 1, "no newline at the end of the file"


def no_open_ends(files):
    # Written in parts, so that this file does not find itself.
    marks = r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b"
    for file in files:
        if not is_generated(file):
            for line, match in file.matches(marks):
                yield file.path, line, f"a mark of unfinished work: {match[0]}"


def no_machine_paths(files):
    places = r"(?<![\w.$}])/(wo" r"rk|ro" r"ot|fa" r"rm)/|\.\./sha" r"red|/tmp/ba" r"sh_jobs"
    for file in files:
        for line, match in file.matches(places):
            yield file.path, line, f"a path of one machine: {match[0]}"


def no_registry_hosts(files):
    hosts = (
        r"\bpy" r"pi\.org|pythonho" r"sted\.org|(static|index)\.crates\.io|//crates\.io"
        r"|(deb|security|ftp)\.deb" r"ian\.org|npm" r"js\.(org|com)|proxy\.go" r"lang\.org"
    )
    options = r"--(extra-)?index" r"-url|--find" r"-links|--trusted" r"-host"
    for file in files:
        if file.path.endswith(".lock"):  # cargo writes its registry's name there
            continue
        for line, match in file.matches(f"{hosts}|{options}"):
            comment = file.text.splitlines()[line - 1].startswith("#")
            if not (comment and match[0].startswith("--")):
                yield file.path, line, f"a registry belongs to the machine's settings: {match[0]}"


def locked_requirements(files):
    for file in files:
        if not file.path.endswith("requirements.txt"):
            continue
        joined = re.sub(r"\\\n", " ", file.text)
        for requirement in joined.splitlines():
            if requirement.strip() and not requirement.lstrip().startswith("#"):
                if "==" not in requirement or "--hash=sha256:" not in requirement:
                    yield file.path, 1, f"not locked by version and hash: {requirement[:60]}"


def live_links(files):
    """Relative links of the pages lead somewhere."""
    known = {file.path for file in files}
    known |= {str(parent) for path in known for parent in pathlib.PurePosixPath(path).parents}
    for file in files:
        if file.suffix != ".md":
            continue
        for number, text in enumerate(file.text.splitlines(), 1):
            for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
                path = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), target))
                if path not in known:
                    yield file.path, number, f"a link to nothing: {target}"


RULES = [
    dependency_arrows,
    library_homes,
    one_thread,
    no_openmp,
    exact_floats,
    short_files,
    short_lines,
    clean_whitespace,
    no_open_ends,
    no_machine_paths,
    no_registry_hosts,
    locked_requirements,
    live_links,
]

GOOD_MESON = f"add_project_arguments('{NO_CONTRACTION}')\n"

# (rule, path, text that must be found, text that must pass)
SAMPLES = [
    (dependency_arrows, "src/core/a.cpp",
     '#include "chatloop/wire/codec.hpp"',
     '#include "chatloop/core/ids.hpp"'),
    (dependency_arrows, "src/router/a.cpp",
     '#include "chatloop/bus/socket.hpp"',
     '#include "chatloop/bus/outbox.hpp"'),
    (dependency_arrows, "src/router/a.cpp",
     '#include "chatloop/model/layer_stack.hpp"',
     '#include "chatloop/model/spec.hpp"'),
    (dependency_arrows, "include/chatloop/stage/a.hpp",
     '#include "chatloop/router/router.hpp"',
     '#include "chatloop/model/compute.hpp"'),
    (dependency_arrows, "src/wire/a.cpp", '#include "kernel/tables.hpp"', '#include "reader.hpp"'),
    (dependency_arrows, "src/unheard_of/a.cpp", "int x;", None),
    (dependency_arrows, "src/wire/a.cpp",
     '#include "../bus/socket.hpp"',
     '#include "wire/reader.hpp"'),
    (library_homes, "src/router/a.cpp", "#include <zmq.hpp>", "#include <vector>"),
    (library_homes, "actors/router_main.cpp",
     "#include <msgpack.hpp>",
     '#include "chatloop/wire/codec.hpp"'),
    (library_homes, "actors/a.cpp", "#include <nettle/sha2.h>", "#include <string>"),
    (library_homes, "src/model/a.cpp", "#include <immintrin.h>", "#include <cmath>"),
    (one_thread, "src/core/a.cpp", "std::thread t(run);", "std::this_thread_is_fine();"),
    (one_thread, "src/core/a.cpp", "auto f = std::async(run);", "// asynchronous"),
    (one_thread, "src/core/a.cpp", "#include <thread>", "#include <atomic>"),
    (one_thread, "actors/a.cpp", "pthread_create(&t, nullptr, run, nullptr);", "pthread_self();"),
    (one_thread, "text/src/lib.rs", "std::thread::spawn(run);", "fn spawn() {}"),
    (no_openmp, "src/kernel/a.cpp", "#pragma omp parallel for", "#pragma once"),
    (no_openmp, "src/kernel/meson.build", "cpp_args: '-fopenmp'", "cpp_args: '-mavx2'"),
    (exact_floats, "src/kernel/meson.build", "cpp_args: '-ffast-math'", "cpp_args: '-mfma'"),
    (exact_floats, "src/kernel/meson.build",
     "cpp_args: '-ffp-contract=fast'",
     f"cpp_args: '{NO_CONTRACTION}'"),
    (exact_floats, "src/kernel/a.cpp",
     "#pragma STDC FP_CONTRACT ON",
     "#pragma STDC FP_CONTRACT OFF"),
    (exact_floats, "meson.build", "project('chatloop')", GOOD_MESON),
    (short_files, "src/core/a.cpp", "int x;\n" * (LINES_MAX + 1), "int x;\n" * LINES_MAX),
    (short_lines, "src/core/a.cpp", "x" * (COLUMNS_MAX + 1), "x" * COLUMNS_MAX),
    (clean_whitespace, "README.md", "a \n", "a\n"),
    (clean_whitespace, "src/core/a.cpp", "\tint x;\n", "    int x;\n"),
    (clean_whitespace, "src/core/a.cpp", "int x;", "int x;\n"),
    (no_open_ends, "src/core/a.cpp", "// TO" "DO later", "// to do this it does that"),
    (no_open_ends, "scripts/a.sh", "# FIX" "ME", "# fixed"),
    (no_machine_paths, "scripts/a.sh", "cat /wo" "rk/main/x", "cat $repo/wo" "rk/x"),
    (no_machine_paths, "docs/a.md", "see ../sha" "red/design.md", "see ../src/shared_mmap.cpp"),
    (no_registry_hosts, "pip.conf", "index = https://py" "pi.org/simple", "index = none"),
    (no_registry_hosts, "a/requirements.txt",
     "--index" "-url https://mirror",
     "# made with --no-emit-index"),
    (locked_requirements, "a/requirements.txt",
     "numpy==2.4.6\n",
     "numpy==2.4.6 \\\n    --hash=sha256:00\n"),
    (live_links, "docs/a.md", "see [b](b.md)", "see [a](../docs/a.md#top) and [docs](../docs)"),
    (locked_requirements, "a/requirements.txt", "numpy>=2 --hash=sha256:00\n", "# nothing\n"),
]


def self_test(rule):
    """What the rule's samples disprove: lines of text, none when the rule works."""
    samples = [sample for sample in SAMPLES if sample[0] is rule]
    if not samples:
        yield f"{rule.__name__} has no sample"
    for _, path, bad, good in samples:
        if not list(rule([File(path, bad)])):
            yield f"{rule.__name__} does not find {bad[:60]!r} in {path}"
        if good is not None and list(rule([File(path, good)])):
            yield f"{rule.__name__} forbids {good[:60]!r} in {path}"


def tree_files():
    """Tracked and new files that are text and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    for path in sorted(set(filter(None, listed))):
        full = ROOT / path
        if not full.is_file():
            continue  # deleted, and not committed yet
        try:
            yield File(path, full.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue  # not text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=pathlib.Path, help="the last line goes there too")
    args = parser.parse_args()
    files = list(tree_files())
    passed = failed = 0
    for rule in RULES:
        findings = list(self_test(rule))
        findings += [f"{path}:{line}: {message}" for path, line, message in rule(files)]
        print(*findings, sep="\n", end="\n" if findings else "")
        passed += not findings
        failed += bool(findings)
    summary = f"{passed} passed, {failed} failed"
    print(summary)
    if args.report:
        args.report.write_text(summary + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
