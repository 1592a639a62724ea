/**
 * Builds the page: `node build.mjs [OUT]`, default ../../out/browser. Static files, for any host.
 *
 * What is large is stored as .gz and unpacked in the browser, so that it travels compressed from every host.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const repository = resolve(here, "../..");
const out = resolve(process.argv[2] ?? join(repository, "out/browser"));
const python = process.env.PYTHON ?? join(repository, ".venv/bin/python");

const assets = (names) => names.map((name) => join(repository, "runtime/assets", name));
const models = assets(["edge.onnx", "face_detector.onnx", "face_model.safetensors"]);
const onRequest = assets(["edge.int8.onnx"]);
const onnxRuntime = join(here, "node_modules/onnxruntime-web/dist");
const wasm = join(onnxRuntime, "ort-wasm-simd-threaded.wasm");
const webgpu = join(onnxRuntime, "ort-wasm-simd-threaded.asyncify.wasm"); // on request, too

const gzip = (data) => gzipSync(data, { level: 9 });

/** Constants that live in the Python runtime, so that there is no copy of them here. */
function generateConstants() {
  execFileSync(python, [join(here, "constants.py"), join(here, "generated/constants.json")], {
    cwd: repository,
    env: { ...process.env, PYTHONPATH: repository },
    stdio: "inherit",
  });
}

/** Writes the large files, compressed; their sizes, unpacked and compressed, by name. */
async function writeAssets(folder, version) {
  const sizes = {};
  for (const file of [...models, ...onRequest, wasm, webgpu]) {
    const data = await readFile(file);
    const packed = gzip(data);
    await writeFile(join(folder, `${basename(file)}.gz`), packed);
    sizes[basename(file)] = { bytes: data.length, compressed: packed.length };
    version.update(data);
  }
  for (const file of [wasm, webgpu]) {
    const script = basename(file).replace(/\.wasm$/, ".mjs");
    await cp(join(onnxRuntime, script), join(folder, script));
  }
  return sizes;
}

async function bundle(folder, define) {
  const common = { bundle: true, minify: true, target: "es2022", logLevel: "warning", define };
  const page = await esbuild.build({
    ...common,
    entryPoints: { main: join(here, "src/page/main.ts"), style: join(here, "src/page/style.css") },
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    format: "esm",
    splitting: true,
    conditions: ["onnxruntime-web-use-extern-wasm"],
    outdir: folder,
    metafile: true,
  });
  const output = (suffix) => {
    const [name] = Object.entries(page.metafile.outputs).find(([name, o]) => o.entryPoint && name.endsWith(suffix));
    return basename(name);
  };
  return {
    script: output(".js"),
    style: output(".css"),
    page: Object.keys(page.metafile.outputs).map((n) => basename(n)),
    common,
  };
}

async function main() {
  generateConstants();
  const folder = `${out}.part`;
  await rm(folder, { recursive: true, force: true });
  await mkdir(join(folder, "assets"), { recursive: true });
  const digest = createHash("sha256").update(await sources());
  const sizes = await writeAssets(join(folder, "assets"), digest);
  await cp(join(repository, "examples/astronaut.jpg"), join(folder, "assets/astronaut.jpg"));

  const version = digest.digest("hex").slice(0, 12);
  const define = { BUILD_VERSION: JSON.stringify(version), BUILD_SIZES: JSON.stringify(sizes) };
  const { script, style, page, common } = await bundle(folder, define);

  await writeFile(join(folder, "LICENSES.txt"), await licenses());
  const template = await readFile(join(here, "src/page/index.html"), "utf8");
  const fill = (html, megabytes) =>
    html.replaceAll("{{script}}", script).replaceAll("{{style}}", style).replaceAll("{{megabytes}}", megabytes);
  const shell = [
    ...page.filter((name) => !name.includes("webgpu")),
    "assets/ort-wasm-simd-threaded.mjs",
    "assets/astronaut.jpg",
    "LICENSES.txt",
  ];
  const download =
    gzip(fill(template, "0.0")).length +
    (await Promise.all(shell.map(async (name) => gzip(await readFile(join(folder, name))).length))).reduce(
      (sum, length) => sum + length,
    ) +
    [...models, wasm].reduce((sum, file) => sum + sizes[basename(file)].compressed, 0);
  const megabytes = (download / 1e6).toFixed(1);
  await writeFile(join(folder, "index.html"), fill(template, megabytes));
  await esbuild.build({
    ...common,
    entryPoints: [join(here, "src/page/service_worker.ts")],
    outfile: join(folder, "service_worker.js"),
    define: { ...define, BUILD_SHELL: JSON.stringify(["./", ...shell]) },
  });
  await rm(out, { recursive: true, force: true });
  await rename(folder, out);
  console.log(`${out}: ${megabytes} MB to download, compressed`);
}

/** All of the page's own sources, for the version. */
async function sources() {
  const folder = join(here, "src");
  const files = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const texts = files.map((entry) => readFile(join(entry.parentPath ?? entry.path, entry.name)));
  return Buffer.concat([await readFile(join(here, "package-lock.json")), ...(await Promise.all(texts))]);
}

/** The notices of what is bundled. */
async function licenses() {
  const { dependencies } = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
  const parts = [`This page's own code, and its models:\n\n${await readFile(join(repository, "NOTICE"), "utf8")}`];
  for (const name of Object.keys(dependencies)) {
    const root = join(here, "node_modules", name);
    const file = (await readdir(root)).find((entry) => /^licen[sc]e/i.test(entry));
    // Some packages come without their notice; it is in licenses/ then.
    const path = file ? join(root, file) : join(here, "licenses", `${name}.txt`);
    const { version, license } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    parts.push(`${name} ${version} (${license})\n\n${await readFile(path, "utf8")}`);
  }
  parts.push(await readFile(join(repository, "LICENSE"), "utf8"));
  return parts.join(`\n${"-".repeat(80)}\n\n`);
}

await main();
