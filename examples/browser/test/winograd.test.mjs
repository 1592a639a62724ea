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
let cln; // withWinograd, and what reads and writes ONNX

before(async () => {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const modules = ["winograd", "onnx", "protobuf"].map((name) => `export * from "./${name}";`).join("");
  const built = await esbuild.build({
    stdin: { contents: modules, resolveDir: join(here, "../src/cln"), loader: "ts" },
    bundle: true,
    format: "esm",
    write: false,
  });
  cln = await import(`data:text/javascript,${encodeURIComponent(built.outputFiles[0].text)}`);
});

function nodesOf(model) {
  const graph = [...cln.fields(model)].find(({ field }) => field === cln.MODEL.graph).bytes;
  const nodes = [...cln.fields(graph)].filter(({ field }) => field === cln.GRAPH.node);
  return nodes.map(({ bytes }) => cln.readNode(bytes));
}

const count = (model, type) => nodesOf(model).filter(({ opType }) => opType === type).length;

/** All that is in 8 bits: what makes it so, and the layers whose weights it is. */
function quantized(model) {
  const nodes = nodesOf(model);
  const makers = nodes.filter(({ opType }) => /^(Q|Deq)uantizeLinear$/.test(opType));
  const made = new Set(makers.flatMap(({ outputs }) => outputs));
  return [
    ...makers,
    ...nodes.filter(({ opType, inputs }) => /^(Conv|Gemm|MatMul)$/.test(opType) && made.has(inputs[1])),
  ];
}

/** How far what `changed` says of one input is from what `model` says, in parts of the largest number of an output. */
async function apart(model, changed, dims, feed) {
  const [reference, own] = await Promise.all(
    [model, changed].map(async (bytes) => {
      const session = await ort.InferenceSession.create(bytes);
      const { name, type, shape } = session.inputMetadata[0];
      const full = shape.map((size, axis) => dims[axis] ?? size);
      const data = feed(full.reduce((product, size) => product * size));
      const outputs = await session.run({ [name]: new ort.Tensor(type, data, full) });
      await session.release();
      return outputs;
    }),
  );
  const furthest = Object.entries(reference).map(([name, { dims, data }]) => {
    assert.deepEqual(own[name].dims, dims);
    const most = (numbers) => numbers.reduce((max, number) => Math.max(max, Math.abs(number)), 0);
    return most(data.map((value, i) => value - own[name].data[i])) / most(data);
  });
  return Math.max(...furthest);
}

/** Numbers from -1 to 1. */
const noise = (length, seed) => Float32Array.from({ length }, (_, i) => Math.sin(i * i * 0.7 + seed * 3 + i));

/**
 * A model: `nodes` (operator, inputs, outputs, attributes) on "x", a map of `channels` × `height` × `width`; "w" and "b"
 * are a 3 × 3 convolution's from `channels` to `channels`. It gives `outputs`. A size may be a name: any size.
 */
function model(nodes, outputs, { channels = 32, height = 8, width = 8 } = {}) {
  const { bytesField, numberField, join: message } = cln;
  const dim = (size) => bytesField(1, typeof size === "string" ? bytesField(2, size) : numberField(1, size));
  const tensorType = message([
    numberField(1, 1),
    bytesField(2, message(["faces", channels, height, width].map(dim))), // float32
  ]);
  const value = (name) => message([bytesField(1, name), bytesField(2, bytesField(1, tensorType))]);
  const names = ["x", ...nodes.flatMap(([, , made]) => made)];
  const graph = message([
    ...nodes.map(([opType, inputs, made, attributes = {}]) =>
      cln.nodeField({ opType, inputs, outputs: made, attributes }),
    ),
    bytesField(2, "graph"),
    cln.floatField("w", [channels, channels, 3, 3], noise(channels * channels * 9, 1)),
    cln.floatField("b", [channels], noise(channels, 2)),
    bytesField(11, value("x")),
    ...outputs.map((name) => bytesField(cln.GRAPH.output, value(name))),
    ...names.map((name) => bytesField(cln.GRAPH.valueInfo, value(name))),
  ]);
  const opset = message([bytesField(1, ""), numberField(2, 20)]);
  return message([numberField(1, 9), bytesField(8, opset), bytesField(cln.MODEL.graph, graph)]);
}

