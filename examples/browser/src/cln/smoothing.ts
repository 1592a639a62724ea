/**
 * Smoothing of a tracked face over time, as in `runtime/smoothing.py`: the One Euro filter (Casiez, Roussel, Vogel, CHI
 * 2012) by time stamps; rotation on the rotation group, position and size relative to the face, expression coefficients
 * one by one; shape coefficients are averaged over the track.
 */
import { constants } from "./constants";
import { multiply, nearestRotation } from "./pose";
import { inverseOf, linearOf, placement, type Roi } from "./roi";

const { jump: JUMP, identityViews: IDENTITY_VIEWS } = constants.smoothing.numbers;
const POSE = constants.faceModel.poseSize;
const PLACE = 4; // of the filtered values: x, y, z, logarithm of the size; the expression follows

/** One Euro's frequencies for one part of a face: Hz at rest, and Hz more for each unit of speed. */
export interface Cutoffs {
  readonly rest: number;
  readonly speed: number;
}

export interface Smoothing {
  readonly rotation: Cutoffs;
  readonly position: Cutoffs;
  readonly size: Cutoffs;
  readonly expression: Cutoffs;
  readonly of_speed: number;
}

/** The runtime's settings by name; null is none. */
export const settings: Readonly<Record<string, Smoothing | null>> = constants.smoothing.settings;

/** What the filter remembers of one face. */
export interface FilterState {
  readonly rotation: Float64Array;
  readonly values: Float64Array;
  readonly turning: Float64Array;
  readonly speed: Float64Array;
  readonly shape: Float64Array;
  readonly shapeWeight: number;
}

/** A face placed in the image: vertices = scale · diag(1, -1, 1) · rotation · (mean + …) + position. */
export interface Placed {
  readonly rotation: Float64Array;
  readonly scale: number;
  readonly position: Float64Array;
  readonly shape: Float64Array;
  readonly expression: Float64Array;
}

/** Params of a crop, placed by its region. */
export function place(params: Float32Array, roi: Roi, size: number, shapeCount: number): Placed {
  const at = placement(roi, size);
  const { scale, x, y, cosine, sine } = at;
  const [pose, shift] = [new Float64Array(9), new Float64Array(3)];
  for (let row = 0; row < 3; row++) {
    for (let column = 0; column < 3; column++) pose[3 * row + column] = params[4 * row + column];
    shift[row] = params[4 * row + 3];
  }
  const { rotation, scale: own } = nearestRotation(flipped(multiply(linearOf(at), pose)));
  return {
    rotation,
    scale: own,
    position: Float64Array.of(
      cosine * shift[0] - sine * shift[1] + x,
      sine * shift[0] + cosine * shift[1] + y,
      scale * shift[2],
    ),
    shape: Float64Array.from(params.subarray(POSE, POSE + shapeCount)),
    expression: Float64Array.from(params.subarray(POSE + shapeCount)),
  };
}

/** The inverse of `place`. */
export function unplace(placed: Placed, roi: Roi, size: number): Float32Array {
  const at = placement(roi, size);
  const { scale, x, y } = at;
  const inverse = inverseOf(at);
  const [c, s] = inverse;
  const pose = multiply(
    inverse,
    flipped(placed.rotation).map((value) => value * placed.scale),
  );
  const [dx, dy, dz] = [placed.position[0] - x, placed.position[1] - y, placed.position[2]];
  const shift = [c * dx + s * dy, c * dy - s * dx, dz / scale];
  const params = new Float32Array(POSE + placed.shape.length + placed.expression.length);
  for (let row = 0; row < 3; row++) {
    params.set(pose.subarray(3 * row, 3 * row + 3), 4 * row);
    params[4 * row + 3] = shift[row];
  }
  params.set(placed.shape, POSE);
  params.set(placed.expression, POSE + placed.shape.length);
  return params;
}

/**
 * A face, filtered, and the filter's new state; a face without a state is new and passes as it is. `side` is its
 * region's in image pixels, which positions are measured in, `step` the seconds since the frame before.
 */
