// Uploads a file by tus 1.0 in small parts, and imports it. An interrupted upload of the same file goes on where it
// was: after a lost connection by itself, after a reload when the file is chosen again.
const form = document.querySelector("form.upload");
const bar = form.querySelector("progress");
const note = form.querySelector("[role=status]");
const button = form.querySelector("button");
const part = Number(form.dataset.part);
const TUS = { "Tus-Resumable": "1.0.0", "X-Form-Token": form.elements.token.value };
const PAUSES_MS = [500, 1000, 2000, 5000, 10000, 30000];
const uploads = location.pathname.replace("imports/new", "uploads");
form.hidden = false;

async function call(method, address, headers = {}, body = undefined) {
  const response = await fetch(address, { method, headers: { ...TUS, ...headers }, body });
  if (response.ok) return response;
  const error = new Error(await response.text() || `the hub answered ${response.status}`);
  error.isFinal = response.status < 500 && response.status !== 429 && response.status !== 409;
  throw error;
}

const offsetOf = (response) => Number(response.headers.get("Upload-Offset"));

async function begin(file) {
  for (const { dataset } of document.querySelectorAll(".unfinished li")) {
    if (dataset.name === file.name && Number(dataset.size) === file.size) return `${uploads}/${dataset.id}`;
  }
  const name = btoa(String.fromCharCode(...new TextEncoder().encode(file.name)));
  const headers = { "Upload-Length": file.size, "Upload-Metadata": `filename ${name}` };
  return (await call("POST", uploads, headers)).headers.get("Location");
}

async function send(file) {
  const address = await begin(file);
  let offset = offsetOf(await call("HEAD", address));
  let failures = 0;
  while (offset < file.size) {
    try {
      const headers = { "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
      offset = offsetOf(await call("PATCH", address, headers, file.slice(offset, offset + part)));
      failures = 0;
    } catch (error) {
      if (error.isFinal || failures === PAUSES_MS.length) throw error;
      note.textContent = `Interrupted (${error.message}); it goes on by itself.`;
      await new Promise((done) => setTimeout(done, PAUSES_MS[failures++]));
      try { offset = offsetOf(await call("HEAD", address)); } catch { /* the next part asks again */ }
      continue;
    }
    bar.value = 100 * offset / file.size;
    note.textContent = `${Math.floor(bar.value)} %`;
  }
  return address.split("/").pop();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  bar.hidden = false;
  try {
    form.elements.upload_id.value = await send(document.querySelector("#file").files[0]);
    form.submit();
  } catch (error) {
    note.textContent = `Not uploaded: ${error.message}. Choose the file again to go on.`;
    button.disabled = false;
  }
});
