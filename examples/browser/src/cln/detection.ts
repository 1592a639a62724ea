/**
 * Face detection as in `runtime/detection.py`: MediaPipe's BlazeFace, full range (Bazarevsky et al., arXiv 1907.05047),
 * on square views of the image (a landscape's first view is lower); votes that overlap are averaged; small faces are
 * looked at again from near, turned ones in a view that is turned upright.
 *
 * A face's points are eight (x, y) in one Float64Array: top-left and bottom-right corner of its box, then six keypoints:
 * left eye, right eye, nose tip, mouth centre, left and right tragion, as seen in the image of a frontal face.
 */
import { constants } from "./constants";
import type { Network } from "./engine";
import { ClnError } from "./errors";
import type { Pixels } from "./image";
import { angleBetween } from "./regions";
import { crop, onGrid, type Roi, roundHalfEven, toCrop, toImage2d } from "./roi";

const { view: VIEW, cell: CELL, candidate, small, workSize } = constants.detection;
const { centerWeights, boxPerSpread, leastPerBox } = constants.detection;
const { lean, tilted, upright, turns: TURNS, scoreThreshold, iouThreshold, turnedSurer } = constants.detection;
const { landscape } = constants.detection; // rows of a landscape's first view
const FINE = 16; // steps of a pixel that an outline is rounded to
const EYES = 4; // of a face's points: the index of the first keypoint's x

export interface Detection {
  /** x, y, width, height in image pixels. */
  readonly box: readonly [number, number, number, number];
  readonly score: number;
  /** Six (x, y). */
  readonly keypoints: Float32Array;
}

interface Vote {
  readonly points: Float64Array;
  readonly score: number;
}

/** The region to crop: centre, side and angle from the keypoints, which hold from profile to profile. Where these crowd
 * together, the box says how small it may be. */
export function roiFromDetection({ box, keypoints }: Detection): Roi {
  let [centerX, centerY, meanX, meanY, square] = [0, 0, 0, 0, 0];
  for (let i = 0; i < 6; i++) {
    centerX += centerWeights[i] * keypoints[2 * i];
    centerY += centerWeights[i] * keypoints[2 * i + 1];
    meanX += keypoints[2 * i] / 6;
    meanY += keypoints[2 * i + 1] / 6;
  }
  for (let i = 0; i < 6; i++) square += (keypoints[2 * i] - meanX) ** 2 + (keypoints[2 * i + 1] - meanY) ** 2;
  const spread = constants.roi.sidePerLength * boxPerSpread * Math.sqrt(square / 6);
  const side = Math.max(spread, leastPerBox * Math.max(box[2], box[3]));
  return { centerX, centerY, side, angle: headAngle(keypoints) };
}

/** How far six keypoints are turned in the image, degrees clockwise; 0 for an upright head. */
function headAngle(k: ArrayLike<number>): number {
  const [x, y] = down(k);
  return degrees(Math.atan2(-(x - lean * (k[4] - (k[8] + k[10]) / 2)), y - lean * (k[5] - (k[9] + k[11]) / 2)));
}

/** From between the eyes to the mouth. */
function down(k: ArrayLike<number>): [number, number] {
  return [k[6] - (k[0] + k[2]) / 2, k[7] - (k[1] + k[3]) / 2];
}

/** The head's angle, or the eye line's where that says more: network and lines go wrong together past 60 degrees. */
function apparentAngle(k: ArrayLike<number>): number {
  const [x, y] = [k[2] - k[0], k[3] - k[1]];
  const [head, eyes] = [headAngle(k), degrees(Math.atan2(y, x))];
  const nearProfile = Math.hypot(x, y) < 0.3 * Math.hypot(...down(k));
  return nearProfile || Math.abs(head) >= Math.abs(eyes) ? head : eyes;
}

function degrees(radians: number): number {
  return (radians * 180) / Math.PI;
}

export class FaceDetector {
  constructor(private readonly network: Network) {}

