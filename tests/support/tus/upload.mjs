// Uploads a file with tus-js-client, as its documentation says, and prints what happened as JSON.
//
//   node upload.mjs '{"endpoint", "key", "file", "store", "chunk", "stop_after", "terminate"}'
//
// With `stop_after`, it aborts at that many bytes, as a page does that is closed. The next call resumes.
import { createReadStream, statSync } from "node:fs";
import { basename } from "node:path";
import * as tus from "tus-js-client";

const { endpoint, key, file, store, chunk, stop_after: stopAfter, terminate } = JSON.parse(process.argv[2]);
const result = { resumed_from: 0, statuses: [] };
const done = (more) => { console.log(JSON.stringify({ ...result, ...more })); process.exit(0); };
const upload = new tus.Upload(createReadStream(file), {
  endpoint,
  headers: { Authorization: `Bearer ${key}` },
  uploadSize: statSync(file).size,
  chunkSize: chunk,
  metadata: { filename: basename(file) },
  retryDelays: [0, 200, 500],
  urlStorage: new tus.FileUrlStorage(store),
  fingerprint: async () => `${file}-${statSync(file).size}`,
  removeFingerprintOnSuccess: true,
  onAfterResponse: (_, response) => { result.statuses.push(response.getStatus()); },
  onError: (error) => done({ error: String(error), status: error.originalResponse?.getStatus() ?? null }),
  onChunkComplete: async (_, accepted) => {
    result.accepted = accepted;
    if (stopAfter && accepted >= stopAfter) {
      await upload.abort(Boolean(terminate));
      done({ url: upload.url, stopped: true });
    }
  },
  onSuccess: () => done({ url: upload.url }),
});
const [previous] = await upload.findPreviousUploads();
if (previous) {
  upload.resumeFromPreviousUpload(previous);
  result.resumed = true;
}
upload.start();
