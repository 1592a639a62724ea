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
  for (let t = 0; t < triangles.length; t += 3) {
    const corners = [triangles[t], triangles[t + 1], triangles[t + 2]];
    const [[x, bx, cx], [y, by, cy]] = [0, 1].map((k) => corners.map((corner) => uv[2 * corner + k]));
    const area = (bx - x) * (cy - y) - (cx - x) * (by - y);
    if (area === 0) continue;
    for (let row = Math.ceil(Math.min(y, by, cy)); row <= Math.max(y, by, cy); row++) {
      for (let column = Math.ceil(Math.min(x, bx, cx)); column <= Math.max(x, bx, cx); column++) {
        const u = ((column - x) * (cy - y) - (row - y) * (cx - x)) / area;
        const v = ((bx - x) * (row - y) - (by - y) * (column - x)) / area;
        if (u < -1e-6 || v < -1e-6 || u + v > 1 + 1e-6) continue;
        const at = row * size + column;
        const mix = (of: (corner: number) => number) =>
          (1 - u - v) * of(corners[0]) + u * of(corners[1]) + v * of(corners[2]);
        const z = mix((corner) => distance[corner]);
        if (z <= depth[at]) continue;
        depth[at] = z;
        values[3 * at] = mix((corner) => place[2 * corner]);
        values[3 * at + 1] = mix((corner) => place[2 * corner + 1]);
        values[3 * at + 2] = mix((corner) => shown[corner]);
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
  const covered = (around: (i: number, c: number) => number) =>
    colors.map((value, i) => value + (1 - weights[Math.floor(i / 3)]) * around(Math.floor(i / 3), i % 3));
  if (side <= 2 || side % 2 === 1) {
    const total = Math.max(
      weights.reduce((sum, weight) => sum + weight, 0),
      1e-6,
    );
    const mean = [0, 1, 2].map((c) => colors.reduce((sum, value, i) => sum + (i % 3 === c ? value : 0), 0) / total);
    return covered((_, c) => mean[c]);
  }
  const half = halved(grid);
  // A known quarter stands for its whole.
  const gain = half.weights.map((weight) => Math.min(1 / Math.max(weight, 1e-6), 4));
  const coarse = spread({
    side: half.side,
    colors: half.colors.map((value, i) => value * gain[Math.floor(i / 3)]),
    weights: half.weights.map((weight, i) => weight * gain[i]),
  });
  const image = { side: half.side, colors: coarse };
  return covered((i, c) => enlarged(image, i % side, Math.floor(i / side), side, c));
}

/** Means of 2 × 2 cells. */
function halved({ side, colors, weights }: Grid): Grid {
  const half = side / 2;
  const mean = (values: Float32Array, channels: number) =>
    Float32Array.from({ length: half * half * channels }, (_, i) => {
      const [c, column, row] = [i % channels, Math.floor(i / channels) % half, Math.floor(i / channels / half)];
      const from = (2 * row * side + 2 * column) * channels + c;
      const below = from + side * channels;
      return (values[from] + values[from + channels] + values[below] + values[below + channels]) / 4;
    });
  return { side: half, colors: mean(colors, 3), weights: mean(weights, 1) };
}

/** A grid's colour at a pixel of its enlargement to `size`, linear. */
function enlarged(
  grid: { side: number; colors: Float32Array },
  column: number,
  row: number,
  size: number,
  c: number,
): number {
  const at = (pixel: number) => Math.min(Math.max(((pixel + 0.5) * grid.side) / size - 0.5, 0), grid.side - 1);
  const [x, y] = [at(column), at(row)];
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [right, bottom] = [Math.min(left + 1, grid.side - 1), Math.min(top + 1, grid.side - 1)];
  const value = (i: number, j: number) => grid.colors[3 * (j * grid.side + i) + c];
  const high = value(left, top) + (x - left) * (value(right, top) - value(left, top));
  const low = value(left, bottom) + (x - left) * (value(right, bottom) - value(left, bottom));
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
