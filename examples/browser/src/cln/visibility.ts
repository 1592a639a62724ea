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
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const [x, y, z] = [vertices[a], vertices[a + 1], vertices[a + 2]];
    const [ax, ay, bx, by] = [vertices[b] - x, vertices[b + 1] - y, vertices[c] - x, vertices[c + 1] - y];
    const inverse = 1 / (ax * by - bx * ay);
    if (!Number.isFinite(inverse)) continue;
    for (let i = 0; i < count; i++) {
      const [px, py] = [points[3 * i] - x, points[3 * i + 1] - y];
      const [u, v] = [(px * by - py * bx) * inverse, (ax * py - ay * px) * inverse];
      if (u < INSIDE || v < INSIDE || u + v > 1 - INSIDE) continue;
      depth[i] = Math.max(depth[i], z + u * (vertices[b + 2] - z) + v * (vertices[c + 2] - z));
    }
  }
  return Array.from(depth, (nearest, i) => points[3 * i + 2] >= nearest - margin);
}
