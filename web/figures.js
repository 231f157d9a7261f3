// Figures out of two answers of /status.json, as python/chatloop/view/stages.py has them.

const STAGE = 1, SAMPLER = 2;

export const text = {
  number: (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    return value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2);
  },
  share: (value) => (value === null ? "–" : `${Math.round(100 * value)}%`),
  duration: (seconds) => {
    if (seconds < 60) return `${Math.round(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} d`;
  },
};

export function quantile(histogram, part) {
  const total = histogram.counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let seen = 0, low = 0;
  for (let i = 0; i < histogram.bounds.length; i += 1) {
    const count = histogram.counts[i], bound = histogram.bounds[i];
    if (count && seen + count >= part * total) {
      return low + ((bound - low) * (part * total - seen)) / count;
    }
    seen += count;
    low = bound;
  }
  return low;
}

export function histogramDelta(now, before) {
  if (!before || before.sum > now.sum) return now;
  return { bounds: now.bounds, counts: now.counts.map((count, i) => count - before.counts[i]) };
}

function workDelta(now, before) {
  if (!before || before.frames > now.frames) return now;
  const delta = { step_s: histogramDelta(now.step_s, before.step_s) };
  for (const name of ["frames", "rows", "busy_us", "queue_us", "work_us"]) {
    delta[name] = now[name] - before[name];
  }
  return delta;
}

// Where in a route a worker would stand.
export const orderOf = (worker) => (worker.roles & STAGE ? worker.layers[0] : Number.MAX_SAFE_INTEGER);

// One entry a worker: what its roles did between the two.
export function workerFigures(worker, before, elapsedUs) {
  const deltas = worker.work.map((work) =>
    workDelta(work, before?.work.find((old) => old.role === work.role)));
  const sum = (name) => deltas.reduce((total, delta) => total + delta[name], 0);
  const workUs = Math.max(0, ...deltas.map((delta) => delta.work_us));
  const stage = worker.work.findIndex((work) => work.role === STAGE);
  const main = deltas[Math.max(0, stage)];
  const timeUs = sum("busy_us") + sum("queue_us");
  return {
    rowsPerS: main && elapsedUs > 0 ? (main.rows * 1e6) / elapsedUs : null,
    stepP50Ms: main ? scale(quantile(main.step_s, 0.5)) : null,
    stepP99Ms: main ? scale(quantile(main.step_s, 0.99)) : null,
    waitShare: timeUs > 0 ? sum("queue_us") / timeUs : null,
    bubble: workUs > 0 ? Math.min(1, Math.max(0, 1 - sum("busy_us") / workUs)) : null,
    layers: worker.roles & STAGE ? `${worker.layers[0]}–${worker.layers[1] - 1}` : "",
    isSampler: Boolean(worker.roles & SAMPLER),
  };
}

const scale = (seconds) => (seconds === null ? null : seconds * 1000);
