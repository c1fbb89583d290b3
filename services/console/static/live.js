// Live parts of a page: the overview by server-sent events, others by reading the page again. What a reader has
// opened, focused or typed stays. A hidden page does nothing: a browser has few connections to a host.

const live = document.getElementById("live");
const rows = document.getElementById("rows");
const { session } = document.body.dataset;
const OLD_MS = 8_000; // the hub says something every 3 s
const ROWS = 50;
const NEWS_MS = 20_000; // between announcements

function tell(text) {
  for (const note of document.querySelectorAll(".stale")) {
    if (note.textContent !== text) note.textContent = text;
    note.hidden = !text;
  }
}

function morph(element, next) {
  if (!element || !next) return;
  Idiomorph.morph(element, next, {
    ignoreActiveValue: true,
    callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS") },
  });
  document.dispatchEvent(new Event("changed"));
}

const parse = (html) => new DOMParser().parseFromString(html, "text/html");

async function poll() {
  try {
    const response = await fetch(live.dataset.from || location.href, { headers: { accept: "text/html" } });
    if (response.status === 401) return location.reload(); // it asks for a key
    if (!response.ok) throw new Error(response.status);
    const page = parse(await response.text());
    if (page.body.dataset.session !== session) return location.reload(); // the person has changed the workspace
    morph(document.getElementById("live"), page.getElementById("live"));
    if (rows) add([...page.querySelectorAll("#rows > li")]);
    tell("");
  } catch {
    tell("These figures are old: the hub does not answer.");
  }
}

// Pages that are read again

async function repeat() {
  const every = document.getElementById("live")?.dataset.every; // without it, nothing changes any more
  if (!every) return;
  await new Promise((resume) => setTimeout(resume, every * 1000));
  if (!document.hidden) await poll();
  repeat();
}

// The stream of the overview

let source, again, heard = 0, wait = 1000;

function connect() {
  clearTimeout(again);
  if (document.hidden || source?.readyState < EventSource.CLOSED) return;
  const address = new URL(live.dataset.stream, location.href);
  const newest = rows?.firstElementChild?.dataset.id;
  if (newest) address.searchParams.set("last", newest);
  address.searchParams.set("session", session);
  heard = Date.now();
  source = new EventSource(address);
  for (const [name, take] of Object.entries({ figures, events, ended, alive: () => {} })) {
    source.addEventListener(name, (message) => {
      heard = Date.now();
      wait = 1000;
      tell("");
      take(JSON.parse(message.data));
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
    poll(); // no room for another stream, or nobody answers
    again = setTimeout(connect, wait);
    wait = Math.min(2 * wait, 10_000);
  });
}

function figures({ html }) {
  morph(document.getElementById("figures"), parse(html).getElementById("figures"));
}

function ended() {
  source.close();
  location.reload(); // it asks for a key
}

// Events

const button = document.querySelector("button.pause");
let held = null, heldCount = 0, leftOut = 0, fresh = 0, announced = 0;

function show(selector, text) {
  const element = document.querySelector(selector);
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

function events({ html, left_out, missed, available }) {
  document.querySelector(".no-events").hidden = available;
  leftOut += left_out;
  if (leftOut || missed) {
    const count = leftOut ? `${leftOut.toLocaleString("en")} events were left out: more came than are shown. ` : "";
    show(".left-out", count + (missed ? "Some may be missing: the stream was interrupted." : ""));
  }
  const template = document.createElement("template");
  template.innerHTML = html;
  add([...template.content.querySelectorAll("li")]);
}

function add(items) {
  const news = items.filter((item) => !document.getElementById(item.id) && !held?.some(({ id }) => id === item.id));
  if (!news.length) return;
  if (held) {
    held = [...news, ...held].slice(0, ROWS);
    heldCount += news.length;
    return show(".held", `Paused: ${heldCount.toLocaleString("en")} new events.`);
  }
  rows.prepend(...news);
  for (const item of [...rows.children].slice(ROWS)) {
    if (!item.contains(document.activeElement)) item.remove();
  }
  fresh += news.length;
  document.dispatchEvent(new Event("changed"));
}

function announce() {
  if (!fresh || Date.now() - announced < NEWS_MS) return;
  document.querySelector(".news").textContent = `${fresh} new events`;
  announced = Date.now();
  fresh = 0;
}

button?.addEventListener("click", () => {
  const items = held;
  held = items ? null : [];
  heldCount = 0;
  button.setAttribute("aria-pressed", String(held !== null));
  show(".held", held ? "Paused: 0 new events." : "");
  if (items) add(items);
});

if (live?.dataset.stream) {
  if (button) button.hidden = false;
  announced = Date.now();
  connect();
  document.addEventListener("visibilitychange", () => (document.hidden ? source?.close() : connect()));
  setInterval(() => {
    if (document.hidden) return;
    if (Date.now() - heard > OLD_MS) tell("These figures are old: the hub does not answer.");
    if (rows) announce();
  }, 1000);
} else if (live) {
  repeat();
}
