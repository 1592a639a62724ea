/**
 * The test's web server. It sends the headers that WebAssembly threads need, unless told to be as plain as
 * `python -m http.server`, and can break off a file in the middle.
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const types = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
  ".jpg": "image/jpeg",
  ".gz": "application/gzip",
};

/** Serves `folder` on a free port: `{url, requests, interrupt, close}`; `interrupt` names a file to break off, or null. */
export async function serve(folder, { isolated = true } = {}) {
  const state = { url: "", requests: [], interrupt: null };
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const name = path.endsWith("/") ? `${path}index.html` : path;
    state.requests.push(name);
    let data;
    try {
      data = await readFile(join(folder, name));
    } catch {
      response.writeHead(404).end("not found");
      return;
    }
    const headers = {
      "Content-Type": types[extname(name)] ?? "application/octet-stream",
      "Content-Length": data.length,
    };
    if (isolated) {
      headers["Cross-Origin-Opener-Policy"] = "same-origin";
      headers["Cross-Origin-Embedder-Policy"] = "require-corp";
    }
    response.writeHead(200, headers);
    if (state.interrupt && name.endsWith(state.interrupt)) {
      response.write(data.subarray(0, data.length / 2), () => setTimeout(() => response.destroy(), 100));
      return;
    }
    response.end(data);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://localhost:${server.address().port}/`;
  state.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return state;
}
