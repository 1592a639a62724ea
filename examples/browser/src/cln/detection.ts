/**
 * Face detection as in `runtime/detection.py`: MediaPipe's BlazeFace, full range (Bazarevsky et al., arXiv 1907.05047),
 * on square views of the image; votes that overlap are averaged; small faces are looked at again from near.
 *
 * A face's points are eight (x, y) in one Float64Array: top-left and bottom-right corner of its box, then six keypoints:
 * left eye, right eye, nose tip, mouth centre, left and right tragion, as seen in the image of a frontal face.
 */
import { constants } from "./constants";
import type { Network } from "./engine";
import { ClnError } from "./errors";
import type { Pixels } from "./image";
import { blockMean, type Roi } from "./roi";

const { view: VIEW, cell: CELL, candidate, small, workSize, centerWeights, boxPerSpread } = constants.detection;
const { scoreThreshold, iouThreshold } = constants.detection;

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

interface View {
  readonly left: number;
  readonly top: number;
  readonly side: number;
}

/** The region to crop: centre and side from the keypoints, which hold from profile to profile. */
export function roiFromDetection({ keypoints }: Detection): Roi {
  let [centerX, centerY, meanX, meanY, square] = [0, 0, 0, 0, 0];
  for (let i = 0; i < 6; i++) {
    centerX += centerWeights[i] * keypoints[2 * i];
    centerY += centerWeights[i] * keypoints[2 * i + 1];
    meanX += keypoints[2 * i] / 6;
    meanY += keypoints[2 * i + 1] / 6;
  }
  for (let i = 0; i < 6; i++) square += (keypoints[2 * i] - meanX) ** 2 + (keypoints[2 * i + 1] - meanY) ** 2;
  const side = constants.roi.sidePerLength * boxPerSpread * Math.sqrt(square / 6);
  return { centerX, centerY, side, angle: 0 };
}

export class FaceDetector {
  constructor(private readonly network: Network) {}

  /** Faces of an image, best first. */
  async detect(source: Pixels): Promise<Detection[]> {
    const longer = Math.max(source.width, source.height);
    const block = Math.max(Math.min(Math.floor(longer / workSize), source.width, source.height), 1);
    const image = averageAll(source, block);
    const threshold = scoreThreshold * candidate;
    let votes = await this.look(image, around(image, 1), threshold);
    let faces = await this.settle(image, votes);
    if (faces.length === 0) {
      const views = [around(image, 2), ...(longer > workSize ? tiles(image) : [])];
      for (const view of views) votes = votes.concat(await this.look(image, view, threshold));
      faces = await this.settle(image, votes);
    }
    return faces.map(({ points, score }) => {
      const [x0, y0, x1, y1, ...keypoints] = points.map((value) => (value + 0.5) * block - 0.5);
      return { box: [x0, y0, x1 - x0, y1 - y0], score, keypoints: new Float32Array(keypoints) };
    });
  }

  /** Faces of the views' votes; doubtful small ones are kept if a closer look agrees. */
  private async settle(image: Pixels, votes: Vote[]): Promise<Vote[]> {
    const faces: Vote[] = [];
    for (const face of merge(votes)) {
      const settled = await this.refine(image, face);
      if (settled.score >= scoreThreshold) faces.push(settled);
    }
    return merge(faces);
  }

  private async refine(image: Pixels, face: Vote): Promise<Vote> {
    const [x0, y0, x1, y1] = face.points;
    const side = Math.max(x1 - x0, y1 - y0);
    if (side >= small * Math.max(image.width, image.height)) return face;
    const start = (low: number, high: number, length: number) =>
      Math.floor(Math.min(Math.max((low + high) / 2, 0), length - 1) - 2 * side);
    const view = { left: start(x0, x1, image.width), top: start(y0, y1, image.height), side: Math.ceil(4 * side) + 1 };
    const nearer = merge(await this.look(image, view, scoreThreshold));
    return nearer.find((other) => overlap(face.points, other.points) > iouThreshold) ?? face;
  }

