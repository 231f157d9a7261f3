"""A /metrics page, read strictly: the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import dataclass, field

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')
SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass
class Page:
    types: dict[str, str] = field(default_factory=dict)  # of the families
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def value(self, name: str, **labels: str) -> float:
        return self.samples[(name, tuple(sorted(labels.items())))]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of the name that have these labels, which may be none."""
        wanted = set(labels.items())
        return sum(v for (n, have), v in self.samples.items() if n == name and wanted <= set(have))

    def labels(self, name: str, label: str) -> set[str]:
        return {dict(have)[label] for n, have in self.samples if n == name}


def parse(text: str) -> Page:
    """Fails on a sample without a family, a repeated one, or one that is no number."""
    page = Page()
    helped = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, said = line[7:].partition(" ")
            assert said and name not in helped, line
            helped.add(name)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name in helped and name not in page.types, line
            page.types[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            labels = LABEL.findall(match[2] or "")
            assert "".join(f'{k}="{v}",' for k, v in labels).rstrip(",") == (match[2] or ""), line
            family = match[1]
            if family not in page.types:
                family = next(family.removesuffix(s) for s in SUFFIXES if family.endswith(s))
                assert page.types[family] == "histogram", line
            key = (match[1], tuple(sorted(labels)))
            assert key not in page.samples, line
            page.samples[key] = float(match[3])
    return page


def fetch(url: str, path: str = "/metrics") -> str:
    with urllib.request.urlopen(url + path, timeout=10) as response:
        assert response.status == 200
        return response.read().decode()


def scrape(url: str) -> Page:
    return parse(fetch(url))
