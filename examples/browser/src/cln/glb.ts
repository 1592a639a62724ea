/**
 * A face as a `.glb` file (glTF 2.0), laid out as `runtime/gltf.py` does it: metres, y up, the face along +z; the neutral
 * face of the subject's shape; the expression modes as sparse 16-bit morph targets (KHR_mesh_quantization), their weights
 * the face's coefficients; the head's pose in the mesh's extras; its texture from the picture.
 */
import { constants } from "./constants";
import type { Face } from "./face";
import type { Pixels } from "./image";
import { shownVertices, textureCoordinates, textureOf, vertexNormals } from "./texture";

const [FLOAT, BYTE, SHORT, UNSIGNED_SHORT, UNSIGNED_INT] = [5126, 5121, 5122, 5123, 5125];
const [ARRAY, ELEMENTS] = [34962, 34963]; // what a buffer view is for
const { still: STILL, jpegQuality: QUALITY } = constants.gltf;
const STEPS = 32767; // 16-bit steps of a metre

type Json = Record<string, unknown>;
type Bytes = Float32Array | Uint8Array | Uint16Array | Uint32Array | Int16Array;

/** The file's bytes; `image` is the picture that the face was found in. */
export async function toGlb(face: Face, image: Pixels): Promise<Uint8Array<ArrayBuffer>> {
  const { model, triangles } = face;
  const buffer = new Buffer();
  const neutral = face.neutral.map((value) => value / 1000);
  const count = neutral.length / 3;
  const flip = (values: Float32Array) => values.map((value, i) => (i % 3 === 1 ? -value : value));
  const normals = flip(vertexNormals(flip(neutral), triangles));
  const attributes: Json = {
    POSITION: buffer.add(neutral, FLOAT, "VEC3", { target: ARRAY, bounds: true }),
    NORMAL: buffer.add(normals, FLOAT, "VEC3", { target: ARRAY }),
  };
  const shown = shownVertices(face, image);
  const texture = textureOf(face, image, shown);
  const material: Json = { metallicFactor: 0, roughnessFactor: 0.9 };
  const pictures: Json = {};
  if (texture) {
    attributes.TEXCOORD_0 = buffer.add(textureCoordinates(model), FLOAT, "VEC2", { target: ARRAY });
    const seen = new Uint8Array(4 * count); // each vertex' value at a multiple of four bytes
    shown.forEach((weight, i) => {
      seen[4 * i] = weight >= constants.texture.seen ? 255 : 0;
    });
    attributes._SEEN = buffer.add(seen, BYTE, "SCALAR", { target: ARRAY, stride: 4 });
    const source = buffer.view(await jpeg(texture));
    material.baseColorTexture = { index: 0 };
    pictures.images = [{ bufferView: source, mimeType: "image/jpeg", name: "photograph" }];
    pictures.textures = [{ source: 0, sampler: 0 }];
    pictures.samplers = [{ magFilter: 9729, minFilter: 9987, wrapS: 33071, wrapT: 33071 }];
  }
  const wide = count > 65535;
  const indices = buffer.add(
    wide ? triangles : Uint16Array.from(triangles),
    wide ? UNSIGNED_INT : UNSIGNED_SHORT,
    "SCALAR",
    {
      target: ELEMENTS,
    },
  );
  const modes = Array.from({ length: model.expressionCount }, (_, k) => model.expressionMode(k));
  const targets = modes.map((mode) => ({ POSITION: buffer.addMoves(mode.map((value) => value / 1000)) }));
  const rounded = (angle: number) => Number(angle.toFixed(4));
  const { yaw, pitch, roll } = face.pose;
  const document = {
    asset: { version: "2.0", generator: "cln", ...(model.license ? { copyright: model.license.slice(0, 200) } : {}) },
    extensionsUsed: ["KHR_mesh_quantization"],
    extensionsRequired: ["KHR_mesh_quantization"],
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ mesh: 0, name: "face" }],
    meshes: [
      {
        name: "face",
        primitives: [{ attributes, indices, material: 0, targets, mode: 4 }],
        weights: Array.from(face.params.subarray(face.params.length - model.expressionCount)),
        extras: {
          targetNames: modes.map((_, k) => `expression_${k}`),
          pose: { yaw: rounded(yaw), pitch: rounded(pitch), roll: rounded(roll) },
          faceModel: model.name,
        },
      },
    ],
    materials: [{ name: "skin", doubleSided: true, pbrMetallicRoughness: material }],
    ...pictures,
  };
  return buffer.finish(document);
}

