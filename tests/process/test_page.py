"""The router's page in Chromium: no error, no outside request, live boxes, and what a kill shows.

Needs Debian's chromium. CHATLOOP_SCREENSHOTS names a folder for pictures of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, wait_until
from conftest import ROOT
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from scrape import fetch

HTTP = ["--http", "127.0.0.1:0"]
WIDTHS = {"phone": (360, 740), "laptop": (1366, 768), "4k": (3840, 2160)}
PAGE_BYTES_MAX = 100_000
SEEN_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "chromium is missing; scripts/install_deps.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(build, tiny_model, tmp_path_factory):
    with Cluster(build, tiny_model, tmp_path_factory.mktemp("page"), own_sampler=True,
                 router=HTTP) as cluster:
        yield cluster
        cluster.stop()


class Visit:
    """A page and what went wrong on it."""

    def __init__(self, browser: Browser, url: str, width: int, height: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height},
                                           color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.addresses: set[str] = set()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.addresses.add(request.url))
        self.page.goto(url + "/")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


@pytest.fixture
def visit(browser, served) -> Iterator:
    visits: list[Visit] = []

    def make(width: int = 1366, height: int = 768, scheme: str = "light",
             cluster: Cluster | None = None) -> Visit:
        url = (cluster or served).endpoints["http"]
        visits.append(Visit(browser, url, width, height, scheme))
        return visits[-1]

    yield make
    for made in visits:
        made.context.close()


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("CHATLOOP_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(WIDTHS))
def test_it_fits_every_screen_without_an_error(visit, served, size, scheme):
    seen = visit(*WIDTHS[size], scheme)
    page = seen.page
    expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    if size == "phone":
        page.get_by_role("button", name="Pipeline").click()
    expect(page.locator(".box")).to_have_count(3)
    picture(page, f"{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if size == "phone":
        page.get_by_role("button", name="Chat").click()
        expect(page.locator("#prompt")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture(page, f"{size}-{scheme}-chat")
    assert seen.errors == []
    origin = served.endpoints["http"]
    assert all(address.startswith(origin + "/") for address in seen.addresses)


def test_it_is_small_and_may_load_nothing_else(served):
    origin = served.endpoints["http"]
    names = sorted(os.listdir(ROOT / "web"))
    paths = ["/", *("/web/" + n for n in names if n.endswith((".js", ".css", ".svg")))]
    assert sum(len(fetch(origin, path).encode()) for path in paths) < PAGE_BYTES_MAX
    with urllib.request.urlopen(origin + "/") as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_a_browser_that_has_its_files_gets_none_again(served, visit):
    origin = served.endpoints["http"]
    with urllib.request.urlopen(origin + "/web/app.js") as response:
        tag = response.headers["ETag"]
    again = urllib.request.Request(origin + "/web/app.js", headers={"If-None-Match": tag})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(again)
    assert refused.value.code == 304 and refused.value.read() == b""
    assert refused.value.headers["ETag"] == tag
    other = urllib.request.Request(origin + "/web/app.js", headers={"If-None-Match": '"x"'})
    with urllib.request.urlopen(other) as response:
        assert response.status == 200 and b"startChat" in response.read()
    seen = visit()
    expect(seen.page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    assert not any(address.endswith(".css") for address in seen.addresses)
    seen.page.reload()
    expect(seen.page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    assert seen.errors == []


def test_the_modules_are_asked_for_together(served):
    """None is found only when another has arrived."""
    modules = {n for n in os.listdir(ROOT / "web") if n.endswith(".js")} - {"app.js"}
    named = re.findall(r'rel="modulepreload" href="/web/([\w.]+)"', fetch(served.endpoints["http"],
                                                                        "/"))
    assert sorted(named) == sorted(modules)


def test_status_json_is_status(served):
    shown = json.loads(fetch(served.endpoints["http"], "/status.json"))
    told = served.client().status()
    assert shown.keys() == told.keys()
    assert [w["name"] for w in shown["workers"]] == [w["name"] for w in told["workers"]]


def test_boxes_show_work_while_there_is_some(visit, served):
    page = visit().page
    expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    with served.client().stream(token_ids=[2, 3], max_tokens=200, ignore_eos=True) as stream:
        for _ in stream:
            pass
    box = page.locator(".box", has_text="stage-0")
    page.wait_for_function(
        """() => [...document.querySelectorAll('.box')].some((box) => box.innerText
             .includes('stage-0') &&
             /step P50 \\/ P99\\s+[\\d.]+ \\/ [\\d.]+ ms/.test(box.innerText))""",
        timeout=SEEN_MS)
    assert "layers" in box.inner_text() and "KV" in box.inner_text()
    assert "head" in page.locator(".box", has_text="sampler").inner_text()


def test_a_killed_stage_is_seen_and_its_return(build, tiny_model, tmp_path, visit):
    with Cluster(build, tiny_model, tmp_path, own_sampler=True, router=HTTP) as cluster:
        seen = visit(cluster=cluster)
        page = seen.page
        expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
        cluster.processes["stage-1"].kill()
        expect(page.locator(".box.gone .title")).to_contain_text("stage-1", timeout=SEEN_MS)
        expect(page.locator("#health")).to_have_text("no route", timeout=SEEN_MS)
        expect(page.locator("#no-route")).to_contain_text("layers 2-3 are missing")
        expect(page.locator("#events li.warn").first).to_be_visible()
        picture(page, "killed")
        cluster.restart("stage-1")
        expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
        expect(page.locator(".box.gone")).to_have_count(0, timeout=SEEN_MS)
        expect(page.locator("#no-route")).to_be_empty()
        picture(page, "back")
        assert seen.errors == []
        cluster.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(scheme=scheme).page
    expect(page.locator(".box")).to_have_count(3, timeout=SEEN_MS)
    page.locator("#options summary").click()
    page.evaluate("""async (text) => {
        const { render } = await import('/web/markdown.js');
        const node = document.createElement('article');
        node.className = 'assistant';
        node.append(...render(text));
        document.getElementById('log').append(node);
    }""", "# T\n\n`c` [l](https://a.b)\n\n- i\n\n```py\nx\n```\n\n|a|\n|-|\n|b|")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_it_is_used_with_the_keyboard_alone(visit):
    """Chat: / to the field, Enter sends, an answer or an error comes, Esc and Tab do no harm."""
    page = visit().page
    expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("you")
    page.keyboard.press("Enter")
    expect(page.locator("article.user")).to_have_text("hello\nyou")
    expect(page.locator("article.assistant .stats, article.assistant .error")).to_be_visible(
        timeout=SEEN_MS)
    assert page.locator("#prompt").input_value() == ""
    picture(page, "answered")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#hello")).to_be_visible()


def test_an_answer_streams_and_stops(browser, build, smollm2, tmp_path):
    with Cluster(build, smollm2(2), tmp_path, router=HTTP) as cluster:
        seen = Visit(browser, cluster.endpoints["http"], 1366, 768, "light")
        page = seen.page
        expect(page.locator("#health")).to_have_text("ready", timeout=SEEN_MS)
        page.locator("#options summary").click()
        page.locator("#max_tokens").fill("400")
        page.locator("#temperature").fill("0")
        page.locator("#prompt").fill("Write a long story about the sea.")
        page.locator("#send").click()
        expect(page.locator("#stop")).to_be_visible()
        answer = page.locator("article.assistant")
        expect(answer).to_have_text(re.compile(".{60}", re.S), timeout=SEEN_MS)
        picture(page, "streams")
        page.keyboard.press("Escape")
        expect(answer.locator(".stats")).to_contain_text("stopped", timeout=SEEN_MS)
        expect(page.locator("#send")).to_be_visible()
        watch = cluster.client()
        # The router was told, and lets the request go.
        wait_until(lambda: watch.status()["running"] == 0, 10, "it has ended")
        page.locator("#max_tokens").fill("5")
        page.locator("#prompt").fill("Say hello.")
        page.locator("#send").click()
        expect(page.locator("article.assistant .stats").nth(1)).to_contain_text(
            "tokens", timeout=SEEN_MS)
        assert seen.errors == []
        seen.context.close()
        cluster.stop()


RENDER = """async (text) => {
  const { render } = await import('/web/markdown.js');
  const node = document.createElement('div');
  node.append(...render(text));
  document.body.append(node);
  const html = node.innerHTML;
  node.remove();
  return html;
}"""


@pytest.mark.parametrize("text", [
    "<img src=x onerror=alert(1)>", "<script>window.hurt = 1</script>",
    "[a](javascript:alert(1))", "![x](http://a/b)", "```html\n<b>\n", "`<b>`", "**<i>x</i>**",
    "| a | <b> |\n|---|---|\n| <script> | x |", "[x](http://a/\"onmouseover=alert(1))",
    "# <b>", "> <b>", "- <b>\n- [j](data:text/html,x)",
])
def test_what_a_model_writes_never_becomes_markup(visit, text):
    page = visit().page
    page.evaluate("window.hurt = 0")
    html = page.evaluate(RENDER, text)
    tags = page.evaluate("""(html) => [...new DOMParser().parseFromString(html, 'text/html')
        .body.querySelectorAll('*')].map((n) => [n.tagName.toLowerCase(),
        ...[...n.attributes].map((a) => a.name)])""", html)
    allowed = {"p", "code", "pre", "div", "button", "strong", "em", "a", "h2", "ul", "ol", "li",
               "table", "thead", "tbody", "tr", "td", "th", "blockquote"}
    for tag, *attributes in tags:
        assert tag in allowed
        assert set(attributes) <= {"href", "rel", "target", "class", "type", "tabindex", "role",
                                   "aria-label", "start"}
    assert "javascript:" not in "".join(t for t in html.split('href="')[1:])
    assert page.evaluate("window.hurt") == 0


def test_markdown_has_the_elements_of_its_source(visit):
    html = visit().page.evaluate(
        RENDER, "# T\n\nOne **two** `x < y` [l](https://a.b/c)\n\n1. a\n2. b\n\n- c\n\n"
                "```py\nif a < b:\n    pass\n```\n\n| h | i |\n|---|---|\n| 1 | 2 |\n\n> q")
    for part in ("<h2>T</h2>", "<strong>two</strong>", "<code>x &lt; y</code>",
                 'href="https://a.b/c"', "<li>a</li><li>b</li></ol>", "<ul><li>c</li></ul>",
                 "if a &lt; b:\n    pass", "<td>1</td><td>2</td>", "<blockquote>q</blockquote>"):
        assert part in html, part


def test_long_odd_texts_are_rendered_in_time(visit):
    page = visit().page
    for text in ("*" * 20_000, "`" * 20_000, "[" * 20_000, "**a" * 7_000, "| " * 10_000,
                 "1. a\n" * 4_000, "```\n" * 4_001, "> " * 9_000):
        took_ms = page.evaluate("""async (text) => {
            const { render } = await import('/web/markdown.js');
            const start = performance.now();
            render(text);
            return performance.now() - start;
        }""", text)
        assert took_ms < 2000, text[:10]
