/** As much of protobuf's wire format as reading and changing an ONNX file takes. */

/** A field of a message: `value` is that of a number, `bytes` that of anything longer, `whole` the field as it is stored. */
export interface Field {
  readonly field: number;
  readonly value: number;
  readonly bytes: Uint8Array;
  readonly whole: Uint8Array;
}

/** The fields of a message, in its order; throws a `RangeError` where it is none. */
export function* fields(message: Uint8Array): Generator<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= message.length || factor > 2 ** 63) throw new RangeError("truncated message");
      const byte = message[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const start = at;
    const tag = varint();
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    const value = wire === 0 ? varint() : 0;
    const length = wire === 2 ? varint() : wire === 1 ? 8 : wire === 5 ? 4 : 0;
    if ((wire !== 0 && length === 0 && wire !== 2) || at + length > message.length) {
      throw new RangeError("truncated message");
    }
    const bytes = message.subarray(at, at + (wire === 2 ? length : 0));
    at += length;
    yield { field, value, bytes, whole: message.subarray(start, at) };
  }
}

/** A number (not negative) as a field. */
export function numberField(field: number, value: number): Uint8Array {
  return Uint8Array.from([...varintBytes(field * 8), ...varintBytes(value)]);
}

/** Bytes, a text or a message as a field. */
export function bytesField(field: number, value: Uint8Array | string): Uint8Array {
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
  return join([Uint8Array.from([...varintBytes(field * 8 + 2), ...varintBytes(bytes.length)]), bytes]);
}

/** Fields, one after the other: a message. */
export function join(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const decoder = new TextDecoder();

/** The text that bytes are in UTF-8. */
export function text(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

function varintBytes(value: number): number[] {
  const bytes = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  return [...bytes, rest];
}
