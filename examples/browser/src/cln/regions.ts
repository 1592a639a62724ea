/**
 * The region that a face asks for itself, once the network has seen it, and whether the one it was seen in was off, as in
 * `runtime/regions.py`.
 */
import { constants } from "./constants";
import type { Face } from "./face";
import { onGrid, type Roi, roiFromLandmarks } from "./roi";

const { way: WAY, turn: TURN } = constants.regions;

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
export function secondRoi(face: Face): Roi | undefined {
  const better = ownRoi(face);
  return isOff(face.roi, better, WAY, TURN) ? onGrid(better) : undefined;
}