export function smooth(
  placed: Placed,
  state: FilterState | undefined,
  side: number,
  step: number,
  setting: Smoothing,
): [Placed, FilterState] {
  const values = Float64Array.from([...placed.position, Math.log(placed.scale), ...placed.expression]);
  const none = new Float64Array(3);
  const speed = new Float64Array(values.length);
  const shape = new Float64Array(0);
  const before = state ?? { rotation: placed.rotation, values, turning: none, speed, shape, shapeWeight: 0 };
  const after = {
    ...turn(placed.rotation, before, step, setting),
    ...follow(values, before, side, step, setting),
    ...averaged(placed, before),
  };
  const filtered = {
    rotation: after.rotation,
    scale: Math.exp(after.values[3]),
    position: after.values.slice(0, 3),
    shape: after.shape,
    expression: after.values.slice(PLACE),
  };
  return [filtered, after];
}

/** The weight of a new value in a low-pass of `cutoff` Hz, `step` seconds after the last one. */
function share(cutoff: number, step: number): number {
  const r = 2 * Math.PI * cutoff * step;
  return r / (r + 1);
}

function turn(rotation: Float64Array, before: FilterState, step: number, setting: Smoothing) {
  const delta = rotationVector(multiply(transposed(before.rotation), rotation));
  const ofSpeed = share(setting.of_speed, step);
  const turning = before.turning.map((speed, i) => speed + ofSpeed * (delta[i] / step - speed));
  const cutoff = setting.rotation.rest + setting.rotation.speed * Math.hypot(...turning);
  const weight = Math.hypot(...delta) < JUMP ? share(cutoff, step) : 1;
  return { rotation: multiply(before.rotation, vectorRotation(delta.map((value) => weight * value))), turning };
}

function follow(values: Float64Array, before: FilterState, side: number, step: number, setting: Smoothing) {
  const ofSpeed = share(setting.of_speed, step);
  const speed = values.map((value, i) => {
    const unit = i < 3 ? side : 1;
    return before.speed[i] + ofSpeed * ((value - before.values[i]) / unit / step - before.speed[i]);
  });
  const moving = Math.hypot(speed[0], speed[1]); // z follows x and y: its own speed is noise
  const followed = values.map((value, i) => {
    const part = i < 3 ? setting.position : i < PLACE ? setting.size : setting.expression;
    const cutoff = part.rest + part.speed * (i < 3 ? moving : Math.abs(speed[i]));
    return before.values[i] + share(cutoff, step) * (value - before.values[i]);
  });
  return { values: followed, speed };
}

/** The track's mean shape with this view in it, and its weight: a profile shows little of a face's width. */
function averaged({ shape, rotation }: Placed, before: FilterState) {
  const weight = 0.05 + Math.max(rotation[8], 0) ** 2;
  if (before.shapeWeight === 0) return { shape, shapeWeight: weight };
  const shapeWeight = Math.min(before.shapeWeight + weight, IDENTITY_VIEWS);
  const mean = before.shape.map((value, i) => value + (weight / shapeWeight) * (shape[i] - value));
  return { shape: mean, shapeWeight };
}

/** Axis times angle, radians, of a rotation. */
function rotationVector(r: Float64Array): Float64Array {
  const twice = Float64Array.of(r[7] - r[5], r[2] - r[6], r[3] - r[1]);
  const sine = Math.hypot(...twice) / 2;
  const angle = Math.atan2(sine, (r[0] + r[4] + r[8] - 1) / 2);
  return twice.map((value) => (value * (sine > 1e-9 ? angle / sine : 1)) / 2);
}

/** The inverse of `rotationVector` (Rodrigues' formula). */
function vectorRotation(vector: Float64Array): Float64Array {
  const angle = Math.hypot(...vector);
  const [x, y, z] = vector.map((value) => value / Math.max(angle, 1e-12));
  const cross = Float64Array.of(0, -z, y, z, 0, -x, -y, x, 0);
  const square = multiply(cross, cross);
  const [sine, cosine] = [Math.sin(angle), Math.cos(angle)];
  return cross.map((value, i) => (i % 4 === 0 ? 1 : 0) + sine * value + (1 - cosine) * square[i]);
}

/** Between y up and y down. */
function flipped(matrix: Float64Array): Float64Array {
  return matrix.map((value, i) => (i >= 3 && i < 6 ? -value : value));
}

function transposed(m: Float64Array): Float64Array {
  return Float64Array.of(m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]);
}
