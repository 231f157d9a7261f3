"""AsyncClient is Client with `async` and `await`: the same names, parameters, defaults, results."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from chatloop import AsyncClient, AsyncStream, Client, Stream

PAIRS = [(Client, AsyncClient), (Stream, AsyncStream)]
WAIT = {  # by class: what waits, and so is awaited
    Client: {"generate", "cancel", "ping", "status", "trace", "keep_alive", "close"},
    Stream: {"cancel", "close"},
}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def shape(function: Any) -> list[tuple[str, Any, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default, p.annotation) for p in parameters]


@pytest.mark.parametrize(("blocking", "asyncio"), PAIRS)
def test_both_have_the_same_names(blocking: type, asyncio: type) -> None:
    assert public(blocking).keys() == public(asyncio).keys()


@pytest.mark.parametrize(("blocking", "asyncio"), PAIRS)
def test_methods_have_the_same_parameters_and_results(blocking: type, asyncio: type) -> None:
    theirs = public(asyncio)
    for name, mine in public(blocking).items():
        if isinstance(mine, property):
            assert isinstance(theirs[name], property)
            continue
        assert shape(mine) == shape(theirs[name]), name
        results = [inspect.signature(m).return_annotation for m in (mine, theirs[name])]
        assert results[0] == results[1].replace("AsyncStream", "Stream"), name
        assert inspect.iscoroutinefunction(theirs[name]) == (name in WAIT[blocking]), name


def test_constructors_have_the_same_parameters() -> None:
    assert shape(Client.__init__) == shape(AsyncClient.__init__)


def test_what_is_said_of_the_parameters_is_the_same() -> None:
    def options(kind: type) -> list[str]:
        lines = re.search(r"endpoint: .*?\n\n", inspect.getdoc(kind) + "\n\n", re.S)
        assert lines
        return lines[0].split()

    assert options(Client) == options(AsyncClient)
    for name in ("generate", "resume", "cancel", "status", "trace"):
        assert inspect.getdoc(getattr(Client, name)) == inspect.getdoc(getattr(AsyncClient, name))
