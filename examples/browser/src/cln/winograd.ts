/**
 * Winograd's convolutions (Lavin and Gray 2016, F(4 × 4, 3 × 3)) for ONNX Runtime's WebAssembly, which has none: 36
 * multiplications in place of 144 for each 4 × 4 pixels of a channel, as matrix products, at which it is best. They change
 * an output by no more than its sums' rounding.
 */
import { floatField, floatShape, GRAPH, int64Field, MODEL, type Node, nodeField, readNode, valueShape } from "./onnx";
import { bytesField, fields, join } from "./protobuf";

const TILE = 4; // pixels of a tile's side
const POINTS = TILE + 2; // what a tile becomes, on either axis
/** Of a tile and the pixels around it: (points, tile + 2). */
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
/** What is saved grows with either side's channels, what turning to and fro takes with their sum: with fewer it loses. */
const FEWEST_CHANNELS = 32;

interface Convolution {
  readonly input: string;
  readonly weights: string;
  readonly bias: string;
  readonly output: string;
  readonly inChannels: number;
  readonly outChannels: number;
  readonly height: number;
  readonly width: number;
}

/** `model` (a serialised ONNX model) with its 3 × 3 convolutions of float32 maps as Winograd's where that is faster. */
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
  const outputs = messages(GRAPH.output).map((value) => valueShape(value)[0]);
  const nodes = parts.map(({ field, bytes }) => (field === GRAPH.node ? readNode(bytes) : undefined));
  /** The ReLU that is all that reads `name`. */
  const relu = (name: string) => {
    const readers = nodes.filter((node) => node?.inputs.includes(name));
    return readers.length === 1 && !outputs.includes(name) && readers[0]?.opType === "Relu" ? readers[0] : undefined;
  };
  const constants = new Map<string, Uint8Array>();
  const replaced = new Map<Node | undefined, Uint8Array>();
  for (const node of nodes) {
    const found = node && convolution(node, weights, shapes);
    if (!found) continue;
    const after = relu(found.output);
    replaced.set(node, winograd(found, after?.outputs[0], constants));
    if (after) replaced.set(after, new Uint8Array());
  }
  return join([...parts.map(({ whole }, i) => replaced.get(nodes[i]) ?? whole), ...constants.values()]);
}

/** A node that is a convolution which Winograd's serves: 3 × 3, of one group, in steps of one pixel, as large as before. */
function convolution(
  { opType, inputs, outputs, attributes }: Node,
  weights: ReadonlyMap<string, number[]>,
  shapes: ReadonlyMap<string, number[]>,
): Convolution | undefined {
  if (opType !== "Conv") return undefined;
  const plain =
    `${attributes.strides ?? "1,1"}` === "1,1" &&
    `${attributes.dilations ?? "1,1"}` === "1,1" &&
    `${attributes.pads}` === "1,1,1,1" &&
    `${attributes.group ?? 1}` === "1";
  const [input, kernel, bias] = inputs;
  const [outChannels, inChannels, ...kernelSize] = weights.get(kernel) ?? [];
  const [, , height, width] = shapes.get(input) ?? [];
  const fits = height > 0 && height % TILE === 0 && width > 0 && width % TILE === 0;
  const worthwhile = Math.min(inChannels, outChannels) >= FEWEST_CHANNELS;
  if (!plain || `${kernelSize}` !== "3,3" || !weights.has(bias ?? "") || !fits || !worthwhile) return undefined;
  return { input, weights: kernel, bias, output: outputs[0], inChannels, outChannels, height, width };
}

/** The nodes that do a convolution, and the ReLU of that output after it; what they need besides is added to `constants`. */
function winograd(conv: Convolution, relu: string | undefined, constants: Map<string, Uint8Array>): Uint8Array {
  const { height, width, inChannels, outChannels } = conv;
  const [down, across] = [height / TILE, width / TILE]; // tiles
  const last = relu ?? conv.output;
  const nodes: Uint8Array[] = [];
  const add = (
    opType: string,
    inputs: readonly string[],
    attributes: Node["attributes"] = {},
    name = `${last}_winograd_${nodes.length}`,
  ) => {
    nodes.push(nodeField({ opType, inputs, outputs: [name], attributes }));
    return name;
  };
  const shared = (name: string, constant: (name: string) => Uint8Array) => {
    if (!constants.has(name)) constants.set(name, constant(name));
    return name;
  };
  const matrix = (what: string, rows: readonly number[][], dims = [rows.length, rows[0].length]) =>
    shared(`winograd_${what}`, (name) => floatField(name, dims, rows.flat()));
  const sizes = (...values: number[]) => shared(`winograd_sizes_${values}`, (name) => int64Field(name, values));
  const reshape = (x: string, ...shape: number[]) => add("Reshape", [x, sizes(...shape)]);

  // Kernels, which ONNX Runtime works out once, as it loads the model: (36, in, out).
  const taps = reshape(conv.weights, outChannels, inChannels, 9);
  const kernels = add("MatMul", [taps, matrix("kernel", transposed(onBothAxes(KERNEL)))]);
  const weights = add("Transpose", [kernels], { perm: [2, 1, 0] });
  const bias = add("Tile", [conv.bias, sizes(down * across)]);

  // Down and across, by convolutions in steps of a tile; the products of all tiles of all faces; both axes back. Channels
  // come last, so that what moves lies together.
  const turn = matrix("input", INPUT, [POINTS, 1, POINTS, 1]);
  const steps = { kernel_shape: [POINTS, 1], strides: [TILE, 1], pads: [1, 0, 1, 0] };
  let x = add("Transpose", [conv.input], { perm: [0, 2, 3, 1] });
  x = add("Conv", [reshape(x, -1, 1, height, width * inChannels), turn], steps);
  x = add("Conv", [reshape(x, -1, 1, width, inChannels), turn], steps);
  x = add("Transpose", [reshape(x, -1, POINTS, down, POINTS, across * inChannels)], { perm: [1, 3, 0, 2, 4] });
  x = add("MatMul", [reshape(x, POINTS * POINTS, -1, inChannels), weights]);
  x = add("MatMul", [matrix("output", onBothAxes(OUTPUT)), reshape(x, POINTS * POINTS, -1)]);
  x = add("Add", [reshape(x, TILE * TILE, -1, down * across * outChannels), bias]);
  if (relu) x = add("Relu", [x]);
  x = add("Transpose", [reshape(x, TILE, TILE, -1, down, across, outChannels)], { perm: [2, 3, 0, 4, 1, 5] });
  // Where another such convolution follows, ONNX Runtime drops this and its first node, which undo each other.
  add("Transpose", [reshape(x, -1, height, width, outChannels)], { perm: [0, 3, 1, 2] }, last);
  return join(nodes);
}

/** What does on both axes of a square what `matrix` does on one: their Kronecker product. */
function onBothAxes(matrix: readonly number[][]): number[][] {
  return matrix.flatMap((down) => matrix.map((across) => down.flatMap((d) => across.map((a) => d * a))));
}

function transposed(rows: readonly number[][]): number[][] {
  return rows[0].map((_, column) => rows.map((row) => row[column]));
}
