/** Which points of a face the camera sees: a depth test against the face's own mesh, as in `runtime/visibility.py`. */

const INSIDE = -1e-5; // of a weight: a vertex lies in its own triangles, whatever is rounded

/** Which points (x, y, z), … no triangle hides by lying more than `margin` before them; all in one frame, bigger z nearer. */
export function visiblePoints(
  points: Float32Array,
  vertices: Float32Array,
  triangles: Uint32Array,
  margin: number,
): boolean[] {
  const count = points.length / 3;
  const depth = new Float64Array(count).fill(Number.NEGATIVE_INFINITY);
  // Sorted by y, so that each triangle is asked about the few points of its own rows.
  const order = Uint32Array.from({ length: count }, (_, i) => i).sort((i, k) => points[3 * i + 1] - points[3 * k + 1]);
  const rows = Float64Array.from(order, (i) => points[3 * i + 1]);
  for (let t = 0; t < triangles.length; t += 3) {
    const a = 3 * triangles[t];
    const b = 3 * triangles[t + 1];
    const c = 3 * triangles[t + 2];
    const x = vertices[a];
    const y = vertices[a + 1];
    const z = vertices[a + 2];
    const ax = vertices[b] - x;
    const ay = vertices[b + 1] - y;
    const bx = vertices[c] - x;
    const by = vertices[c + 1] - y;
    const inverse = 1 / (ax * by - bx * ay);
    if (!Number.isFinite(inverse)) continue;
    const slack = 1e-4 * (1 + Math.abs(ay) + Math.abs(by));
    const bottom = y + Math.max(0, ay, by) + slack;
    for (let at = firstFrom(rows, y + Math.min(0, ay, by) - slack); at < count && rows[at] <= bottom; at++) {
      const i = order[at];
      const px = points[3 * i] - x;
      const py = points[3 * i + 1] - y;
      const u = (px * by - py * bx) * inverse;
      const v = (ax * py - ay * px) * inverse;
      if (u < INSIDE || v < INSIDE || u + v > 1 - INSIDE) continue;
      depth[i] = Math.max(depth[i], z + u * (vertices[b + 2] - z) + v * (vertices[c + 2] - z));
    }
  }
  return Array.from(depth, (nearest, i) => points[3 * i + 2] >= nearest - margin);
}

/** The first index of a sorted array whose value is not below `value`. */
function firstFrom(sorted: Float64Array, value: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
