/**
 * The face's texture from its picture, in the unfolding of `runtime/texture.py`: the mean face seen from inside the head,
 * u to the subject's left, v downwards. Where the camera saw the surface it is the picture; where it saw the same spot of
 * the other half, that half is mirrored; the rest is filled with the colours around it.
 */
import { constants } from "./constants";
import type { Face } from "./face";
import type { FaceModel } from "./face_model";
import type { Pixels } from "./image";
import { averageBlocks } from "./roi";
import { visiblePoints } from "./visibility";

const { grazing: GRAZING, facing: FACING, center: CENTER, border: BORDER } = constants.texture;
const COARSE = 4; // the filling's grid, in texels

/** The texture's side in texels. */
export const TEXTURE_SIZE = constants.texture.textureSize;

/** RGBA texels of a face in `image`, which shows its vertices as `shown` says; undefined where nothing of it is seen. */
export function textureOf(face: Face, image: Pixels, shown: Float32Array, size = TEXTURE_SIZE): Pixels | undefined {
  if (!shown.some((weight) => weight >= constants.texture.seen)) return undefined;
  const { part, place } = reduced(image, face, size);
  const values = unfold(face.model, size, place, shown);
  const taken = new Float32Array(3 * size * size);
  const weights = new Float32Array(size * size);
  for (let i = 0; i < weights.length; i++) {
    sample(part, values[3 * i], values[3 * i + 1], taken, 3 * i);
    weights[i] = values[3 * i + 2];
  }
  const colors = new Float32Array(3 * size * size);
  const known = new Float32Array(size * size);
  for (let row = 0, i = 0; row < size; row++) {
    for (let column = 0; column < size; column++, i++) {
      const other = row * size + size - 1 - column;
      const own = weights[i];
      const mirrored = weights[other] * (1 - own);
      known[i] = own + mirrored;
      for (let c = 0; c < 3 && known[i] > 0; c++) {
        colors[3 * i + c] = (own * taken[3 * i + c] + mirrored * taken[3 * other + c]) / known[i];
      }
    }
  }
  return blended(colors, known, fill(colors, known, size), size);
}

/** How well the image shows each vertex, 0 to 1: visible, facing the camera, and inside the image. */
export function shownVertices(face: Face, { width, height }: Pixels): Float32Array {
  const { vertices, triangles } = face;
  const normals = vertexNormals(vertices, triangles);
  const visible = visiblePoints(vertices, vertices, triangles, constants.visibility.margin * face.pose.scale);
  return Float32Array.from(visible, (seen, i) => {
    const [x, y] = [vertices[3 * i], vertices[3 * i + 1]];
    if (!(seen && x >= 0 && y >= 0 && x <= width - 1 && y <= height - 1)) return 0;
    return Math.min(Math.max((normals[3 * i + 2] - GRAZING) / (FACING - GRAZING), 0), 1);
  });
}

/** Unit normals of vertices in a y-down frame, pointing out of the surface; area-weighted. */
export function vertexNormals(vertices: Float32Array, triangles: Uint32Array): Float32Array {
  const normals = new Float32Array(vertices.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const u = [0, 1, 2].map((k) => vertices[c + k] - vertices[a + k]);
    const v = [0, 1, 2].map((k) => vertices[b + k] - vertices[a + k]);
    for (let k = 0; k < 3; k++) {
      const [i, j] = [(k + 1) % 3, (k + 2) % 3];
      const area = u[i] * v[j] - u[j] * v[i];
      for (const corner of [a, b, c]) normals[corner + k] += area;
    }
  }
  for (let i = 0; i < normals.length; i += 3) {
    const length = Math.hypot(normals[i], normals[i + 1], normals[i + 2]) || 1;
    for (let k = 0; k < 3; k++) normals[i + k] /= length;
  }
  return normals;
}

/** u and v of the vertices in the unfolding, 0 to 1, v downwards. */
export function textureCoordinates(model: FaceModel): Float32Array {
  const { azimuth, elevation } = fromInside(model);
  const widest = azimuth.reduce((most, angle) => Math.max(most, Math.abs(angle)), 0);
  const [lowest, highest] = [Math.min(...elevation), Math.max(...elevation)];
  const uv = new Float32Array(2 * azimuth.length);
  for (let i = 0; i < azimuth.length; i++) {
    uv[2 * i] = BORDER + (1 - 2 * BORDER) * (azimuth[i] / (2 * widest) + 0.5);
    uv[2 * i + 1] = BORDER + ((1 - 2 * BORDER) * (highest - elevation[i])) / (highest - lowest);
  }
  return uv;
}

