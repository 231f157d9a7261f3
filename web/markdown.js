// Markdown to DOM nodes: headings, paragraphs, lists, quotes, tables, code, emphasis, links. What
// a model wrote only ever becomes text nodes and a few known elements, never markup.

function element(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
}

// Code, strong, emphasis, link.
const INLINE = new RegExp([
  /(`+)([\s\S]+?)\1(?!`)/, /\*\*([\s\S]+?)\*\*/, /\*([^\s*](?:[^*]*[^\s*])?)\*/,
  /\[([^\]\n]*)\]\((https?:\/\/[^\s)]+)\)/,
].map((part) => part.source).join("|"), "g");
const DEPTH_MAX = 8;

// The nodes of one paragraph's text.
function inline(text, depth = 0) {
  const nodes = [];
  let last = 0;
  if (depth < DEPTH_MAX) {
    for (const match of text.matchAll(INLINE)) {
      if (match.index > last) nodes.push(text.slice(last, match.index));
      last = match.index + match[0].length;
      if (match[1]) nodes.push(element("code", match[2]));
      else if (match[3]) nodes.push(element("strong", ...inline(match[3], depth + 1)));
      else if (match[4]) nodes.push(element("em", ...inline(match[4], depth + 1)));
      else nodes.push(link(match[5], match[6]));
    }
  }
  if (last < text.length) nodes.push(text.slice(last));
  return nodes;
}

function link(text, address) {
  const node = element("a", text || address);
  node.href = address;
  node.rel = "noopener noreferrer";
  node.target = "_blank";
  return node;
}

function snippet(code, language) {
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed";
    }
  });
  const block = element("pre", element("code", code));
  block.tabIndex = 0;
  block.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  block.setAttribute("role", "region");
  const node = element("div", block, copy);
  node.className = "snippet";
  return node;
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

function list(lines, start) {
  const first = ITEM.exec(lines[start]);
  const ordered = /\d/.test(first[2]);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = Number.parseInt(first[2], 10);
  let at = start;
  for (; at < lines.length; at += 1) {
    const match = ITEM.exec(lines[at]);
    if (match && /\d/.test(match[2]) === ordered) node.append(element("li", ...inline(match[3])));
    else if (/^\s{2,}\S/.test(lines[at])) node.lastChild.append("\n", ...inline(lines[at].trim()));
    else break;
  }
  return [node, at];
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
const isRule = (line) => /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(line ?? "");

function table(lines, start) {
  const head = element("tr", ...cells(lines[start]).map((cell) => element("th", ...inline(cell))));
  const node = element("table", element("thead", head));
  const body = element("tbody");
  let at = start + 2;
  for (; at < lines.length && lines[at].includes("|"); at += 1) {
    body.append(element("tr", ...cells(lines[at]).map((cell) => element("td", ...inline(cell)))));
  }
  node.append(body);
  node.tabIndex = 0;
  return [node, at];
}

const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)/;
const startsBlock = (line, next) => FENCE.test(line) || /^#{1,6}\s/.test(line) ||
  ITEM.test(line) || /^\s*>/.test(line) || (line.includes("|") && isRule(next));

export function render(text) {
  const lines = text.split("\n");
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      let end = at + 1;
      while (end < lines.length && !lines[end].trim().startsWith(fence[1])) end += 1;
      nodes.push(snippet(lines.slice(at + 1, end).join("\n"), fence[2]));
      at = end + 1;
    } else if (/^#{1,6}\s/.test(line)) {
      nodes.push(element("h2", ...inline(line.replace(/^#+\s+/, ""))));
      at += 1;
    } else if (ITEM.test(line)) {
      const [node, end] = list(lines, at);
      nodes.push(node);
      at = end;
    } else if (/^\s*>/.test(line)) {
      const quoted = [];
      for (; at < lines.length && /^\s*>/.test(lines[at]); at += 1) {
        quoted.push(lines[at].replace(/^\s*>\s?/, ""));
      }
      nodes.push(element("blockquote", ...inline(quoted.join("\n"))));
    } else if (line.includes("|") && isRule(lines[at + 1])) {
      const [node, end] = table(lines, at);
      nodes.push(node);
      at = end;
    } else {
      const paragraph = [line];
      for (at += 1; at < lines.length && lines[at].trim(); at += 1) {
        if (startsBlock(lines[at], lines[at + 1])) break;
        paragraph.push(lines[at]);
      }
      nodes.push(element("p", ...inline(paragraph.join("\n"))));
    }
  }
  return nodes;
}
