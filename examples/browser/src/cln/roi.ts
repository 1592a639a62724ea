/**
 * The square region of a face, and the crop that is cut from it, as in `runtime/roi.py`: pixel centres at integers, the
 * top-left one at (0, 0), x right, y down. For a point x of the image and u of the crop of S pixels
 *
 *     x = c + turn(angle) · (u - (S - 1) / 2) · side / S        (z scales by side / S)
 *
 * Bilinear, edge pixels replicated. A region more than twice as large as its crop is first averaged over blocks of n × n
 * pixels, n = ⌊side / S⌋, on a grid anchored at the image's top-left corner, so that large faces do not alias.
 */
import { constants } from "./constants";
import type { Pixels } from "./image";

export interface Roi {
  readonly centerX: number;
  readonly centerY: number;
  readonly side: number;
  /** The turn of the region's own x axis against the image's: degrees, clockwise as seen. */
  readonly angle: number;
}

/** Crop pixel (u, v) lies at the image point (x + xu · u + xv · v, y + yu · u + yv · v); `scale` is for z. */
export interface Placement {
  readonly scale: number;
  readonly x: number;
  readonly y: number;
  readonly cosine: number;
  readonly sine: number;
}

export function placement(roi: Roi, size: number): Placement {
  const scale = roi.side / size;
  const radians = roi.angle * (Math.PI / 180);
  const [cosine, sine] = roi.angle === 0 ? [scale, 0] : [scale * Math.cos(radians), scale * Math.sin(radians)];
  const middle = (size - 1) / 2;
  return {
    scale,
    x: roi.centerX - middle * (cosine - sine),
    y: roi.centerY - middle * (sine + cosine),
    cosine,
    sine,
  };
}

/** From a crop's axes to the image's: a scaled rotation (3, 3) of points with z. */
export function linearOf({ cosine, sine, scale }: Placement): Float64Array {
  return Float64Array.of(cosine, -sine, 0, sine, cosine, 0, 0, 0, scale);
}

/** The inverse of `linearOf`. */
export function inverseOf({ cosine, sine, scale }: Placement): Float64Array {
  const [c, s] = [cosine / scale ** 2, sine / scale ** 2];
  return Float64Array.of(c, s, 0, -s, c, 0, 0, 0, 1 / scale);
}

/** Region of landmarks (x, y, z), …: their bounding box, turned by `angle`; the landmark rule's factor times its longer side. */
export function roiFromLandmarks(points: Float32Array, angle: number): Roi {
  const radians = (angle * Math.PI) / 180;
  const [cosine, sine] = [Math.cos(radians), Math.sin(radians)];
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 3) {
    const along = points[i] * cosine + points[i + 1] * sine;
    const down = points[i + 1] * cosine - points[i] * sine;
    [left, right] = [Math.min(left, along), Math.max(right, along)];
    [top, bottom] = [Math.min(top, down), Math.max(bottom, down)];
  }
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return {
    centerX: cosine * x - sine * y,
    centerY: sine * x + cosine * y,
    side: constants.roi.sidePerLength * Math.max(right - left, bottom - top),
    angle,
  };
}

/** The nearest region on a grid of about 1/256 of its side and 1/4 degree: so a crop's rounding does not grow over frames. */
export function onGrid({ centerX, centerY, side, angle }: Roi): Roi {
  const unit = 2 ** (roundHalfEven(Math.log2(side)) - 8);
  const near = (value: number) => unit * roundHalfEven(value / unit);
  return { centerX: near(centerX), centerY: near(centerY), side: near(side), angle: roundHalfEven(4 * angle) / 4 };
}

/** As NumPy rounds: halves to the even number. */
export function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Takes points (x, y, z), (x, y, z), … of a crop to the image, in place. */
export function toImage(points: Float32Array, roi: Roi, size: number): Float32Array {
  const { scale, x, y, cosine, sine } = placement(roi, size);
  for (let i = 0; i < points.length; i += 3) {
    const [u, v] = [points[i], points[i + 1]];
    points[i] = x + cosine * u - sine * v;
    points[i + 1] = y + sine * u + cosine * v;
    points[i + 2] *= scale;
  }
  return points;
}

/** Takes points (x, y), (x, y), … of a crop to the image, in place. */
export function toImage2d(points: Float64Array, roi: Roi, size: number): Float64Array {
  const { x, y, cosine, sine } = placement(roi, size);
  for (let i = 0; i < points.length; i += 2) {
    const [u, v] = [points[i], points[i + 1]];
    points[i] = x + cosine * u - sine * v;
    points[i + 1] = y + sine * u + cosine * v;
  }
  return points;
}

/** The inverse of `toImage2d`. */
export function toCrop(points: Float64Array, roi: Roi, size: number): Float64Array {
  const { scale, x, y, cosine, sine } = placement(roi, size);
  for (let i = 0; i < points.length; i += 2) {
    const [dx, dy] = [(points[i] - x) / scale ** 2, (points[i + 1] - y) / scale ** 2];
    points[i] = cosine * dx + sine * dy;
    points[i + 1] = cosine * dy - sine * dx;
  }
  return points;
}