/** Azimuth and elevation (radians) and distance of the mean face's vertices from a point inside the head. */
function fromInside({ mean }: FaceModel) {
  const axis = (k: number) => Float64Array.from({ length: mean.length / 3 }, (_, i) => mean[3 * i + k]);
  const [x, y, z] = [axis(0), axis(1), axis(2)];
  const [left, right] = [Math.min(...x), Math.max(...x)];
  const centerY = (Math.min(...y) + Math.max(...y)) / 2;
  const centerZ = Math.max(...z) - (CENTER * (right - left)) / 2;
  const level = x.map((value, i) => Math.hypot(value, z[i] - centerZ));
  return {
    azimuth: x.map((value, i) => Math.atan2(value, z[i] - centerZ)),
    elevation: y.map((value, i) => Math.atan2(value - centerY, level[i])),
    distance: y.map((value, i) => Math.hypot(level[i], value - centerY)),
  };
}

/** At each texel: where it lies in the picture (x, y), and how well it is shown; the outer of two folds counts. */
function unfold(model: FaceModel, size: number, place: Float32Array, shown: Float32Array): Float32Array {
  const uv = textureCoordinates(model).map((value) => value * size - 0.5);
  const { distance } = fromInside(model);
  const depth = new Float32Array(size * size).fill(Number.NEGATIVE_INFINITY);
  const values = new Float32Array(3 * size * size);
  const { triangles } = model;
  const [u, v] = [new Float64Array(3), new Float64Array(3)]; // of a triangle's corners
  for (let t = 0; t < triangles.length; t += 3) {
    const corners = triangles.subarray(t, t + 3);
    corners.forEach((corner, k) => {
      u[k] = uv[2 * corner];
      v[k] = uv[2 * corner + 1];
    });
    const area = (u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0]);
    if (area === 0) continue;
    const [left, right] = [Math.ceil(Math.min(u[0], u[1], u[2])), Math.max(u[0], u[1], u[2])];
    const [top, bottom] = [Math.ceil(Math.min(v[0], v[1], v[2])), Math.max(v[0], v[1], v[2])];
    const [a, b, c] = corners;
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const wb = ((column - u[0]) * (v[2] - v[0]) - (row - v[0]) * (u[2] - u[0])) / area;
        const wc = ((u[1] - u[0]) * (row - v[0]) - (v[1] - v[0]) * (column - u[0])) / area;
        if (wb < -1e-6 || wc < -1e-6 || wb + wc > 1 + 1e-6) continue;
        const wa = 1 - wb - wc;
        const at = row * size + column;
        const z = wa * distance[a] + wb * distance[b] + wc * distance[c];
        if (z <= depth[at]) continue;
        depth[at] = z;
        values[3 * at] = wa * place[2 * a] + wb * place[2 * b] + wc * place[2 * c];
        values[3 * at + 1] = wa * place[2 * a + 1] + wb * place[2 * b + 1] + wc * place[2 * c + 1];
        values[3 * at + 2] = wa * shown[a] + wb * shown[b] + wc * shown[c];
      }
    }
  }
  return values;
}

/** The picture around the face, averaged where the texture is much coarser, and the vertices (x, y) in it. */
function reduced(image: Pixels, { vertices }: Face, size: number): { part: Pixels; place: Float32Array } {
  let [left, right] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = 0; i < vertices.length; i += 3) {
    [left, right] = [Math.min(left, vertices[i]), Math.max(right, vertices[i])];
  }
  const block = Math.max(Math.min(Math.floor((right - left) / size), image.width, image.height), 1);
  const blocks = (length: number): [number, number] => [0, Math.ceil(length / block)];
  const part = block === 1 ? image : averageBlocks(image, block, blocks(image.width), blocks(image.height));
  const place = new Float32Array((vertices.length / 3) * 2);
  for (let i = 0; i < place.length; i += 2) {
    place[i] = (vertices[(3 * i) / 2] + 0.5) / block - 0.5;
    place[i + 1] = (vertices[(3 * i) / 2 + 1] + 0.5) / block - 0.5;
  }
  return { part, place };
}

