/**
 * The face model (3DMM) and its decoding, from `face_model.safetensors`; frames and layout as in `runtime/face_model`:
 *
 *     params = [P (3 × 4, row-major), α (shape), β (expression)]    vertices = P[:, :3] · (mean + S·α + E·β) + P[:, 3]
 */
import { constants } from "./constants";
import { ClnError } from "./errors";
import { parseSafetensors, type Tensor } from "./safetensors";

const POSE = constants.faceModel.poseSize;

export class FaceModel {
  private constructor(
    readonly name: string,
    readonly license: string,
    readonly sha256: string | undefined,
    readonly vertexCount: number,
    readonly numParams: number,
    readonly shapeCount: number,
    /** (T, 3) vertex numbers, counter-clockwise seen from outside in the y-up model frame. */
    readonly triangles: Uint32Array,
    private readonly vertexRows: Float32Array,
    private readonly landmarkRows: Float32Array,
  ) {}

  /** Reads the file; throws a `ClnError` where it is no face model. */
  static async load(data: Uint8Array<ArrayBuffer>, name: string): Promise<FaceModel> {
    const { tensors, metadata } = parseSafetensors(data, name);
    const { format, versions } = constants.faceModel;
    if (metadata.format !== format || !versions.includes(metadata.version)) {
      throw new ClnError(
        `${name}: expected '${format}' version ${versions.join(" or ")}, got '${metadata.format}' ` +
          `version ${metadata.version}; build page and face model from one version of the repository`,
      );
    }
    const get = (key: string): Tensor => {
      const tensor = tensors.get(key);
      if (!tensor) throw new ClnError(`${name}: expected a tensor '${key}', found none; fetch the file again`);
      return tensor;
    };
    const modes = ["mean", "shape_basis", "expression_basis"].map((key) => get(key).values as Float32Array);
    const vertexRows = new Float32Array(modes.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of modes) {
      vertexRows.set(part, at);
      at += part.length;
    }
    const vertexCount = get("mean").shape[0];
    const triangles = Uint32Array.from(get("triangles").values);
    const landmarks = landmarkCorners(tensors, get);
    return new FaceModel(
      metadata.name ?? name,
      metadata.license ?? "",
      await sha256(data),
      vertexCount,
      POSE + get("shape_basis").shape[0] + get("expression_basis").shape[0],
      get("shape_basis").shape[0],
      triangles,
      vertexRows,
      rowsOfPoints(vertexRows, vertexCount, landmarks),
    );
  }

  get expressionCount(): number {
    return this.numParams - POSE - this.shapeCount;
  }

  /** The mean face, N (x, y, z), millimetres. */
  get mean(): Float32Array {
    return this.vertexRows.subarray(0, 3 * this.vertexCount);
  }

  /** How far expression mode `k` moves each vertex, N (x, y, z), millimetres per unit. */
  expressionMode(k: number): Float32Array {
    const row = 1 + this.shapeCount + k;
    return this.vertexRows.subarray(3 * row * this.vertexCount, 3 * (row + 1) * this.vertexCount);
  }

  /** 68 landmarks (x, y, z), … in the crop's frame. */
  landmarks(params: Float32Array): Float32Array {
    return this.decode(params, this.landmarkRows);
  }

  /** All vertices (x, y, z), … in the crop's frame. */
  vertices(params: Float32Array): Float32Array {
    return this.decode(params, this.vertexRows);
  }

  /** `rows` (1 + S + E, 3 · count): mean and modes, one flat row each. */
  private decode(params: Float32Array, rows: Float32Array): Float32Array {
    if (params.length !== this.numParams) {
      throw new ClnError(
        `params: expected ${this.numParams} for face model '${this.name}', got ${params.length}; ` +
          "check that network and face model belong together",
      );
    }
    const length = rows.length / (1 + params.length - POSE);
    const points = rows.slice(0, length);
    for (let mode = 1; mode <= params.length - POSE; mode++) {
      const weight = params[POSE + mode - 1];
      const row = rows.subarray(mode * length, (mode + 1) * length);
      for (let i = 0; i < length; i++) points[i] += weight * row[i];
    }
    const [a, b, c, tx, d, e, f, ty, g, h, k, tz] = params;
    for (let i = 0; i < length; i += 3) {
      const [x, y, z] = [points[i], points[i + 1], points[i + 2]];
      points[i] = a * x + b * y + c * z + tx;
      points[i + 1] = d * x + e * y + f * z + ty;
      points[i + 2] = g * x + h * y + k * z + tz;
    }
    return points;
  }
}

/** Corners (three vertices each) and weights of the landmarks: points of the surface; a vertex is the special case. */
interface Corners {
  readonly vertices: ArrayLike<number>;
  readonly weights: ArrayLike<number>;
}

function landmarkCorners(tensors: ReadonlyMap<string, Tensor>, get: (key: string) => Tensor): Corners {
  if (!tensors.has("landmark_vertices")) {
    return { vertices: get("landmark_triangles").values, weights: get("landmark_weights").values };
  }
  const vertices = Array.from(get("landmark_vertices").values);
  return { vertices: vertices.flatMap((v) => [v, v, v]), weights: vertices.flatMap(() => [1, 0, 0]) };
}

function rowsOfPoints(rows: Float32Array, vertexCount: number, { vertices, weights }: Corners): Float32Array {
  const modes = rows.length / (3 * vertexCount);
  const count = vertices.length / 3;
  const chosen = new Float32Array(modes * count * 3);
  for (let mode = 0; mode < modes; mode++) {
    for (let corner = 0; corner < vertices.length; corner++) {
      const from = 3 * (mode * vertexCount + vertices[corner]);
      const to = 3 * (mode * count + Math.floor(corner / 3));
      for (let axis = 0; axis < 3; axis++) chosen[to + axis] += weights[corner] * rows[from + axis];
    }
  }
  return chosen;
}

/** Hexadecimal SHA-256, or undefined where the browser has none to offer (a page that is not served securely). */
async function sha256(data: Uint8Array<ArrayBuffer>): Promise<string | undefined> {
  if (!globalThis.crypto?.subtle) return undefined;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
