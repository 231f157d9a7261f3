"""Counting never turns a failure into a success."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/lib/count_tests.py"
DOCTEST = "[doctest] test cases:  7 |  {ok} passed | {bad} failed | 2 skipped\n"
JUNIT = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3"/></testsuites>'


def count(tmp_path, text, exit_code):
    report = tmp_path / "report"
    if text is not None:
        report.write_text(text)
    run = subprocess.run(
        [sys.executable, SCRIPT, report, str(exit_code)], capture_output=True, text=True, check=True
    )
    return tuple(map(int, run.stdout.split()))


def program(result, said=""):
    return json.dumps({"name": "a", "result": result, "stdout": said}) + "\n"


@pytest.mark.parametrize(
    "text, exit_code, counts",
    [
        (program("OK", DOCTEST.format(ok=5, bad=0)), 0, (5, 0, 2)),
        (program("FAIL", DOCTEST.format(ok=4, bad=1)), 1, (4, 1, 2)),
        (program("OK") + program("OK", "100 passed, 0 failed\n"), 0, (101, 0, 0)),
        (program("FAIL", "99 passed, 1 failed\n"), 1, (99, 1, 0)),
        (program("TIMEOUT"), 1, (0, 1, 0)),
        # crashed after a good summary
        (program("FAIL", DOCTEST.format(ok=5, bad=0)), 1, (5, 1, 2)),
        (program("SKIP"), 0, (0, 1, 1)),
        # should_fail: what such a program counts as failed is what it had to show
        (program("EXPECTEDFAIL", "2 passed, 28 failed\n"), 0, (1, 0, 0)),
        (program("UNEXPECTEDPASS", "30 passed, 0 failed\n"), 1, (30, 1, 0)),
        (JUNIT, 1, (4, 2, 3)),
        (JUNIT.replace('failures="1" errors="1"', 'failures="0" errors="0"'), 0, (6, 0, 3)),
        # good in the report, but the runner itself failed
        (JUNIT.replace('failures="1" errors="1"', 'failures="0" errors="0"'), 3, (6, 1, 3)),
        ("12 passed, 0 failed\n", 0, (12, 0, 0)),
        ("", 0, (0, 1, 0)),
        (None, 0, (0, 1, 0)),
    ],
)
def test_counts(tmp_path, text, exit_code, counts):
    assert count(tmp_path, text, exit_code) == counts
