"""docs/observability.md against the running system, in both directions: what it lists exists, and
what the processes emit is listed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from chatloop import ChatLoopError
from cluster import Cluster, Process, wait_until
from collectors import Exporter, config_of
from conftest import ROOT
from http_peer import HttpPeer
from scrape import Page, scrape
from test_cpud_server import Cpud
from test_metrics import METRICS, PAGE_AGE_S, url_of

DOC = (ROOT / "docs" / "observability.md").read_text()
DEBUG = ["--log-level", "debug"]
ASK = {"token_ids": [2, 3, 4], "ignore_eos": True}
# Only lines that nobody reads make these: the sources are searched for them.
UNREAD = "::log"


def rows(section: str) -> list[list[str]]:
    """The cells of the rows of a section's tables that begin with a name."""
    part = DOC.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines() if line.startswith("| `")]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def listed_metrics() -> dict[str, tuple[str, frozenset[str]]]:
    """name -> type, labels"""
    found = {}
    for name_cell, kind_cell, _ in rows("Metrics"):
        kinds, _, labels = kind_cell.partition(";")
        kind = [word.strip() for word in kinds.split(",")]
        for i, name in enumerate(names(name_cell)):
            assert name not in found
            found[name] = (kind[i] if len(kind) > 1 else kind[0],
                           frozenset(label.strip() for label in labels.split(",") if label))
    return found


def shown(page: Page) -> Iterator[tuple[str, tuple[str, frozenset[str]]]]:
    """The same of a page: of every sample."""
    for name, labels in page.samples:
        family = name if name in page.types else name[:name.rindex("_")]
        kind = page.types[family]
        assert kind != "histogram" or name.endswith("_bucket") == ("le" in dict(labels))
        yield family, (kind, frozenset(dict(labels)) - {"le"})


def targets(processes: Iterable[Process]) -> set[str]:
    lines = [line for p in processes for log in p.log.parent.glob(p.name + "*.log")
             for line in log.read_text().splitlines()]
    return {json.loads(line)["target"] for line in lines}


def spans(trace: dict) -> set[tuple[str, str]]:
    """name, attribute; a stage's number is N"""
    return {(re.sub(r"stage \d+", "stage N", name), attribute)
            for name, *_, attributes in trace["spans"] for attribute in attributes}


@pytest.fixture(scope="module")
def hurt(build, tiny_model, tmp_path_factory) -> Iterator[dict]:
    """All that a cluster of four processes emits that has answered, refused and lost a stage amid
    an answer: `metrics`, `targets`, `spans`."""
    folder = tmp_path_factory.mktemp("hurt")
    exporter = Exporter()
    try:
        traces = config_of(folder, exporter.endpoint, "http://127.0.0.1:9")
        journal = ["--http", "127.0.0.1:*", "--journal-dir", str(folder / "journal")]
        with Cluster(build, tiny_model, folder, own_sampler=True,
                     router=[*traces, *journal, *DEBUG], stage=[*METRICS, *DEBUG],
                     sampler=[*METRICS, *DEBUG]) as cluster:
            client = cluster.client()
            client.generate(request_id="two", n=2, max_tokens=8, **ASK)
            with pytest.raises(ChatLoopError):
                client.generate(token_ids=[99999], max_tokens=1)
            with client.stream(request_id="hurt", n=2, max_tokens=3000, **ASK) as stream:
                next(stream)
                cluster.processes["stage-1"].kill()
                wait_until(lambda: scrape(url_of(cluster, "router")).total(
                    "coordinator_unhealthy_workers") == 1, 20, "the death is seen")
                found = set(shown(scrape(url_of(cluster, "router"))))
                cluster.restart("stage-1")
                for _ in stream:
                    pass
            time.sleep(PAGE_AGE_S)
            for name in cluster.processes:
                found |= set(shown(scrape(url_of(cluster, name))))
            seen = spans(client.trace("two")) | spans(client.trace("hurt"))
            cluster.stop()
        exporter.stop()
    finally:
        exporter.kill()
    yield {"metrics": found, "targets": targets(cluster.processes.values()), "spans": seen}


def test_every_metric_its_type_and_its_labels(hurt):
    emitted = dict(hurt["metrics"])
    assert len(emitted) == len(hurt["metrics"]), "a name has two types or sets of labels"
    assert emitted == listed_metrics()


def test_every_span_and_its_attributes(hurt):
    listed = {(name, attribute) for name_cell, _, attribute_cell in rows("Traces")
              for name in names(name_cell) for attribute in names(attribute_cell)}
    assert hurt["spans"] == listed


def test_every_log_target(hurt, build, tiny_model, tmp_path):
    emitted = set(hurt["targets"])
    with Cluster(build, tiny_model, tmp_path / "hosted", hosted_router=True,
                 stage=DEBUG) as cluster:
        cluster.client().generate(max_tokens=2, **ASK)
        cluster.stop()
    emitted |= targets(cluster.processes.values())
    with Cpud(build, tmp_path / "cpud", tiny_model) as cpud:
        with HttpPeer(cpud.url) as peer:
            reply = peer.post("/v1/completions", {"prompt": [2, 3], "max_tokens": 2})
            assert reply.status == 200, reply.json
        page = scrape(cpud.url)
        cpud.stop()
    assert dict(shown(page)).items() <= listed_metrics().items()
    emitted |= targets([cpud.process])
    emitted |= {actor + UNREAD for actor in actors()}
    assert emitted == {name for row in rows("Logs") for name in names(row[0])}


def actors() -> set[str]:
    """The first parts of the targets of all that log, as the sources name them."""
    sources = [path.read_text() for path in Path(ROOT / "actors").glob("*.cpp")]
    assert f'+ "{UNREAD}"' in (ROOT / "actors" / "log.cpp").read_text()
    return {name.replace("-", "_") for text in sources
            for name in re.findall(r'kActor\[\] = "([a-z-]+)"', text)}


def test_no_target_in_the_sources_is_missed():
    """What log_line is told a line is about, in the sources, is the second part of some target."""
    about = {"requests", "process"}  # the two that log_line chooses itself
    for path in Path(ROOT / "actors").glob("*.cpp"):
        for call in re.findall(r"log_line\(.*?\);", path.read_text(), re.DOTALL):
            behind_span = re.search(r", (?:span|\{\}), (.*)", call, re.DOTALL)
            about |= set(re.findall(r'"(\w+)"', behind_span[1])) if behind_span else set()
    assert about == {name.partition("::")[2] for row in rows("Logs") for name in names(row[0])
                     } - {"log"}