async function jpeg({ data, width, height }: Pixels): Promise<Uint8Array> {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.putImageData(new ImageData(Uint8ClampedArray.from(data), width, height), 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY / 100 });
  return new Uint8Array(await blob.arrayBuffer());
}

/** The binary part of a file, and the views and accessors of it. */
class Buffer {
  private readonly parts: Uint8Array[] = [];
  private length = 0;
  private readonly views: Json[] = [];
  private readonly accessors: Json[] = [];

  /** Adds bytes; the number of their view. */
  view(values: Bytes, extra: Json = {}): number {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    this.views.push({ buffer: 0, byteOffset: this.length, byteLength: bytes.length, ...extra });
    this.parts.push(bytes);
    this.length += Math.ceil(bytes.length / 4) * 4;
    return this.views.length - 1;
  }

  /** Adds an array; the number of its accessor. */
  add(
    values: Bytes,
    componentType: number,
    type: "SCALAR" | "VEC2" | "VEC3",
    { target, bounds = false, stride }: { target: number; bounds?: boolean; stride?: number },
  ): number {
    const size = { SCALAR: 1, VEC2: 2, VEC3: 3 }[type];
    const byteStride = target === ARRAY ? (stride ?? size * values.BYTES_PER_ELEMENT) : undefined;
    const count = stride ? values.byteLength / stride : values.length / size;
    this.accessors.push({
      bufferView: this.view(values, byteStride ? { byteStride, target } : { target }),
      componentType,
      count,
      type,
      ...(componentType === BYTE ? { normalized: true } : {}),
      ...(bounds ? boundsOf(values, size) : {}),
    });
    return this.accessors.length - 1;
  }

  /** Adds a morph target, metres: 16-bit steps, of the vertices that move. */
  addMoves(moves: Float32Array): number {
    const count = moves.length / 3;
    let moved = Array.from({ length: count }, (_, i) => i).filter((i) =>
      moves.subarray(3 * i, 3 * i + 3).some((value) => Math.abs(value) >= STILL),
    );
    if (moved.length === 0) moved = [0]; // a sparse accessor holds one value at least
    const steps = Int16Array.from(
      moved.flatMap((i) => Array.from(moves.subarray(3 * i, 3 * i + 3))),
      (value) => Math.min(Math.max(Math.round(value * STEPS), -STEPS), STEPS),
    );
    const wide = count > 65535;
    const index = this.view(wide ? Uint32Array.from(moved) : Uint16Array.from(moved));
    const values = this.view(steps);
    const { min, max } = boundsOf(steps, 3);
    const all = moved.length === count;
    this.accessors.push({
      componentType: SHORT,
      normalized: true,
      count,
      type: "VEC3",
      min: all ? min : min.map((value) => Math.min(value, 0)),
      max: all ? max : max.map((value) => Math.max(value, 0)),
      sparse: {
        count: moved.length,
        indices: { bufferView: index, componentType: wide ? UNSIGNED_INT : UNSIGNED_SHORT },
        values: { bufferView: values },
      },
    });
    return this.accessors.length - 1;
  }

  /** The file: header, JSON, binary part. */
  finish(document: Json): Uint8Array<ArrayBuffer> {
    const { accessors, views: bufferViews } = this;
    const text = JSON.stringify({ ...document, accessors, bufferViews, buffers: [{ byteLength: this.length }] });
    const encoded = new TextEncoder().encode(text);
    const padded = Math.ceil(encoded.length / 4) * 4;
    const file = new Uint8Array(12 + 8 + padded + 8 + this.length);
    const header = new DataView(file.buffer);
    const [GLTF, JSON_CHUNK, BINARY_CHUNK] = [0x46546c67, 0x4e4f534a, 0x004e4942];
    [GLTF, 2, file.length, padded, JSON_CHUNK].forEach((value, i) => {
      header.setUint32(4 * i, value, true);
    });
    file.fill(0x20, 20, 20 + padded).set(encoded, 20);
    header.setUint32(20 + padded, this.length, true);
    header.setUint32(24 + padded, BINARY_CHUNK, true);
    let at = 28 + padded;
    for (const part of this.parts) {
      file.set(part, at);
      at += Math.ceil(part.length / 4) * 4;
    }
    return file;
  }
}

function boundsOf(values: Bytes, size: number): { min: number[]; max: number[] } {
  const [min, max] = [new Array<number>(size).fill(Infinity), new Array<number>(size).fill(-Infinity)];
  values.forEach((value: number, i: number) => {
    min[i % size] = Math.min(min[i % size], value);
    max[i % size] = Math.max(max[i % size], value);
  });
  return { min, max };
}