/** The image at (x, y), bilinear, edges replicated: three numbers into `out` from `to` on. */
function sample({ data, width, height }: Pixels, x: number, y: number, out: Float32Array, to: number): void {
  const [cx, cy] = [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  const [left, top] = [Math.floor(cx), Math.floor(cy)];
  const [wx, wy] = [cx - left, cy - top];
  const right = left < width - 1 ? 4 : 0;
  const upper = 4 * (top * width + left);
  const lower = top < height - 1 ? upper + 4 * width : upper;
  for (let c = 0; c < 3; c++) {
    const high = data[upper + c] + wx * (data[upper + right + c] - data[upper + c]);
    const low = data[lower + c] + wx * (data[lower + right + c] - data[lower + c]);
    out[to + c] = high + wy * (low - high);
  }
}

/** A square grid of colours and weights. */
interface Grid {
  readonly side: number;
  readonly colors: Float32Array; // times their weights
  readonly weights: Float32Array;
}

/** Colours everywhere, spread from where they are known (pull-push, Gortler et al. 1996), on a coarser grid. */
function fill(colors: Float32Array, known: Float32Array, size: number): { side: number; colors: Float32Array } {
  const premultiplied = colors.map((value, i) => value * known[Math.floor(i / 3)]);
  let grid: Grid = { side: size, colors: premultiplied, weights: known };
  for (let factor = 1; factor < COARSE && grid.side % 2 === 0; factor *= 2) grid = halved(grid);
  return { side: grid.side, colors: spread(grid) };
}

function spread(grid: Grid): Float32Array {
  const { side, colors, weights } = grid;
  const out = new Float32Array(colors.length);
  if (side <= 2 || side % 2 === 1) {
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const mean = [0, 0, 0];
    for (let i = 0; i < colors.length; i++) mean[i % 3] += colors[i] / Math.max(total, 1e-6);
    for (let i = 0; i < colors.length; i++) out[i] = colors[i] + (1 - weights[(i - (i % 3)) / 3]) * mean[i % 3];
    return out;
  }
  const half = halved(grid);
  for (let i = 0; i < half.weights.length; i++) {
    const gain = Math.min(1 / Math.max(half.weights[i], 1e-6), 4); // a known quarter stands for its whole
    half.weights[i] *= gain;
    for (let c = 0; c < 3; c++) half.colors[3 * i + c] *= gain;
  }
  const coarse = { side: half.side, colors: spread(half) };
  for (let row = 0, i = 0; row < side; row++) {
    for (let column = 0; column < side; column++, i++) {
      for (let c = 0; c < 3; c++) {
        const around = weights[i] < 1 ? enlarged(coarse, column, row, side, c) : 0;
        out[3 * i + c] = colors[3 * i + c] + (1 - weights[i]) * around;
      }
    }
  }
  return out;
}

/** Means of 2 × 2 cells. */
function halved({ side, colors, weights }: Grid): Grid {
  return { side: side / 2, colors: halfOf(colors, side, 3), weights: halfOf(weights, side, 1) };
}

function halfOf(values: Float32Array, side: number, channels: number): Float32Array {
  const out = new Float32Array(values.length / 4);
  const line = side * channels;
  for (let row = 0, to = 0; row < side; row += 2) {
    for (let column = 0; column < side; column += 2) {
      for (let c = 0; c < channels; c++, to++) {
        const from = row * line + column * channels + c;
        out[to] = (values[from] + values[from + channels] + values[from + line] + values[from + line + channels]) / 4;
      }
    }
  }
  return out;
}

/** A grid's colour at a pixel of its enlargement to `size`, linear. */
function enlarged(
  grid: { side: number; colors: Float32Array },
  column: number,
  row: number,
  size: number,
  c: number,
): number {
  const { side, colors } = grid;
  const x = Math.min(Math.max(((column + 0.5) * side) / size - 0.5, 0), side - 1);
  const y = Math.min(Math.max(((row + 0.5) * side) / size - 0.5, 0), side - 1);
  const left = Math.floor(x);
  const top = Math.floor(y);
  const right = left < side - 1 ? 3 : 0;
  const upper = 3 * (top * side + left) + c;
  const lower = top < side - 1 ? upper + 3 * side : upper;
  const high = colors[upper] + (x - left) * (colors[upper + right] - colors[upper]);
  const low = colors[lower] + (x - left) * (colors[lower + right] - colors[lower]);
  return high + (y - top) * (low - high);
}

function blended(
  colors: Float32Array,
  known: Float32Array,
  filled: { side: number; colors: Float32Array },
  size: number,
): Pixels {
  const data = new Uint8ClampedArray(4 * size * size).fill(255);
  for (let i = 0; i < known.length; i++) {
    for (let c = 0; c < 3; c++) {
      const other = known[i] < 1 ? enlarged(filled, i % size, Math.floor(i / size), size, c) : 0;
      data[4 * i + c] = known[i] * colors[3 * i + c] + (1 - known[i]) * other;
    }
  }
  return { data, width: size, height: size };
}
