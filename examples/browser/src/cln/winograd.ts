/**
 * Winograd's convolutions (Lavin and Gray 2016, F(4 × 4, 3 × 3)) for ONNX Runtime's WebAssembly, which has none: 36
 * multiplications in place of 144 for each 4 × 4 pixels of a channel, as matrix products, at which it is best. They change
 * an output by no more than its sums' rounding.
 */
import { bytesField, fields, join, numberField, text } from "./protobuf";

// Fields of onnx.proto's messages.
const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5, valueInfo: 13 };
const NODE = { input: 1, output: 2, name: 3, opType: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, i: 3, ints: 8, type: 20 };
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9 };
const VALUE = { name: 1, type: 2 };
const FLOAT = 1;
const INT64 = 7;
const INTS = 7; // an attribute's type

const TILE = 4; // pixels of a tile's side
const POINTS = TILE + 2; // what a tile becomes, on either axis
/** Of a tile and the pixels around it. */
const INPUT = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
];
const KERNEL = [
  [1 / 4, 0, 0],
  [-1 / 6, -1 / 6, -1 / 6],
  [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6],
  [1 / 24, -1 / 12, 1 / 6],
  [0, 0, 1],
];
const OUTPUT = [
  [1, 1, 1, 1, 1, 0],
  [0, 1, -1, 2, -2, 0],
  [0, 1, 1, 4, 4, 0],
  [0, 1, -1, 8, -8, 1],
];
/** Of a kernel on both axes: (9, 36). */
const KERNELS = KERNEL[0].flatMap((_, i) =>
  KERNEL[0].map((_, j) => KERNEL.flatMap((down) => KERNEL.map((across) => down[i] * across[j]))),
);
/** All tiles of an axis are turned by one matrix, most of it zeros: longer axes than this lose by it what they gain. */
const LONGEST = 16;

interface Convolution {
  readonly input: string;
  readonly weights: string;
  readonly bias: string;
  readonly output: string;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly side: number;
}

/** `model` (a serialised ONNX model) with its 3 × 3 convolutions of small float32 maps as Winograd's; others stay. */
export function withWinograd(model: Uint8Array): Uint8Array {
  return join(
    [...fields(model)].map(({ field, bytes, whole }) =>
      field === MODEL.graph ? bytesField(MODEL.graph, rewriteGraph(bytes)) : whole,
    ),
  );
}

function rewriteGraph(graph: Uint8Array): Uint8Array {
  const parts = [...fields(graph)];
  const messages = (field: number) => parts.filter((part) => part.field === field).map(({ bytes }) => bytes);
  const weights = new Map(messages(GRAPH.initializer).map(floatShape));
  const shapes = new Map(messages(GRAPH.valueInfo).map(valueShape));
  const constants = new Map<string, Uint8Array>();
  const nodes = parts.map(({ field, bytes, whole }) => {
    const found = field === GRAPH.node ? convolution(bytes, weights, shapes) : undefined;
    return found ? winograd(found, constants) : whole;
  });
  return join([...nodes, ...[...constants.values()].map((tensor) => bytesField(GRAPH.initializer, tensor))]);
}

/** A node that is a convolution which Winograd's serves: 3 × 3, of one group, in steps of one pixel, as large as before. */
function convolution(
  node: Uint8Array,
  weights: ReadonlyMap<string, number[]>,
  shapes: ReadonlyMap<string, number[]>,
): Convolution | undefined {
  const parts = [...fields(node)];
  const texts = (field: number) => parts.filter((part) => part.field === field).map(({ bytes }) => text(bytes));
  if (texts(NODE.opType)[0] !== "Conv") return undefined;
  const attributes = new Map(
    parts.filter(({ field }) => field === NODE.attribute).map(({ bytes }) => attribute(bytes)),
  );
  const plain =
    `${attributes.get("strides") ?? "1,1"}` === "1,1" &&
    `${attributes.get("dilations") ?? "1,1"}` === "1,1" &&
    `${attributes.get("pads")}` === "1,1,1,1" &&
    `${attributes.get("group") ?? 1}` === "1";
  const [input, kernel, bias] = texts(NODE.input);
  const [output] = texts(NODE.output);
  const [outChannels, inChannels, ...kernelSize] = weights.get(kernel) ?? [];
  const [, , height, width] = shapes.get(input) ?? [];
  const fits = height === width && height > 0 && height % TILE === 0 && height <= LONGEST;
  if (!plain || `${kernelSize}` !== "3,3" || !weights.has(bias ?? "") || !fits) return undefined;
  return { input, weights: kernel, bias, output, inChannels, outChannels, side: height };
}

