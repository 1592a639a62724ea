/**
 * The region that a face asks for itself, once the network has seen it, whether the one it was seen in was off, and what
 * further looks say together, as in `runtime/regions.py`.
 */
import { constants } from "./constants";
import type { Face } from "./face";
import { multiply } from "./pose";
import { inverseOf, linearOf, onGrid, placement, type Roi, roiFromLandmarks } from "./roi";

const { way: WAY, turn: TURN, farWay: FAR_WAY, farTurn: FAR_TURN } = constants.regions;
/** At one face of a photograph, at most. */
export const LOOKS = constants.regions.looks;

/** The region that a face's landmarks give, turned as its head is; of one seen from far above or below, as its own. */
export function ownRoi(face: Face): Roi {
  const [x, y] = [face.pose.rotation[1], face.pose.rotation[4]];
  const angle = Math.hypot(x, y) > constants.pose.seenUpright ? (Math.atan2(x, y) * 180) / Math.PI : face.roi.angle;
  return roiFromLandmarks(face.landmarks, angle);
}

/** Whether a region is off by more than `way` of its side, twice that in size, or by `turn` degrees. */
export function isOff(roi: Roi, better: Roi, way: number, turn: number): boolean {
  const moved = Math.hypot(better.centerX - roi.centerX, better.centerY - roi.centerY);
  const grown = Math.abs(Math.log(better.side / roi.side));
  return moved > way * roi.side || grown > 2 * way || Math.abs(angleBetween(better.angle, roi.angle)) > turn;
}

/** From `other` to `angle` the shorter way round, degrees. */
export function angleBetween(angle: number, other: number): number {
  return ((((angle - other + 180) % 360) + 360) % 360) - 180;
}

/** Where to look again at a face of a photograph, if its region was off. */
export function furtherRoi(face: Face): Roi | undefined {
  const better = ownRoi(face);
  return isOff(face.roi, better, WAY, TURN) ? onGrid(better) : undefined;
}

/** Whether a region is so far off that what was seen in it no longer counts. */
export function isFar(roi: Roi, better: Roi): boolean {
  return isOff(roi, better, FAR_WAY, FAR_TURN);
}

/** What a first look at a face and a second one, in `roi`, say together: params in the frame of the second's crop. */
export function joined(first: Face, roi: Roi, seen: Float32Array, size: number): Float32Array {
  if (isFar(first.roi, roi)) return seen;
  return moved(first.params, first.roi, roi, size).map((value, i) => (value + seen[i]) / 2);
}

/** Params of a region's crop in the frame of another region's crop. */
function moved(params: Float32Array, roi: Roi, other: Roi, size: number): Float32Array {
  const [from, to] = [placement(roi, size), placement(other, size)];
  const back = inverseOf(to);
  const linear = multiply(back, linearOf(from));
  const shift = multiplied(back, [from.x - to.x, from.y - to.y, 0]);
  const result = params.slice();
  for (let column = 0; column < 4; column++) {
    const placed = multiplied(linear, [params[column], params[4 + column], params[8 + column]]);
    for (let row = 0; row < 3; row++) result[4 * row + column] = placed[row] + (column === 3 ? shift[row] : 0);
  }
  return result;
}

function multiplied(matrix: Float64Array, [x, y, z]: readonly number[]): number[] {
  return [0, 3, 6].map((row) => matrix[row] * x + matrix[row + 1] * y + matrix[row + 2] * z);
}
