/**
 * The page's times beside the native runtime's, in turns: `node test/bench.mjs`, with CLN_PAGE, CLN_EXPECTED and PYTHON
 * in the environment; `make browser-bench` sets them. Prints a table; medians and, for a loaded machine, the fastest. About
 * a minute on a machine that keeps up with the camera's 30 frames a second.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { launch, memory, open, status } from "./browser.mjs";
import { serve } from "./server.mjs";

const repository = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const site = resolve(process.env.CLN_PAGE ?? join(repository, "out/browser"));
const folder = resolve(process.env.CLN_EXPECTED ?? join(repository, "out/browser-test"));
const python = process.env.PYTHON ?? join(repository, ".venv/bin/python");
const ROUNDS = 5;
const RUNS = 40;
const SETTLING = 600; // runs before any is counted: for some seconds the browser compiles, beside them, what runs often
const WARM = 100; // frames of the camera before any is counted
const FRAMES = 500;

const server = await serve(site);
const browser = await launch({ clip: join(folder, "clip.mjpeg") });

function spread(times) {
  const sorted = [...times].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1], fastest: sorted[0] };
}

function row(what, { median, fastest }, unit = "ms") {
  console.log(
    `| ${what} | ${median.toFixed(1)} ${unit} | ${fastest === undefined ? "" : `${fastest.toFixed(1)} ${unit}`} |`,
  );
}

/** Milliseconds of single runs of the network in the page. */
async function inPage(page, runs) {
  return page.evaluate(async (count) => {
    const reconstructor = await globalThis.cln.reconstructor();
    const pixels = new ImageData(256, 256);
    const roi = { centerX: 128, centerY: 128, side: 200, angle: 0 };
    const times = [];
    for (let i = 0; i < count + 5; i++) {
      reconstructor.timings.network = 0;
      await reconstructor.infer(reconstructor.crops(pixels, [roi]));
      times.push(reconstructor.timings.network);
    }
    return times.slice(5);
  }, runs);
}

async function native(engine, threads) {
  const script = join(repository, "examples/browser/test/native.py");
  const path = join(repository, "runtime/assets", engine);
  const environment = { ...process.env, PYTHONPATH: repository };
  const { stdout } = await promisify(execFile)(python, [script, path, threads, RUNS], { env: environment });
  return JSON.parse(stdout);
}

async function network(engine) {
  const view = await open(browser, server);
  await status(view.page, "Ready");
  await view.page.selectOption("#engine", engine);
  await status(view.page, "Ready");
  const threads = await view.page.evaluate(async () => (await globalThis.cln.reconstructor()).threads);
  const times = { page: [], native: [] };
  await inPage(view.page, SETTLING);
  for (let round = 0; round < ROUNDS; round++) {
    times.page.push(...(await inPage(view.page, RUNS)));
    times.native.push(...(await native(engine, threads)));
  }
  await view.context.close();
  const [page, own] = [spread(times.page), spread(times.native)];
  row(`network, one face, ${engine}, ${threads} threads: page`, page);
  row("the same, native", own);
  row("page / native", { median: page.median / own.median, fastest: page.fastest / own.fastest }, "×");
}

async function camera() {
  const view = await open(browser, server);
  await status(view.page, "Ready");
  await view.page.click("#camera");
  await view.page.waitForFunction((n) => globalThis.cln.frames >= n, WARM, { timeout: 300_000 });
  const early = await memory(view);
  const times = await view.page.evaluate(async (count) => {
    const spent = [];
    let last = globalThis.cln.frames;
    while (spent.length < count) {
      await new Promise((done) => setTimeout(done, 0));
      if (globalThis.cln.frames > last) spent.push(globalThis.cln.spent);
      last = globalThis.cln.frames;
    }
    return spent;
  }, FRAMES);
  const late = await memory(view);
  for (const step of Object.keys(times[0])) row(`camera, tracked face: ${step}`, spread(times.map((t) => t[step])));
  row(`memory after ${WARM} tracked frames`, { median: early / 1e6 }, "MB");
  row(`and after ${FRAMES} more`, { median: late / 1e6 }, "MB");
  await view.context.close();
}

async function firstFace() {
  const view = await open(browser, server);
  await status(view.page, "Ready");
  await view.page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  const times = [];
  for (let round = 0; round < ROUNDS; round++) {
    await view.page.reload({ waitUntil: "commit" });
    await view.page.click("#example");
    times.push(
      await view.page.evaluate(async () => {
        while (!(globalThis.cln?.frames > 0)) await new Promise((done) => setTimeout(done, 1));
        return performance.now();
      }),
    );
  }
  row("first face after opening, warm cache", spread(times));
  await view.context.close();
}

const told = await readFile(join(site, "index.html"), "utf8");
console.log(`Download, compressed: ${/[\d.]+ MB/.exec(told)}\n`);
console.log("| what | median | fastest |\n| --- | --- | --- |");
await network("edge.onnx");
await network("edge.int8.onnx");
await camera();
await firstFace();
await browser.close();
await server.close();
