/** Winograd's convolutions against ONNX Runtime's own: `node --test test/winograd.test.mjs`. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import * as ort from "onnxruntime-web/wasm";

const here = dirname(fileURLToPath(import.meta.url));
const asset = async (name) => new Uint8Array(await readFile(join(here, "../../../runtime/assets", name)));
let withWinograd;

before(async () => {
  ort.env.wasm.numThreads = 1;
  const built = await esbuild.build({
    entryPoints: [join(here, "../src/cln/winograd.ts")],
    bundle: true,
    format: "esm",
    write: false,
  });
  ({ withWinograd } = await import(`data:text/javascript,${encodeURIComponent(built.outputFiles[0].text)}`));
});

const convolutions = (model) => Buffer.from(model).toString("latin1").split('"\u0004Conv').length - 1;

test("small maps' convolutions become Winograd's, and say the same for one face and for three", async (t) => {
  const model = await asset("edge.onnx");
  const rewritten = withWinograd(model);
  const [before, after] = [model, rewritten].map(convolutions);
  t.diagnostic(`${before - after} of ${before} convolutions`);
  assert.ok(after < before);
  const sessions = await Promise.all([model, rewritten].map((bytes) => ort.InferenceSession.create(bytes)));
  const { inputMetadata, inputNames } = sessions[0];
  const shape = inputMetadata[0].shape.slice(1);
  for (const faces of [1, 3]) {
    const length = shape.reduce((product, size) => product * size, faces);
    const crops = Uint8Array.from({ length }, (_, i) => (i * i * 31) % 251);
    const feeds = { [inputNames[0]]: new ort.Tensor("uint8", crops, [faces, ...shape]) };
    const [own, reference] = await Promise.all(sessions.map(async (s) => (await s.run(feeds)).params.data));
    const apart = reference.reduce((most, value, i) => Math.max(most, Math.abs(value - own[i])), 0);
    t.diagnostic(`${faces}: ${apart.toExponential(1)} apart, of ${Math.max(...reference).toFixed(0)}`);
    assert.ok(apart < 1e-3);
  }
});

test("a network without such convolutions stays as it is", async () => {
  for (const name of ["edge.int8.onnx", "face_detector.onnx"]) {
    const model = await asset(name);
    assert.ok(Buffer.from(withWinograd(model)).equals(model), name);
  }
});
