// A server on loopback whose token endpoint a test can make misbehave, and which counts what it did.
//
// The process says {"port", "control"} in one line, serves until its input ends, and answers on the control
// port: GET /stats, POST /settings {"slow_s", "next"}, and what the server adds.

import http from "node:http";

export class Watched {
  stats = { called: {}, granted: {}, refused: {}, lost: 0, revoked: 0, events: {}, faults: [], secrets: [] };
  commands = {};
  #next = [];
  #slowS = 0;

  // `body`: what the token endpoint answered.
  granted(grantType, body) {
    count(this.stats.called, grantType);
    count(this.stats.granted, grantType);
    this.keep(body?.access_token, body?.refresh_token, body?.id_token);
  }

  refused(grantType, error) {
    count(this.stats.called, grantType ?? "none");
    count((this.stats.refused[grantType ?? "none"] ??= {}), error);
  }

  happened(event) {
    count(this.stats.events, event);
  }

  // Secrets that were given out, for a test to look for where they must not be.
  keep(...secrets) {
    this.stats.secrets.push(...secrets.filter(Boolean));
  }

  // `make(url)` gives the handler of requests once the address is known; `tokenPath` is misbehaved on.
  async serve(make, tokenPath) {
    let handler;
    const server = http.createServer((request, response) => {
      const isToken = request.method === "POST" && request.url.split("?")[0] === tokenPath;
      if (isToken) setTimeout(() => this.#token(handler, request, response), this.#slowS * 1000);
      else handler(request, response);
    });
    const control = http.createServer((request, response) => this.#control(request, response));
    const [port, controlPort] = [await listening(server), await listening(control)];
    handler = await make(`http://127.0.0.1:${port}`, port);
    process.stdin.on("end", () => process.exit(0)).resume();
    process.stdout.write(JSON.stringify({ port, control: controlPort }) + "\n");
  }

  async #token(handler, request, response) {
    const next = this.#next.shift();
    if (next === undefined) return handler(request, response);
    if (next.lost) {
      this.stats.lost += 1;
      response.writeHead = response.write = () => response;
      response.end = () => response.socket.destroy();
      return handler(request, response);
    }
    const form = new URLSearchParams(await read(request));
    this.refused(form.get("grant_type"), `given ${next.status}`);
    response.writeHead(next.status, next.headers).end(next.body);
  }

  async #control(request, response) {
    let [status, value] = [200, this.stats];
    try {
      const body = JSON.parse((await read(request)) || "{}");
      if (request.method === "POST" && request.url === "/settings") {
        this.#slowS = body.slow_s ?? this.#slowS;
        this.#next.push(...(body.next ?? []));
      } else if (request.method === "POST") value = await this.commands[request.url.slice(1)](body);
    } catch (error) {
      [status, value] = [500, { error: String(error) }];
    }
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value ?? {}));
  }
}

function count(counts, name) {
  counts[name] = (counts[name] ?? 0) + 1;
}

export async function read(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
}

function listening(server) {
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });
}
