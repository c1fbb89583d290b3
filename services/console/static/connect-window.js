// The script of a connect session's window. It shows the forms only if the page that opened the window has the session's
// origin, and reports results to that origin only.
const page = document.querySelector("#window");
const { origin, session, result } = JSON.parse(page.dataset.report);

function send(type, content = {}) {
  opener?.postMessage({ type: `interlink-connect:${type}`, session, ...content }, origin);
}

addEventListener("message", ({ data, source, origin: from }) => {
  if (from !== origin || source !== opener || data?.type !== "interlink-connect:welcome") return;
  if (data.session !== session) return;
  const [asked, unasked] = ["#asked", "#unasked"].map((id) => page.querySelector(id));
  if (asked) [asked.hidden, unasked.hidden] = [false, true];
});
if (result) send("result", { result });
else send("hello");
