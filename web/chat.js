// The chat: messages go to the router's OpenAI API, the answer streams back.
import { render } from "./markdown.js";

const FAR_UP = 80; // pixels from the end, from which on the view is left where the reader has it
const REDRAW_MS = 60;

// The `data:` of server-sent events, in order.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      for (const line of rest.slice(0, end).split("\n")) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
      rest = rest.slice(end + 2);
    }
  }
}

function article(kind, label) {
  const node = document.createElement("article");
  node.className = kind;
  node.setAttribute("aria-label", label);
  return node;
}

function note(kind, text) {
  const node = document.createElement("p");
  node.className = kind;
  node.textContent = text;
  return node;
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the router answered ${response.status}`;
  }
}

export function startChat($, headers) {
  const log = $("log");
  let messages = [];
  let running = null; // the AbortController of an answer

  const follows = () => log.scrollHeight - log.scrollTop - log.clientHeight < FAR_UP;
  const add = (node) => {
    $("hello").hidden = true;
    log.append(node);
    log.scrollTop = log.scrollHeight;
  };

  function request() {
    const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
    const system = $("system").value.trim();
    return {
      messages: system ? [{ role: "system", content: system }, ...messages] : messages,
      temperature: number("temperature"),
      top_p: number("top_p"),
      max_tokens: number("max_tokens"),
      seed: number("seed"),
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  async function answer(node) {
    const began = performance.now();
    let text = "", first = 0, usage = null, reason = "", drawnAt = 0, due = 0;
    const draw = () => {
      clearTimeout(due);
      due = 0;
      const end = follows();
      node.replaceChildren(...render(text));
      drawnAt = performance.now();
      if (end) log.scrollTop = log.scrollHeight;
    };
    running = new AbortController();
    try {
      const response = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json", ...headers() },
        body: JSON.stringify(request()),
        signal: running.signal,
      });
      if (!response.ok) throw new Error(await failure(response));
      for await (const data of eventsOf(response.body)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        usage = chunk.usage ?? usage;
        const choice = chunk.choices?.[0];
        reason = choice?.finish_reason ?? reason;
        if (!choice?.delta?.content) continue;
        if (!first) first = performance.now();
        text += choice.delta.content;
        const wait = drawnAt + REDRAW_MS + text.length / 500 - performance.now();
        if (!due) due = setTimeout(draw, Math.max(0, wait));
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        draw();
        node.append(note("error", error.message));
        return text;
      }
      reason = "stopped";
    } finally {
      clearTimeout(due);
      running = null;
    }
    draw();
    const seconds = (performance.now() - first) / 1000;
    const parts = [];
    if (usage) parts.push(`${usage.completion_tokens} tokens`);
    if (first) parts.push(`first after ${Math.round(first - began)} ms`);
    if (usage && usage.completion_tokens > 1 && seconds > 0) {
      parts.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
    }
    parts.push(reason || "ended");
    node.append(note("stats", parts.join(" · ")));
    return text;
  }

  async function send() {
    const text = $("prompt").value.trim();
    if (!text || running) return;
    $("prompt").value = "";
    const thread = messages; // "New chat" begins another
    thread.push({ role: "user", content: text });
    const mine = article("user", "You");
    mine.textContent = text;
    add(mine);
    const node = article("assistant", "Answer");
    node.setAttribute("aria-busy", "true");
    node.append(note("quiet", "…"));
    add(node);
    $("send").hidden = true;
    $("stop").hidden = false;
    const said = await answer(node);
    node.removeAttribute("aria-busy");
    if (said) thread.push({ role: "assistant", content: said });
    else thread.pop(); // what was not answered is not asked again with the next message
    $("send").hidden = false;
    $("stop").hidden = true;
    if (document.activeElement === document.body) $("prompt").focus();
  }

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  $("clear").addEventListener("click", () => {
    running?.abort();
    messages = [];
    log.replaceChildren($("hello"));
    $("hello").hidden = false;
    $("prompt").focus();
  });
}
