/** Headless Chromium for the tests: opens the page, watches for errors and for requests to other hosts. */
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const quiet = [
  // As on any machine without a graphics processor: the page is put together by the CPU, the mesh alone by an emulated one.
  "--disable-gpu-compositing",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--use-gl=angle",
  "--use-angle=swiftshader",
  "--enable-unsafe-swiftshader",
];

/** A browser; `clip` is what its camera sees. */
export function launch({ clip } = {}) {
  const camera = clip
    ? [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        `--use-file-for-fake-video-capture=${clip}`,
      ]
    : [];
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [...(process.getuid?.() === 0 ? ["--no-sandbox"] : []), ...quiet, ...camera],
  });
}

/** Opens the page of `server` in a fresh context; `problems` collects errors of the console and foreign requests. */
export async function open(browser, server, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 1000 }, ...options });
  const problems = [];
  context.on("request", (request) => {
    const url = new URL(request.url());
    if (!["blob:", "data:"].includes(url.protocol) && url.origin !== new URL(server.url).origin) {
      problems.push(`request to another host: ${url}`);
    }
  });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`error: ${error}`));
  await page.goto(server.url);
  return { context, page, problems };
}

/** Waits until the status line says `text` (a string or regular expression source). */
export async function status(page, text, timeout = 60_000) {
  try {
    await page.waitForFunction((t) => new RegExp(t).test(document.getElementById("status").textContent), text, {
      timeout,
    });
  } catch (error) {
    const [said, alarm] = [await page.textContent("#status"), await page.textContent("#error")];
    assert.fail(`expected the status /${text}/, got '${said}', error '${alarm}' (${error.message.split("\n")[0]})`);
  }
}

/** Gives the page a file and waits for its answer: its faces as plain numbers. */
export async function choose(page, path) {
  const before = await page.evaluate(() => globalThis.cln.frames);
  await page.setInputFiles("#file", path);
  await page.waitForFunction((n) => globalThis.cln.frames > n, before, { timeout: 60_000 });
  return page.evaluate(() =>
    globalThis.cln.faces.map((face) => ({
      ...face.toJSON(),
      vertices: Array.from(face.vertices),
      rotation: Array.from(face.pose.rotation),
    })),
  );
}

/** Bytes of JavaScript's heap, WebAssembly's and array buffers included, after a collection. */
export async function memory({ context, page }) {
  const session = await context.newCDPSession(page);
  await session.send("HeapProfiler.collectGarbage");
  const { usedSize, backingStorageSize = 0 } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  return usedSize + backingStorageSize;
}

/** Waits for the page's alarm and gives its sentence. */
export async function alarm(page) {
  await page.waitForSelector("#error:not([hidden])", { timeout: 60_000 });
  return page.textContent("#error");
}