  /** Faces of an image, best first; `quick`: by the first look alone, for videos. */
  async detect(image: Pixels, quick = false): Promise<Detection[]> {
    const threshold = scoreThreshold * candidate;
    const [whole, wide] = [around(image, 1), around(image, 2)];
    let votes = await this.look(image, ...firstView(image), threshold);
    let faces = await this.settle(image, votes);
    if (faces.length === 0 && !quick) {
      const views = [wide, ...(Math.max(image.width, image.height) > workSize ? tiles(image) : [])];
      for (const view of views) votes = votes.concat(await this.look(image, view, 0, threshold));
      faces = await this.settle(image, votes);
    }
    if (faces.length === 0 && !quick) {
      votes = [];
      for (const view of [whole, wide]) votes = votes.concat(await this.look(image, view, 0, threshold, [1, 2, 3]));
      faces = (await this.settle(image, votes)).filter(({ score }) => score >= scoreThreshold + turnedSurer);
    }
    return faces.map(({ points, score }) => {
      const [x0, y0, x1, y1, ...keypoints] = points;
      return { box: [x0, y0, x1 - x0, y1 - y0], score, keypoints: new Float32Array(keypoints) };
    });
  }

  /** Faces of the looks' votes; doubtful small ones are kept if a closer look agrees. */
  private async settle(image: Pixels, votes: readonly Vote[]): Promise<Vote[]> {
    const merged = merge(votes);
    const sure = merged.filter(({ score }) => score >= scoreThreshold);
    const doubtful = merged.filter((vote) => !sure.includes(vote) && !sure.some((face) => touch(vote, face)));
    const faces: Vote[] = [];
    for (const face of [...sure, ...doubtful]) {
      const settled = await this.refine(image, face);
      if (settled.score >= scoreThreshold) faces.push(settled);
    }
    return merge(faces);
  }

  /** A face, seen again where it is too small or too turned for precise keypoints. */
  private async refine(image: Pixels, found: Vote): Promise<Vote> {
    let face = found;
    let angle = apparentAngle(face.points.subarray(EYES));
    const turned = Math.abs(angle) > tilted;
    if (!turned && longerSide(face) >= small * Math.max(image.width, image.height)) return face;
    if (!turned) angle = 0;
    for (let look = 0; look < (turned ? TURNS : 1); look++) {
      const [x0, y0, x1, y1] = face.points;
      const view = onGrid({
        centerX: Math.min(Math.max((x0 + x1) / 2, 0), image.width - 1),
        centerY: Math.min(Math.max((y0 + y1) / 2, 0), image.height - 1),
        side: 4 * Math.max(longerSide(face), 1),
        angle,
      });
      const votes = merge(await this.look(image, view, 0, scoreThreshold));
      const before = face;
      const same = votes.find((vote) => overlap(before.points, vote.points) > iouThreshold);
      if (!same) break;
      face = same;
      const left = angleBetween(headAngle(face.points.subarray(EYES)), view.angle);
      if (Math.abs(left) < upright) break;
      angle = view.angle + left;
    }
    return face;
  }

  /**
   * Votes of one view, in pixels of `image`, looked at in each number of quarter turns; of a view that isn't turned,
   * `top` rows are left out.
   */
  private async look(
    image: Pixels,
    view: Roi,
    top: number,
    threshold: number,
    turns: readonly number[] = [0],
  ): Promise<Vote[]> {
    const canvas = render(image, view).subarray(3 * VIEW * top);
    const votes: Vote[] = [];
    for (const turn of turns) {
      const { boxes, scores } = await this.network.run(quarterTurns(canvas, turn), [1, VIEW - top, VIEW, 3]);
      const middle = (VIEW - 1) / 2;
      const straight = { centerX: middle, centerY: middle, side: VIEW, angle: 90 * turn };
      for (const { points, score } of decode(boxes, scores, threshold)) {
        // The network measures from a pixel's corner, the library from its centre: hence the half.
        const centered = points.map((value, k) => value - 0.5 + (k % 2) * top);
        votes.push({ points: placed(toImage2d(centered, straight, VIEW), view), score });
      }
    }
    return votes;
  }
}