  /** Votes of one view, in pixels of `image`. */
  private async look(image: Pixels, view: View, threshold: number): Promise<Vote[]> {
    const { canvas, scale, origin } = render(image, view);
    const { boxes, scores } = await this.network.run(canvas, [1, VIEW, VIEW, 3]);
    const cells = VIEW / CELL;
    if (boxes?.length !== cells * cells * 16 || scores?.length !== cells * cells) {
      throw new ClnError("face detector: expected boxes and scores of each cell, got another network's outputs");
    }
    const logit = Math.log(threshold / (1 - threshold));
    const votes: Vote[] = [];
    for (let i = 0; i < scores.length; i++) {
      const [x, y, width, height, ...keypoints] = boxes.subarray(16 * i, 16 * i + 16);
      if (!(scores[i] > logit && width > 0 && height > 0)) continue;
      const anchor = [((i % cells) + 0.5) * CELL, (Math.floor(i / cells) + 0.5) * CELL];
      const corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
      const points = Float64Array.from([...corners, ...keypoints], (value, k) => {
        return (value + anchor[k % 2]) * scale[k % 2] + origin[k % 2];
      });
      votes.push({ points, score: 1 / (1 + Math.exp(-scores[i])) });
    }
    return votes;
  }
}

function around({ width, height }: Pixels, zoom: number): View {
  const side = Math.max(width, height) * zoom;
  return { left: Math.floor((width - side) / 2), top: Math.floor((height - side) / 2), side };
}

/** Views of half the image's longer side that overlap by half or more. */
function tiles({ width, height }: Pixels): View[] {
  const side = Math.ceil(Math.max(width, height) / 2);
  const [lefts, tops] = [width, height].map((length) => {
    const count = Math.max(Math.ceil((2 * (length - side)) / side), 0) + 1;
    if (count === 1) return [roundHalfEven((length - side) / 2)];
    return Array.from({ length: count }, (_, i) => roundHalfEven(((length - side) * i) / (count - 1)));
  });
  return tops.flatMap((top) => lefts.map((left) => ({ left, top, side })));
}

/** The view as BGR bytes (VIEW, VIEW, 3), black outside of the image, and what takes its points back to the image. */
function render(image: Pixels, view: View): { canvas: Uint8Array; scale: number[]; origin: number[] } {
  const axes = (
    [
      [view.left, image.width],
      [view.top, image.height],
    ] as const
  ).map(([start, length]) => {
    const [first, last] = [Math.max(start, 0), Math.min(start + view.side, length)];
    const place = (at: number) => roundHalfEven(((at - start) * VIEW) / view.side);
    const low = Math.min(place(first), VIEW - 1);
    const high = Math.max(place(last), low + 1);
    return { first, last, low, high, scale: (last - first) / (high - low) };
  });
  const area = Math.max(axes[0].scale, axes[1].scale) > 1;
  const canvas = new Uint8Array(VIEW * VIEW * 3);
  resizeInto(canvas, image, axes[0], axes[1], area);
  // The network measures from a pixel's corner, the library from its centre: hence the half.
  return {
    canvas,
    scale: axes.map(({ scale }) => scale),
    origin: axes.map(({ first, low, scale }) => first - low * scale - 0.5),
  };
}

interface Axis {
  readonly first: number; // of the image's part, in its pixels
  readonly last: number;
  readonly low: number; // of its place in the view
  readonly high: number;
  readonly scale: number; // image pixels per view pixel
}

