/**
 * Reads the safetensors container: 8 bytes header length (little-endian), JSON, then raw little-endian tensors.
 * Source: the format's specification in the huggingface/safetensors repository.
 */
import { ClnError } from "./errors";

export type Values = Float32Array | Int32Array | Uint8Array;

export interface Tensor {
  readonly shape: readonly number[];
  /** F16 and F32 as Float32Array, I32 as Int32Array, U8 as Uint8Array. */
  readonly values: Values;
}

export interface Safetensors {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const readers: Record<string, { bytes: number; read: (buffer: ArrayBuffer) => Values }> = {
  U8: { bytes: 1, read: (buffer) => new Uint8Array(buffer) },
  I32: { bytes: 4, read: (buffer) => new Int32Array(buffer) },
  F32: { bytes: 4, read: (buffer) => new Float32Array(buffer) },
  F16: { bytes: 2, read: (buffer) => halfToFloat(new Uint16Array(buffer)) },
};

/** Parses `data`; throws a `ClnError` that names the file where it is truncated or inconsistent. */
export function parseSafetensors(data: Uint8Array, name: string): Safetensors {
  const fail = (what: string): never => {
    throw new ClnError(`${name}: expected a safetensors file, got ${what}; fetch the file again`);
  };
  if (data.byteLength < 8) fail(`${data.byteLength} bytes`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  if (start > data.byteLength) fail("a header longer than the file");
  let header: Record<string, Entry | Record<string, string>> = {};
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data.subarray(8, start)));
  } catch (error) {
    fail(`a header that is no JSON (${error instanceof Error ? error.message : error})`);
  }
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = new Map<string, Tensor>();
  for (const [key, value] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: offsets } = value as Entry;
    const reader = readers[dtype];
    if (!reader) fail(`'${key}' of type ${dtype}`);
    const [first, last] = offsets;
    const count = shape.reduce((product, length) => product * length, 1);
    if (!(first >= 0 && last - first === count * reader.bytes && start + last <= data.byteLength)) {
      fail(`'${key}' outside the file`);
    }
    // A copy: a typed array must begin at a multiple of its element's size.
    tensors.set(key, { shape, values: reader.read(data.slice(start + first, start + last).buffer) });
  }
  return { tensors, metadata: metadata as Record<string, string> };
}

function halfToFloat(halves: Uint16Array): Float32Array {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i];
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 0) floats[i] = sign * fraction * 2 ** -24;
    else if (exponent === 31) floats[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else floats[i] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return floats;
}