/** Cells that vote for a face, in pixels of the rows that were looked at. */
function decode(boxes: Float32Array | undefined, scores: Float32Array | undefined, threshold: number): Vote[] {
  const cells = VIEW / CELL;
  if (!scores?.length || scores.length % cells || boxes?.length !== scores.length * 16) {
    throw new ClnError("face detector: expected boxes and scores of each cell, got another network's outputs");
  }
  const logit = Math.log(threshold / (1 - threshold));
  const votes: Vote[] = [];
  for (let i = 0; i < scores.length; i++) {
    if (!(scores[i] > logit)) continue;
    const [x, y, width, height, ...keypoints] = boxes.subarray(16 * i, 16 * i + 16);
    if (!(width > 0 && height > 0)) continue;
    const anchor = [((i % cells) + 0.5) * CELL, (Math.floor(i / cells) + 0.5) * CELL];
    const corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
    const points = Float64Array.from([...corners, ...keypoints], (value, k) => value + anchor[k % 2]);
    votes.push({ points, score: 1 / (1 + Math.exp(-scores[i])) });
  }
  return votes;
}

/** A view's face in the image's pixels: its box stays upright and keeps its size about its middle. */
function placed(points: Float64Array, view: Roi): Float64Array {
  const [halfX, halfY] = [0, 1].map((k) => (Math.abs(points[2 + k] - points[k]) / 2) * (view.side / VIEW));
  const moved = toImage2d(points.slice(), view, VIEW);
  const [x, y] = [(moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2];
  moved.set([x - halfX, y - halfY, x + halfX, y + halfY]);
  return moved;
}

/** The whole image, and how many of the view's rows, all black, are left out: a landscape lies at its bottom. */
function firstView(image: Pixels): [Roi, number] {
  const { width, height } = image;
  if (height > (landscape / VIEW) * width) return [around(image, 1), 0];
  return [{ centerX: (width - 1) / 2, centerY: height - (width + 1) / 2, side: width, angle: 0 }, VIEW - landscape];
}

function around({ width, height }: Pixels, zoom: number): Roi {
  return { centerX: (width - 1) / 2, centerY: (height - 1) / 2, side: zoom * Math.max(width, height), angle: 0 };
}

/** Views of half the image's longer side that overlap by half or more. */
function tiles({ width, height }: Pixels): Roi[] {
  const side = Math.ceil(Math.max(width, height) / 2);
  const [xs, ys] = [width, height].map((length) => {
    const count = Math.max(Math.ceil((2 * (length - side)) / side), 0) + 1;
    const first = (i: number) => (count === 1 ? (length - side) / 2 : ((length - side) * i) / (count - 1));
    return Array.from({ length: count }, (_, i) => first(i) + (side - 1) / 2);
  });
  return ys.flatMap((centerY) => xs.map((centerX) => ({ centerX, centerY, side, angle: 0 })));
}

/** The view as BGR bytes (VIEW, VIEW, 3); what lies outside of the image is black, as in training. */
function render(image: Pixels, view: Roi): Uint8Array {
  const canvas = new Uint8Array(VIEW * VIEW * 3);
  crop(image, view, VIEW, canvas);
  const [right, bottom] = [image.width - 0.5, image.height - 0.5];
  const outline = toCrop(Float64Array.of(-0.5, -0.5, right, -0.5, right, bottom, -0.5, bottom), view, VIEW);
  const [first, last] = spansOf(outline.map((value) => roundHalfEven(value * FINE) / FINE));
  for (let row = 0; row < VIEW; row++) {
    const [start, end] =
      first[row] > last[row] ? [VIEW, VIEW] : [Math.max(first[row], 0), Math.min(last[row] + 1, VIEW)];
    canvas.fill(0, 3 * row * VIEW, 3 * (row * VIEW + Math.min(start, VIEW)));
    canvas.fill(0, 3 * (row * VIEW + Math.max(end, 0)), 3 * (row + 1) * VIEW);
  }
  return canvas;
}

/**
 * The first and last pixel of each row of a view that a convex polygon covers, as OpenCV's `fillConvexPoly` does: its
 * edges run between rounded rows, and a line is drawn along each.
 */
function spansOf(outline: Float64Array): [Float64Array, Float64Array] {
  const first = new Float64Array(VIEW).fill(Number.POSITIVE_INFINITY);
  const last = new Float64Array(VIEW).fill(Number.NEGATIVE_INFINITY);
  const add = (row: number, x: number) => {
    if (row < 0 || row >= VIEW) return;
    first[row] = Math.min(first[row], Math.floor(x + 0.5));
    last[row] = Math.max(last[row], Math.floor(x + 0.5));
  };
  const round = (value: number) => Math.floor(value + 0.5);
  for (let i = 0; i < outline.length; i += 2) {
    const start = [outline[i], outline[i + 1]];
    const end = [outline[(i + 2) % outline.length], outline[(i + 3) % outline.length]];
    const [top, bottom] = start[1] < end[1] ? [start, end] : [end, start];
    const rows = round(bottom[1]) - round(top[1]);
    for (let row = Math.max(round(top[1]), 0); row <= Math.min(round(bottom[1]), VIEW - 1) && rows > 0; row++) {
      add(row, top[0] + ((bottom[0] - top[0]) * (row - round(top[1]))) / rows);
    }
    // The line, from where it enters the view, in steps of a pixel along its longer axis.
    const major = Math.abs(end[0] - start[0]) > Math.abs(end[1] - start[1]) ? 0 : 1;
    const [from, to] = start[major] < end[major] ? [start, end] : [end, start];
    const slope = (to[1 - major] - from[1 - major]) / (to[major] - from[major] || 1);
    let [enter, leave] = [Math.max(from[major], 0), Math.min(to[major], VIEW)];
    for (const limit of [0, VIEW]) {
      const crossing = from[major] + (limit - from[1 - major]) / slope;
      if (slope > 0 === (limit === 0)) enter = slope === 0 ? enter : Math.max(enter, crossing);
      else leave = slope === 0 ? leave : Math.min(leave, crossing);
    }
    for (let at = enter; at <= leave; at++) {
      const across = from[1 - major] + slope * (at - from[major]);
      if (major === 0) add(round(across), at);
      else add(round(at), across);
    }
  }
  return [first, last];
}

/** A square view turned counter-clockwise by 90 degrees so many times. */
function quarterTurns(canvas: Uint8Array, turns: number): Uint8Array {
  if (turns === 0) return canvas;
  const last = VIEW - 1;
  const from = [
    (row: number, column: number) => row * VIEW + column,
    (row: number, column: number) => column * VIEW + last - row,
    (row: number, column: number) => (last - row) * VIEW + last - column,
    (row: number, column: number) => (last - column) * VIEW + row,
  ][turns];
  const turned = new Uint8Array(canvas.length);
  for (let row = 0, to = 0; row < VIEW; row++) {
    for (let column = 0; column < VIEW; column++, to += 3) {
      const source = 3 * from(row, column);
      for (let channel = 0; channel < 3; channel++) turned[to + channel] = canvas[source + channel];
    }
  }
  return turned;
}

/** Non-maximum suppression, best first, that averages by score the votes it removes (BlazeFace's paper, 3.4). */
function merge(votes: readonly Vote[]): Vote[] {
  const faces: Vote[] = [];
  let left = [...votes].sort((a, b) => b.score - a.score);
  while (left.length) {
    const best = left[0];
    const same = left.map((vote, i) => i === 0 || overlap(best.points, vote.points) > iouThreshold);
    const points = new Float64Array(best.points.length);
    let total = 0;
    left.forEach((vote, i) => {
      if (!same[i]) return;
      total += vote.score;
      for (let k = 0; k < points.length; k++) points[k] += vote.score * vote.points[k];
    });
    faces.push({ points: points.map((sum) => sum / total), score: best.score });
    left = left.filter((_, i) => !same[i]);
  }
  return faces;
}

/** Whether one of two faces has its middle inside the other's box. */
function touch(a: Vote, b: Vote): boolean {
  return [0, 1].every((k) => {
    const gap = Math.abs(a.points[k] + a.points[k + 2] - b.points[k] - b.points[k + 2]);
    return gap < Math.max(a.points[k + 2] - a.points[k], b.points[k + 2] - b.points[k]);
  });
}

function longerSide({ points }: Vote): number {
  return Math.max(points[2] - points[0], points[3] - points[1]);
}

/** Intersection over union of two boxes, each the first two of its points. */
function overlap(a: Float64Array, b: Float64Array): number {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const [first, second] = [a, b].map((box) => (box[2] - box[0]) * (box[3] - box[1]));
  return (width * height) / (first + second - width * height);
}
