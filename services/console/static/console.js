// What the console adds to its pages: times in the reader's zone, copying, the theme, and live parts that keep
// what a reader has opened. Every page works without it.

function improve(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.textContent = moment.toLocaleString();
  }
  for (const button of root.querySelectorAll("button.copy")) button.hidden = !navigator.clipboard;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.lastChild.textContent = " Copied";
});

const theme = document.querySelector("button.theme");
if (theme) {
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = document.documentElement.dataset.bsTheme === "dark" ? "light" : "dark";
    document.documentElement.dataset.bsTheme = next;
    try { localStorage.setItem("theme", next); } catch { /* it counts for this page */ }
  });
}

function stale(isStale) {
  for (const note of document.querySelectorAll(".stale")) note.hidden = !isStale;
}

if (globalThis.Idiomorph) {
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" && node.tagName === "DETAILS");
}
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault(); // nobody looks
});
document.addEventListener("htmx:afterSettle", () => { improve(document); stale(false); });
document.addEventListener("htmx:sendError", () => stale(true));
document.addEventListener("htmx:responseError", () => stale(true));
improve(document);
