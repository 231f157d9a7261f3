"""What docs/reliability.md, and the docstrings of the traps, name as proof is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/reliability.md"
TRAPS = ROOT / "tests/process/test_libzmq_traps.py"
PROGRAMS = [path for pattern in ("*.py", "*_test.cpp") for path in (ROOT / "tests").rglob(pattern)]


def functions(path):
    return set(re.findall(r"^def (\w+)", path.read_text(), re.MULTILINE))


def cases(path):
    """Test cases of doctest: a long name may be on the next line."""
    return set(re.findall(r'TEST_CASE\(\s*"([^"]+)"', path.read_text()))


def files_named(name):
    """By its path in the repository, or in tests/ by its last part."""
    if "/" in name:
        return [ROOT / name] if (ROOT / name).exists() else []
    return [path for path in PROGRAMS if path.name == name]


def missing(text):
    """Files, functions and test cases that are named and do not exist."""
    text = re.sub(r"\s+", " ", text)
    found = []
    # `file.py`, `tests/folder`
    for name in re.findall(r"`((?:tests|actors|scripts)/[^` ]+|\w+\.(?:py|cpp))`", text):
        if not files_named(name):
            found.append(name)
    # `test_this`, and with ... the beginning of a name
    everywhere = {name for path in PROGRAMS if path.suffix == ".py" for name in functions(path)}
    for name, more in re.findall(r"`(test_\w+)(\.\.\.)?`", text):
        if not any(each == name or (more and each.startswith(name)) for each in everywhere):
            found.append(name)
    # `file.py` (`this`, `that`) and `file.py`: `this`: they are in that file
    for name, those in re.findall(r"`([^` ]+\.py)`(?:: | \()(`\w+`(?:, `\w+`)*)", text):
        there = {each for path in files_named(name) for each in functions(path)}
        found += [f"{name}: {each}" for each in re.findall(r"\w+", those) if each not in there]
    # file_test.cpp: "a case"
    for name, case in re.findall(r'(\w+_test\.cpp): "([^"]+)"', text):
        if not any(case in cases(path) for path in files_named(name)):
            found.append(f"{name}: {case}")
    # (test_file.py: test_this), without quotation marks
    for name, function in re.findall(r"([\w/]+\.py): (test_\w+)", text):
        if not any(function in functions(path) for path in files_named(name)):
            found.append(f"{name}: {function}")
    return found


@pytest.mark.parametrize("document", [DOCUMENT, TRAPS], ids=lambda path: path.name)
def test_all_that_is_named_is_there(document):
    text = document.read_text()
    assert len(re.findall(r"test_\w+|\w+_test\.cpp", text)) > 20
    assert missing(text) == []


@pytest.mark.parametrize(
    "text, found",
    [
        ("`tests/process/test_nodes.py`: `test_three_nodes`", []),
        ("`test_nodes.py` (`test_three_nodes`, `nodes`)", []),
        ("`tests/sim` and `test_a_hundred_kills_...`", []),
        ('(link_test.cpp: "links can be closed at\n    any moment")', []),
        ("`tests/process/test_nowhere.py`", ["tests/process/test_nowhere.py"]),
        ("`nowhere_test.cpp`", ["nowhere_test.cpp"]),
        ("`test_no_such_thing`", ["test_no_such_thing"]),
        ("`test_three_node`", ["test_three_node"]),
        ("`test_three_nodez...`", ["test_three_nodez"]),
        ("`test_nodes.py` (`test_three_nodes`, `paused`)", ["test_nodes.py: paused"]),
        ("`test_partitions.py`: `test_three_nodes`", ["test_partitions.py: test_three_nodes"]),
        ('(link_test.cpp: "links are cats")', ["link_test.cpp: links are cats"]),
        ("(test_nodes.py: test_two_nodes)", ["test_nodes.py: test_two_nodes"]),
    ],
)
def test_what_is_not_there_is_found(text, found):
    assert missing(text) == found
