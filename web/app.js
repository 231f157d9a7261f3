// The page: which view is shown, and what both views share.
import { startChat } from "./chat.js";
import { startPipeline } from "./pipeline.js";

const $ = (id) => document.getElementById(id);

function show(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === view));
  }
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => show(button.dataset.show));
}
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    show("chat");
    $("prompt").focus();
    event.preventDefault();
  }
});

// The key stays in this tab: it is asked for where the router wants one.
$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => sessionStorage.setItem("key", $("key").value));
const headers = () => ($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {});

startChat($, headers);
startPipeline($, headers);
