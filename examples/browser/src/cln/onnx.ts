/** As much of ONNX's messages (onnx.proto) as reading and changing a graph takes. */
import { bytesField, fields, join, numberField, text } from "./protobuf";

export const MODEL = { graph: 7 };
export const GRAPH = { node: 1, initializer: 5, output: 12, valueInfo: 13 };
const NODE = { input: 1, output: 2, name: 3, opType: 4, attribute: 5 };
const ATTRIBUTE = { name: 1, i: 3, ints: 8, type: 20 };
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9 };
const VALUE = { name: 1, type: 2 };
const FLOAT = 1;
const INT64 = 7;
const INTS = 7; // an attribute's type

/** A node; `attributes` has those that are integers. */
export interface Node {
  readonly opType: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, readonly number[]>>;
}

export function readNode(message: Uint8Array): Node {
  const parts = [...fields(message)];
  const bytes = (field: number) => parts.filter((part) => part.field === field).map((part) => part.bytes);
  return {
    opType: bytes(NODE.opType).map(text)[0],
    inputs: bytes(NODE.input).map(text),
    outputs: bytes(NODE.output).map(text),
    attributes: Object.fromEntries(bytes(NODE.attribute).map(attribute)),
  };
}

/** A node as a field of a graph. Its name says its output. */
export function nodeField({ opType, inputs, outputs, attributes }: Node): Uint8Array {
  return bytesField(
    GRAPH.node,
    join([
      ...inputs.map((input) => bytesField(NODE.input, input)),
      ...outputs.map((output) => bytesField(NODE.output, output)),
      bytesField(NODE.name, `${outputs[0]}_${opType}`),
      bytesField(NODE.opType, opType),
      ...Object.entries(attributes).map(([name, values]) =>
        bytesField(
          NODE.attribute,
          join([
            bytesField(ATTRIBUTE.name, name),
            numberField(ATTRIBUTE.type, INTS),
            ...values.map((value) => numberField(ATTRIBUTE.ints, value)),
          ]),
        ),
      ),
    ]),
  );
}

/** A constant as a field of a graph. */
export function floatField(name: string, dims: readonly number[], values: readonly number[]): Uint8Array {
  return tensorField(name, dims, FLOAT, Float32Array.from(values).buffer);
}

/** A list of integers (not negative but for -1) as a field of a graph. */
export function int64Field(name: string, values: readonly number[]): Uint8Array {
  return tensorField(name, [values.length], INT64, BigInt64Array.from(values.map(BigInt)).buffer);
}

function tensorField(name: string, dims: readonly number[], dataType: number, data: ArrayBuffer): Uint8Array {
  return bytesField(
    GRAPH.initializer,
    join([
      ...dims.map((dim) => numberField(TENSOR.dims, dim)),
      numberField(TENSOR.dataType, dataType),
      bytesField(TENSOR.name, name),
      bytesField(TENSOR.rawData, new Uint8Array(data)),
    ]),
  );
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
export function floatShape(tensor: Uint8Array): [string, number[]] {
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
export function valueShape(value: Uint8Array): [string, number[]] {
  const child = (message: Uint8Array, field: number) =>
    [...fields(message)].find((part) => part.field === field)?.bytes;
  const nothing = new Uint8Array();
  const tensor = child(child(value, VALUE.type) ?? nothing, 1) ?? nothing;
  const sizes = [...fields(child(tensor, 2) ?? nothing)].filter(({ field }) => field === 1);
  const size = (dim: Uint8Array) => [...fields(dim)].find(({ field }) => field === 1)?.value ?? 0;
  return [text(child(value, VALUE.name) ?? nothing), sizes.map(({ bytes }) => size(bytes))];
}