function resizeInto(canvas: Uint8Array, { data, width }: Pixels, x: Axis, y: Axis, area: boolean): void {
  const [columns, rows] = [taps(x, area), taps(y, area)];
  const line = new Float32Array(columns.length * 3);
  const sums = new Float32Array(columns.length * 3);
  let read = -1;
  rows.forEach((row, j) => {
    sums.fill(0);
    row.weights.forEach((weight, k) => {
      const source = row.start + k;
      if (source !== read) shrinkLine(line, data, 4 * source * width, columns);
      read = source;
      for (let i = 0; i < sums.length; i++) sums[i] += weight * line[i];
    });
    const to = ((y.low + j) * VIEW + x.low) * 3;
    for (let i = 0; i < sums.length; i += 3) {
      for (let channel = 0; channel < 3; channel++) canvas[to + i + 2 - channel] = sums[i + channel] + 0.5; // RGB to BGR
    }
  });
}

interface Taps {
  readonly start: number; // the first pixel of the image that counts
  readonly weights: Float32Array; // sum 1
}

function shrinkLine(line: Float32Array, data: Uint8ClampedArray, row: number, columns: readonly Taps[]): void {
  for (let i = 0; i < columns.length; i++) {
    const { start, weights } = columns[i];
    let [r, g, b] = [0, 0, 0];
    for (let k = 0, from = row + 4 * start; k < weights.length; k++, from += 4) {
      const weight = weights[k];
      r += weight * data[from];
      g += weight * data[from + 1];
      b += weight * data[from + 2];
    }
    line[3 * i] = r;
    line[3 * i + 1] = g;
    line[3 * i + 2] = b;
  }
}

/** For each pixel of the view along one axis: area means where the image shrinks, else linear between two pixels. */
function taps({ first, last, low, high, scale }: Axis, area: boolean): Taps[] {
  return Array.from({ length: high - low }, (_, i) => {
    if (area) {
      const [from, to] = [i * scale, Math.min((i + 1) * scale, last - first)];
      const start = Math.floor(from + 1e-6);
      const end = Math.min(Math.max(Math.ceil(to - 1e-6), start + 1), last - first);
      const parts = Float32Array.from({ length: end - start }, (_, k) => {
        return Math.max(Math.min(to, start + k + 1) - Math.max(from, start + k), 0);
      });
      const total = parts.reduce((sum, part) => sum + part, 0);
      return { start: first + start, weights: parts.map((part) => part / total) };
    }
    const at = Math.min(Math.max((i + 0.5) * scale - 0.5, 0), last - first - 1);
    const start = Math.min(Math.floor(at), Math.max(last - first - 2, 0));
    return { start: first + start, weights: Float32Array.of(1 - (at - start), at - start).slice(0, last - first) };
  });
}

/** Means over blocks of n × n pixels; the incomplete last row and column of blocks are left out. */
function averageAll(image: Pixels, block: number): Pixels {
  if (block === 1) return image;
  const [width, height] = [Math.floor(image.width / block), Math.floor(image.height / block)];
  const data = new Uint8ClampedArray(4 * width * height);
  const sums = new Uint32Array(4 * width);
  for (let row = 0; row < height; row++) {
    sums.fill(0);
    for (let line = 0; line < block; line++) {
      let from = 4 * (row * block + line) * image.width;
      for (let to = 0; to < sums.length; to += 4) {
        for (let step = 0; step < block; step++, from += 4) {
          sums[to] += image.data[from];
          sums[to + 1] += image.data[from + 1];
          sums[to + 2] += image.data[from + 2];
        }
      }
    }
    for (let i = 0; i < sums.length; i++) data[4 * row * width + i] = blockMean(sums[i], block);
  }
  return { data, width, height };
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

/** Intersection over union of two boxes, each the first two of its points. */
function overlap(a: Float64Array, b: Float64Array): number {
  const width = Math.max(Math.min(a[2], b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[3], b[3]) - Math.max(a[1], b[1]), 0);
  const [first, second] = [a, b].map((box) => (box[2] - box[0]) * (box[3] - box[1]));
  return (width * height) / (first + second - width * height);
}

/** As NumPy and Python round: halves to the even number. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