/** Cuts `roi` from an image into `out`: (size, size, 3), BGR. */
export function crop(image: Pixels, roi: Roi, size: number, out: Uint8Array): void {
  const place = placement(roi, size);
  const block = place.scale > 2 ? Math.min(Math.floor(place.scale), image.width, image.height) : 1;
  if (block === 1) {
    sample(image, place, size, out);
    return;
  }
  const [xs, ys] = blocksOf(image, roi, block);
  const averaged = {
    ...place,
    x: (place.x + 0.5) / block - (0.5 + xs[0]),
    y: (place.y + 0.5) / block - (0.5 + ys[0]),
    cosine: place.cosine / block,
    sine: place.sine / block,
  };
  sample(averageBlocks(image, block, xs, ys), averaged, size, out);
}

/**
 * The image at a placement's points. The arithmetic is that of OpenCV's `warpAffine`, so that both cut the same bytes: a
 * place is a 32-bit number, whose row's part is a rounded product and a rounded sum, and whose column's part is added in
 * one rounding; pixels are blended across, then down, each in one rounding.
 */
function sample({ data, width, height }: Pixels, place: Placement, size: number, out: Uint8Array): void {
  const { fround } = Math;
  const rounded = new Uint8ClampedArray(out.buffer, out.byteOffset, out.length); // rounds halves to even, as OpenCV does
  const [lastX, lastY] = [width - 1, height - 1];
  const [cosine, sine, startX, startY] = [place.cosine, place.sine, place.x, place.y].map(fround);
  for (let v = 0, to = 0; v < size; v++) {
    const rowX = fround(fround(-sine * v) + startX);
    const rowY = fround(fround(cosine * v) + startY);
    for (let u = 0; u < size; u++, to += 3) {
      const x = Math.max(0, Math.min(fround(rowX + cosine * u), lastX));
      const y = Math.max(0, Math.min(fround(rowY + sine * u), lastY));
      const left = Math.trunc(x);
      const top = Math.trunc(y);
      const wx = fround(x - left);
      const wy = fround(y - top);
      const right = left < lastX ? 4 : 0;
      const upper = 4 * (top * width + left);
      const lower = top < lastY ? upper + 4 * width : upper;
      for (let channel = 0; channel < 3; channel++) {
        const a = data[upper + channel];
        const b = data[lower + channel];
        const high = fround(a + wx * (data[upper + right + channel] - a));
        const low = fround(b + wx * (data[lower + right + channel] - b));
        rounded[to + 2 - channel] = fround(high + wy * fround(low - high));
      }
    }
  }
}

/** First and last + 1 of the blocks that `roi` needs along x and y. */
function blocksOf(image: Pixels, roi: Roi, block: number): [Span, Span] {
  const radians = (roi.angle * Math.PI) / 180;
  const reach = (roi.side / 2) * (Math.abs(Math.cos(radians)) + Math.abs(Math.sin(radians)));
  const span = (center: number, length: number): Span => {
    const blocks = Math.ceil(length / block);
    // Two blocks of margin for the bilinear taps; one must remain even where the region misses the image.
    const first = Math.min(Math.max(Math.floor((center - reach) / block) - 2, 0), blocks - 1);
    return [first, Math.max(Math.min(Math.ceil((center + reach) / block) + 2, blocks), first + 1)];
  };
  return [span(roi.centerX, image.width), span(roi.centerY, image.height)];
}

type Span = readonly [number, number];

/** Means of blocks of n × n pixels on a grid from the image's corner, the edge replicated; of those in two spans. */
export function averageBlocks(image: Pixels, block: number, [x0, x1]: Span, [y0, y1]: Span): Pixels {
  const [width, height] = [x1 - x0, y1 - y0];
  const data = new Uint8ClampedArray(4 * width * height);
  const sums = new Uint32Array(3 * width);
  const columns = Uint32Array.from({ length: width * block }, (_, i) => 4 * Math.min(x0 * block + i, image.width - 1));
  for (let row = 0; row < height; row++) {
    sums.fill(0);
    for (let line = 0; line < block; line++) {
      const start = 4 * Math.min((y0 + row) * block + line, image.height - 1) * image.width;
      for (let column = 0, i = 0; column < width; column++) {
        let r = 0;
        let g = 0;
        let b = 0;
        for (const end = i + block; i < end; i++) {
          const from = start + columns[i];
          r += image.data[from];
          g += image.data[from + 1];
          b += image.data[from + 2];
        }
        sums[3 * column] += r;
        sums[3 * column + 1] += g;
        sums[3 * column + 2] += b;
      }
    }
    for (let i = 0, to = 4 * row * width; i < sums.length; i += 3, to += 4) {
      data[to] = blockMean(sums[i], block);
      data[to + 1] = blockMean(sums[i + 1], block);
      data[to + 2] = blockMean(sums[i + 2], block);
    }
  }
  return { data, width, height };
}

/** The mean of block × block bytes, for a clamped array, rounded as OpenCV does: halves up for 2 × 2, to even otherwise. */
function blockMean(sum: number, block: number): number {
  return block === 2 ? (sum + 2) >> 2 : Math.fround(sum * Math.fround(1 / (block * block)));
}
