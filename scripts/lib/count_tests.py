"""Prints "passed failed skipped" of one suite: count_tests.py REPORT EXIT_CODE.

REPORT is what the suite left: meson's testlog (a JSON object per line and test program; the cases
that doctest counted inside, else the program as one), pytest's JUnit XML, or a "N passed, N failed"
line. A suite that failed, or left no report or no test at all, is never counted as good.
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree

DOCTEST = re.compile(r"test cases:\s*\d+ \|\s*(\d+) passed \|\s*(\d+) failed \|\s*(\d+) skipped")
PLAIN = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def count_meson_program(program):
    """(passed, failed, skipped) of one test program."""
    if program["result"] == "SKIP":
        return 0, 0, 1
    if program["result"] == "EXPECTEDFAIL":  # should_fail: what it counts as failed is the proof
        return 1, 0, 0
    said = program.get("stdout", "")
    good = program["result"] == "OK"
    doctest = [tuple(map(int, match)) for match in DOCTEST.findall(said)]
    plain = [(int(ok), int(bad), 0) for ok, bad in PLAIN.findall(said)]
    counts = doctest or plain or [(int(good), int(not good), 0)]
    passed, failed, skipped = (sum(column) for column in zip(*counts))
    # A program that crashed after its summary, or before it, failed at least once.
    return passed, max(failed, int(not good)), skipped


def count_junit(text):
    passed = failed = skipped = 0
    for suite in xml.etree.ElementTree.fromstring(text).iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        left_out = int(suite.get("skipped", 0))
        passed += int(suite.get("tests")) - bad - left_out
        failed += bad
        skipped += left_out
    return passed, failed, skipped


def count_report(text):
    if text.lstrip().startswith("<"):
        return count_junit(text)
    if text.lstrip().startswith("{"):
        programs = [json.loads(line) for line in text.splitlines() if line.strip()]
        return tuple(sum(column) for column in zip(*map(count_meson_program, programs)))
    counts = PLAIN.findall(text)
    return sum(int(ok) for ok, _ in counts), sum(int(bad) for _, bad in counts), 0


def main():
    report, exit_code = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    passed = failed = skipped = 0
    if report.exists() and report.stat().st_size > 0:
        passed, failed, skipped = count_report(report.read_text(errors="replace"))
    if exit_code != 0 or passed + failed == 0:
        failed = max(failed, 1)
    print(passed, failed, skipped)


if __name__ == "__main__":
    main()
