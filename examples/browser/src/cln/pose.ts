/**
 * Head pose from the 3 × 4 pose matrix. Convention, that of `runtime/pose.py`: in the model frame (x to the subject's
 * left, y up, z out of the face) R = Rx(pitch) · Ry(yaw) · Rz(roll), degrees; yaw > 0 turns to the image's left,
 * pitch > 0 up, roll > 0 clockwise. P[:, :3] = scale · diag(1, -1, 1) · R, since the crop frame's y points down.
 */

export interface Pose {
  readonly yaw: number;
  readonly pitch: number;
  readonly roll: number;
  /** Row-major 3 × 3, model frame to a camera frame with y up. */
  readonly rotation: Float64Array;
  /** Image pixels per millimetre. */
  readonly scale: number;
}

const GIMBAL = 1 - 1e-9;

/** Pose of the first twelve params; `pixels` is the size of a crop pixel in image pixels, `turn` the region's angle. */
export function poseOf(params: ArrayLike<number>, pixels: number, turn: number): Pose {
  const linear = new Float64Array(9);
  for (let row = 0; row < 3; row++) {
    for (let column = 0; column < 3; column++) {
      linear[3 * row + column] = params[4 * row + column];
    }
  }
  const upright = turn === 0 ? linear : multiply(turnInPlane(turn), linear);
  for (let column = 3; column < 6; column++) upright[column] = -upright[column];
  const { rotation, scale } = nearestRotation(upright);
  return { ...eulerAngles(rotation), rotation, scale: scale * pixels };
}

function turnInPlane(degrees: number): Float64Array {
  const [c, s] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  return new Float64Array([c, -s, 0, s, c, 0, 0, 0, 1]);
}

function eulerAngles(r: Float64Array): { yaw: number; pitch: number; roll: number } {
  const degrees = 180 / Math.PI;
  const sine = Math.min(1, Math.max(-1, -r[2]));
  const yaw = Math.asin(sine) * degrees;
  if (Math.abs(sine) >= GIMBAL) return { yaw, pitch: Math.atan2(-r[7], r[4]) * degrees, roll: 0 };
  return { yaw, pitch: Math.atan2(r[5], r[8]) * degrees, roll: Math.atan2(r[1], r[0]) * degrees };
}

/** The rotation nearest to a matrix in the least-squares sense (Kabsch 1976), and the mean of its singular values. */
export function nearestRotation(matrix: Float64Array): { rotation: Float64Array; scale: number } {
  // One-sided Jacobi: turn pairs of columns until they are orthogonal; then matrix = (columns / lengths) · lengths · Vᵀ.
  const a = matrix.slice();
  const v = new Float64Array([1, 0, 0, 0, 1, 0, 0, 0, 1]);
  for (let sweep = 0; sweep < 20; sweep++) {
    let largest = 0;
    for (const [p, q] of [
      [0, 1],
      [0, 2],
      [1, 2],
    ]) {
      const [pp, qq, pq] = [dot(a, p, p), dot(a, q, q), dot(a, p, q)];
      largest = Math.max(largest, Math.abs(pq) / (Math.sqrt(pp * qq) || 1));
      if (pq === 0) continue;
      const zeta = (qq - pp) / (2 * pq);
      const tangent = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
      const cosine = 1 / Math.hypot(1, tangent);
      rotateColumns(a, p, q, cosine, cosine * tangent);
      rotateColumns(v, p, q, cosine, cosine * tangent);
    }
    if (largest < 1e-15) break;
  }
  const lengths = [0, 1, 2].map((k) => Math.sqrt(dot(a, k, k)));
  const smallest = lengths.indexOf(Math.min(...lengths));
  const mirrored = determinant(matrix) < 0;
  const rotation = new Float64Array(9);
  for (let k = 0; k < 3; k++) {
    const sign = mirrored && k === smallest ? -1 : 1;
    for (let row = 0; row < 3; row++) {
      for (let column = 0; column < 3; column++) {
        rotation[3 * row + column] += ((sign * a[3 * row + k]) / (lengths[k] || 1)) * v[3 * column + k];
      }
    }
  }
  return { rotation, scale: (lengths[0] + lengths[1] + lengths[2]) / 3 };
}

function dot(m: Float64Array, p: number, q: number): number {
  return m[p] * m[q] + m[3 + p] * m[3 + q] + m[6 + p] * m[6 + q];
}

function rotateColumns(m: Float64Array, p: number, q: number, cosine: number, sine: number): void {
  for (let row = 0; row < 9; row += 3) {
    const [x, y] = [m[row + p], m[row + q]];
    m[row + p] = cosine * x - sine * y;
    m[row + q] = sine * x + cosine * y;
  }
}

function determinant(m: Float64Array): number {
  return m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) + m[2] * (m[3] * m[7] - m[4] * m[6]);
}

/** The product of two 3 × 3 matrices. */
export function multiply(a: Float64Array, b: Float64Array): Float64Array {
  const product = new Float64Array(9);
  for (let i = 0; i < 9; i++) {
    const [row, column] = [i - (i % 3), i % 3];
    product[i] = a[row] * b[column] + a[row + 1] * b[3 + column] + a[row + 2] * b[6 + column];
  }
  return product;
}
