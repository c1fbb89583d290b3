// What the console adds to its pages: times in the reader's zone, copying and the theme. Every page works
// without it.

const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

function relative(moment) {
  const seconds = (moment - Date.now()) / 1000;
  if (Math.abs(seconds) > 30 * 86400) return moment.toLocaleDateString();
  const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  return words.format(Math.trunc(seconds / size), unit);
}

function improve(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (Number.isNaN(moment.getTime())) continue;
    time.title = `${moment.toLocaleString()} (${moment.toISOString().slice(0, 19).replace("T", " ")} UTC)`;
    time.textContent = relative(moment);
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

document.addEventListener("changed", () => improve(document)); // by `live.js`

// The columns that a reader chose for a list are in its address, and come back with links to it.
function columnsOf(list) {
  try { return localStorage.getItem(`columns ${list}`) ?? ""; } catch { return ""; }
}
const picked = document.querySelector("details.pick");
if (picked) {
  picked.closest("form").addEventListener("submit", () => {
    const boxes = [...picked.querySelectorAll("input")], chosen = boxes.filter((box) => box.checked);
    const query = chosen.length < boxes.length ? chosen.map((box) => `columns=${box.value}`).join("&") : "";
    try {
      if (query) localStorage.setItem(`columns ${location.pathname}`, query);
      else localStorage.removeItem(`columns ${location.pathname}`);
    } catch { /* they are in the address */ }
    if (!query) for (const box of boxes) box.disabled = true; // all: the address needs none
  });
}
for (const link of document.querySelectorAll("#menu a")) {
  const columns = columnsOf(link.pathname);
  if (columns) link.search = columns;
}

improve(document);
setInterval(() => { if (!document.hidden) improve(document); }, 30_000);
