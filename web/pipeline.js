// The live pipeline: routes as rows of boxes, one a worker, from /status.json every second while
// the page is looked at. It keeps two answers, one node a worker and the last events, whatever the
// time it runs.
import { histogramDelta, orderOf, quantile, text, workerFigures } from "./figures.js";

const INTERVAL_MS = 1000;
const EVENTS_SHOWN = 30;
const GONE_SHOWN_MS = 60000;
const WORKERS_MAX = 1024;

function element(tag, className, content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content !== undefined) node.textContent = content;
  return node;
}

function set(node, content) {
  if (node.textContent !== content) node.textContent = content;
}

// A box whose texts are replaced, not its nodes.
class Box {
  constructor(name) {
    this.node = element("li", "box");
    const title = element("div", "title");
    this.name = element("span", "", name);
    this.state = element("span", "pill");
    title.append(this.name, this.state);
    this.meter = element("div", "meter");
    this.meter.title = "busy: what is no bubble";
    this.bar = element("div");
    this.meter.append(this.bar);
    this.list = element("dl");
    this.rows = new Map();
    this.node.append(title, this.meter, this.list);
  }

  row(label, content) {
    if (!this.rows.has(label)) {
      const value = element("dd");
      this.list.append(element("dt", "", label), value);
      this.rows.set(label, value);
    }
    set(this.rows.get(label), content);
  }

  // What is known of a worker that left: its figures were of a time that is over.
  setGone(seconds) {
    this.setState("gone");
    const layers = this.rows.get("layers")?.textContent;
    if (!this.rows.has("since")) {
      this.rows.clear();
      this.list.replaceChildren();
      if (layers) this.row("layers", layers);
    }
    this.row("since", text.duration(seconds));
  }

  setState(state) {
    if (state !== "gone" && this.rows.has("since")) {
      this.rows.clear();
      this.list.replaceChildren();
    }
    this.node.className = `box ${state}`;
    this.state.className = `pill ${state === "ready" ? "good" : state === "gone" ? "bad" : "warn"}`;
    set(this.state, state);
  }
}