/** The nodes that do a convolution; what they need besides is added to `constants`. */
function winograd(conv: Convolution, constants: Map<string, Uint8Array>): Uint8Array {
  const { side, inChannels, outChannels } = conv;
  const tiles = side / TILE;
  const nodes: Uint8Array[] = [];
  const shared = (name: string, tensor: (name: string) => Uint8Array) => {
    if (!constants.has(name)) constants.set(name, tensor(name));
    return name;
  };
  const matrix = (name: string, rows: readonly number[][]) =>
    shared(`winograd_${name}`, (full) => floatTensor(full, rows));
  const sizes = (...values: number[]) => shared(`winograd_sizes_${values}`, (full) => int64Tensor(full, values));
  const add = (opType: string, inputs: string[], { perm, output }: { perm?: number[]; output?: string } = {}) => {
    const name = output ?? `${conv.output}_winograd_${nodes.length}`;
    nodes.push(bytesField(GRAPH.node, nodeMessage(opType, inputs, name, perm)));
    return name;
  };
  const reshape = (x: string, ...shape: number[]) => add("Reshape", [x, sizes(...shape)]);

  // Kernels, which ONNX Runtime works out once, as it loads the model: (36, in, out).
  const kernels = add("MatMul", [reshape(conv.weights, outChannels, inChannels, 9), matrix("kernel", KERNELS)]);
  const weights = add("Transpose", [kernels], { perm: [2, 1, 0] });
  const bias = add("Tile", [conv.bias, sizes(side)]);

  // Down, across, the products of all tiles of all faces, and back; channels last, so that what moves lies together.
  const turn = matrix(`input_${side}`, tiled(INPUT, side));
  const turnBack = matrix(`output_${side}`, transposed(tiled(transposed(OUTPUT), side)));
  const points = POINTS * tiles;
  let x = reshape(add("Transpose", [conv.input], { perm: [0, 2, 3, 1] }), -1, side, side * inChannels);
  x = reshape(add("MatMul", [turn, x]), -1, points, side, inChannels);
  x = reshape(add("MatMul", [turn, x]), -1, POINTS, tiles, POINTS, tiles * inChannels);
  x = reshape(add("Transpose", [x], { perm: [1, 3, 0, 2, 4] }), POINTS * POINTS, -1, inChannels);
  x = reshape(add("MatMul", [x, weights]), POINTS, POINTS, -1, tiles, tiles * outChannels);
  x = reshape(add("Transpose", [x], { perm: [2, 0, 3, 1, 4] }), -1, points, points, outChannels);
  x = reshape(add("MatMul", [turnBack, x]), -1, points, side * outChannels);
  x = reshape(add("Add", [add("MatMul", [turnBack, x]), bias]), -1, side, side, outChannels);
  add("Transpose", [x], { perm: [0, 3, 1, 2], output: conv.output });
  return join(nodes);
}

/** `rows` (one for each point) applied to every tile of an axis of `side` pixels: (points · tiles, side). */
function tiled(rows: readonly number[][], side: number): number[][] {
  const around = (rows[0].length - TILE) / 2;
  const tiles = Array.from({ length: side / TILE }, (_, tile) => tile * TILE - around);
  return rows.flatMap((row) =>
    tiles.map((start) => Array.from({ length: side }, (_, pixel) => row[pixel - start] ?? 0)),
  );
}

function transposed(rows: readonly number[][]): number[][] {
  return rows[0].map((_, column) => rows.map((row) => row[column]));
}

function nodeMessage(opType: string, inputs: readonly string[], output: string, perm?: readonly number[]): Uint8Array {
  return join([
    ...inputs.map((input) => bytesField(NODE.input, input)),
    bytesField(NODE.output, output),
    bytesField(NODE.name, `${output}_${opType}`),
    bytesField(NODE.opType, opType),
    ...(perm
      ? [
          bytesField(
            NODE.attribute,
            join([
              bytesField(ATTRIBUTE.name, "perm"),
              numberField(ATTRIBUTE.type, INTS),
              ...perm.map((axis) => numberField(ATTRIBUTE.ints, axis)),
            ]),
          ),
        ]
      : []),
  ]);
}

function tensorMessage(name: string, dims: readonly number[], dataType: number, data: ArrayBuffer): Uint8Array {
  return join([
    ...dims.map((dim) => numberField(TENSOR.dims, dim)),
    numberField(TENSOR.dataType, dataType),
    bytesField(TENSOR.name, name),
    bytesField(TENSOR.rawData, new Uint8Array(data)),
  ]);
}

function floatTensor(name: string, rows: readonly number[][]): Uint8Array {
  return tensorMessage(name, [rows.length, rows[0].length], FLOAT, Float32Array.from(rows.flat()).buffer);
}

function int64Tensor(name: string, values: readonly number[]): Uint8Array {
  return tensorMessage(name, [values.length], INT64, BigInt64Array.from(values.map(BigInt)).buffer);
}

/** An attribute's name and its numbers. */
function attribute(message: Uint8Array): [string, number[]] {
  let name = "";
  const numbers: number[] = [];
  for (const { field, value, bytes } of fields(message)) {
    if (field === ATTRIBUTE.name) name = text(bytes);
    if (field === ATTRIBUTE.i || field === ATTRIBUTE.ints) numbers.push(value);
  }
  return [name, numbers];
}

/** A tensor's name and shape; of one that isn't float32 no shape. */
function floatShape(tensor: Uint8Array): [string, number[]] {
  let [name, type] = ["", 0];
  const dims: number[] = [];
  for (const { field, value, bytes } of fields(tensor)) {
    if (field === TENSOR.dims) dims.push(value);
    if (field === TENSOR.dataType) type = value;
    if (field === TENSOR.name) name = text(bytes);
  }
  return [name, type === FLOAT ? dims : []];
}

/** A value's name and shape; a size that differs from run to run is 0. */
function valueShape(value: Uint8Array): [string, number[]] {
  const child = (message: Uint8Array, field: number) =>
    [...fields(message)].find((part) => part.field === field)?.bytes;
  const nothing = new Uint8Array();
  const tensor = child(child(value, VALUE.type) ?? nothing, 1) ?? nothing;
  const sizes = [...fields(child(tensor, 2) ?? nothing)].filter(({ field }) => field === 1);
  const size = (dim: Uint8Array) => [...fields(dim)].find(({ field }) => field === 1)?.value ?? 0;
  return [text(child(value, VALUE.name) ?? nothing), sizes.map(({ bytes }) => size(bytes))];
}