const same = { pads: [1, 1, 1, 1] }; // as large as before
const conv = (input, output, attributes = same, inputs = ["w", "b"]) => [
  "Conv",
  [input, ...inputs],
  [output],
  attributes,
];
const relu = (input, output) => ["Relu", [input], [output]];

test("the network's convolutions become Winograd's, and say the same for one face and for three", async (t) => {
  const network = await asset("edge.onnx");
  const rewritten = cln.withWinograd(network);
  const products = count(rewritten, "MatMul") - count(network, "MatMul");
  t.diagnostic(`${products} products in place of convolutions`);
  assert.ok(products > 0);
  for (const faces of [1, 3]) {
    const crops = (length) => Uint8Array.from({ length }, (_, i) => (i * i * 31) % 251);
    const furthest = await apart(network, rewritten, [faces], crops);
    t.diagnostic(`${faces}: ${furthest.toExponential(1)} apart`);
    assert.ok(furthest < 2e-5);
  }
});

test("of the 8-bit network only what is in 32 bits changes", async (t) => {
  const network = await asset("edge.int8.onnx");
  const rewritten = cln.withWinograd(network);
  assert.ok(quantized(network).length > 0);
  assert.deepEqual(quantized(rewritten), quantized(network));
  const crops = (length) => Uint8Array.from({ length }, (_, i) => (i * i * 31) % 251);
  const furthest = await apart(network, rewritten, [2], crops);
  t.diagnostic(`${furthest.toExponential(1)} apart`);
  assert.ok(furthest < 5e-3); // a sum that falls on the other side of a rounding
});

test("each place of a convolution says the same", async (t) => {
  const cases = {
    // Edges differ from the middle, rows from columns, faces from each other.
    "by itself": [[conv("x", "y")], ["y"], { height: 12, width: 8 }],
    "one tile": [[conv("x", "y")], ["y"], { height: 4, width: 4 }],
    "with its ReLU": [[conv("x", "y"), relu("y", "z")], ["z"]],
    "one after the other": [[conv("x", "y"), relu("y", "z"), conv("z", "u")], ["u"], { height: 4, width: 16 }],
    // The ReLU isn't all that reads it: the sum before must not be lost.
    "read by others": [[conv("x", "y"), relu("y", "z"), ["Add", ["y", "z"], ["u"]]], ["u"]],
    "an output itself": [
      [conv("x", "y"), relu("y", "z")],
      ["y", "z"],
    ],
  };
  for (const [name, [nodes, outputs, size = {}]] of Object.entries(cases)) {
    const original = model(nodes, outputs, size);
    const rewritten = cln.withWinograd(original);
    assert.ok(count(rewritten, "MatMul") > 0, name);
    const furthest = await apart(original, rewritten, [2], (length) => noise(length, 4));
    t.diagnostic(`${name}: ${furthest.toExponential(1)} apart`);
    assert.ok(furthest < 2e-5, `${name}: ${furthest} apart`);
  }
});

test("other convolutions stay as they are", async () => {
  const cases = {
    "few channels": model([conv("x", "y")], ["y"], { channels: 16 }),
    "no whole tiles": model([conv("x", "y")], ["y"], { height: 8, width: 6 }),
    "any height": model([conv("x", "y")], ["y"], { height: "height" }),
    "any width": model([conv("x", "y")], ["y"], { width: "width" }),
    "no bias": model([conv("x", "y", same, ["w"])], ["y"]),
    "in steps of two": model([conv("x", "y", { ...same, strides: [2, 2] })], ["y"]),
    "with holes": model([conv("x", "y", { pads: [2, 2, 2, 2], dilations: [2, 2] })], ["y"]),
    "smaller than before": model([conv("x", "y", { pads: [0, 0, 0, 0] })], ["y"]),
    "the face detector": await asset("face_detector.onnx"),
  };
  for (const [name, original] of Object.entries(cases)) {
    assert.ok(Buffer.from(cln.withWinograd(original)).equals(original), name);
  }
});