export function startPipeline($, headers) {
  const boxes = new Map(); // by worker
  const groups = new Map(); // by route
  const goneSince = new Map();
  let before = null, lastEvent = 0;

  function figure(label, content) {
    const id = `figure-${label.replace(/\W/g, "-")}`;
    let node = $(id);
    if (!node) {
      const entry = element("div");
      node = element("dd");
      node.id = id;
      entry.append(element("dt", "", label), node);
      $("figures").append(entry);
    }
    set(node, content);
  }

  function drawFigures(now, elapsedUs) {
    const tokens = now.counters.tokens_committed - (before?.counters.tokens_committed ?? 0);
    const first = histogramDelta(now.histograms.time_to_first_token_ms,
      before?.histograms.time_to_first_token_ms);
    figure("tokens/s", before && elapsedUs > 0 ? text.number((tokens * 1e6) / elapsedUs) : "–");
    figure("running", String(now.running));
    figure("waiting", String(now.waiting));
    figure("first token P50", first.counts.some(Boolean)
      ? `${text.number(quantile(first, 0.5))} ms` : "–");
    figure("requests", String(now.counters.requests));
    figure("routes lost", String(now.counters.routes_down));
    figure("recovered", String(now.counters.recoveries));
    figure("up", text.duration(now.uptime_us / 1e6));
  }

  function drawWorker(worker, route, elapsedUs) {
    if (!boxes.has(worker.name)) boxes.set(worker.name, new Box(worker.name));
    const box = boxes.get(worker.name);
    const old = before?.workers.find((other) => other.name === worker.name);
    const figures = workerFigures(worker, old, elapsedUs);
    box.setState(worker.state);
    if (figures.layers) box.row("layers", figures.layers);
    if (figures.isSampler) box.row("head", "yes");
    box.row("tokens/s", text.number(figures.rowsPerS));
    box.row("queue", String(worker.frames_held));
    box.row("step P50 / P99", `${text.number(figures.stepP50Ms)} / ` +
      `${text.number(figures.stepP99Ms)} ms`);
    box.row("waits", text.share(figures.waitShare));
    box.row("bubble", text.share(figures.bubble));
    if (route && figures.layers) {
      const { kv_held: held = 0, kv_blocks: blocks = 0, in_flight: flying = 0 } = route.counters;
      box.row("in flight", String(flying));
      box.row("KV blocks", `${held} of ${blocks}`);
    }
    box.row("memory", `${Math.round(worker.counters.memory_bytes / 2 ** 20)} MiB`);
    const busy = figures.bubble === null ? 0 : 1 - figures.bubble;
    box.bar.style.width = `${Math.round(100 * busy)}%`;
    return box;
  }

  function group(key, title, kind = "") {
    if (!groups.has(key)) {
      const node = element("div", "route");
      const heading = element("h3");
      const list = element("ul", `boxes ${kind}`);
      node.append(heading, list);
      $("routes").append(node);
      groups.set(key, { node, heading, list });
    }
    const found = groups.get(key);
    set(found.heading, title);
    return found.list;
  }

  function fill(list, nodes) {
    const same = list.children.length === nodes.length &&
      nodes.every((node, i) => list.children[i] === node);
    if (!same) list.replaceChildren(...nodes);
  }

  function drawRoutes(now, elapsedUs) {
    const byName = new Map(now.workers.map((worker) => [worker.name, worker]));
    const placed = new Set();
    const wanted = new Set();
    for (const route of now.routes) {
      const names = [...new Set(route.hops.map((hop) => hop.worker))];
      const nodes = [];
      for (const name of names) {
        if (!byName.has(name)) continue;
        placed.add(name);
        nodes.push(drawWorker(byName.get(name), route, elapsedUs).node);
      }
      const key = `route ${route.generation}`;
      wanted.add(key);
      fill(group(key, `Route ${route.generation}, ${route.up ? "up" : "coming up"}, ` +
        `${route.running} sequences`, "flow"), nodes);
    }
    const free = now.workers.filter((worker) => !placed.has(worker.name))
      .sort((a, b) => orderOf(a) - orderOf(b) || a.name.localeCompare(b.name));
    if (free.length) {
      wanted.add("free");
      fill(group("free", "Without a route"),
        free.map((worker) => drawWorker(worker, null, elapsedUs).node));
    }
    drawGone(byName, wanted);
    for (const [key, { node }] of groups) {
      if (wanted.has(key)) continue;
      node.remove();
      groups.delete(key);
    }
  }

  // A worker that left is shown for a minute.
  function drawGone(byName, wanted) {
    const nodes = [];
    for (const [name, box] of boxes) {
      if (byName.has(name)) {
        goneSince.delete(name);
        continue;
      }
      const since = goneSince.get(name) ?? performance.now();
      goneSince.set(name, since);
      if (performance.now() - since > GONE_SHOWN_MS || boxes.size > WORKERS_MAX) {
        boxes.delete(name);
        goneSince.delete(name);
        continue;
      }
      box.setGone((performance.now() - since) / 1000);
      nodes.push(box.node);
    }
    if (!nodes.length) return;
    wanted.add("gone");
    fill(group("gone", "Gone"), nodes);
  }

  function drawEvents(now) {
    const newest = now.events.at(-1)?.number ?? 0;
    if (newest < lastEvent) { // another router
      lastEvent = 0;
      $("events").replaceChildren();
    }
    for (const event of now.events) {
      if (event.number <= lastEvent) continue;
      lastEvent = event.number;
      const at = new Date(Date.now() - event.age_us / 1000);
      const line = element("li", event.warning ? "warn" : "");
      line.append(element("time", "", at.toLocaleTimeString()), event.text);
      $("events").prepend(line);
    }
    while ($("events").children.length > EVENTS_SHOWN) $("events").lastChild.remove();
  }

  function health(kind, content) {
    $("health").className = `pill ${kind}`;
    set($("health"), content);
  }

  async function look() {
    if (document.hidden) return;
    let now;
    try {
      const response = await fetch("/status.json", { headers: headers(), cache: "no-store" });
      if (response.status === 401) return health("warn", "needs an API key");
      if (!response.ok) throw new Error(String(response.status));
      now = await response.json();
    } catch {
      before = null;
      set($("no-route"), "");
      return health("bad", "router unreachable");
    }
    if (before && now.uptime_us < before.uptime_us) before = null; // another router
    const elapsedUs = now.uptime_us - (before?.uptime_us ?? 0);
    if (before && elapsedUs === 0) return;
    set($("model"), now.model);
    health(now.ready ? "good" : "bad", now.ready ? "ready" : "no route");
    $("health").title = now.no_route;
    set($("no-route"), now.no_route && `No route: ${now.no_route}.`);
    drawFigures(now, elapsedUs);
    drawRoutes(now, elapsedUs);
    drawEvents(now);
    before = now;
  }

  async function run() {
    await look();
    setTimeout(run, INTERVAL_MS);
  }
  document.addEventListener("visibilitychange", () => {
    before = null;
    look();
  });
  run();
}
