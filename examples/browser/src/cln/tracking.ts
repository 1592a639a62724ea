/**
 * `Tracker`: frames with time stamps in, faces with ids that stay out, as in `runtime/tracking.py`, which describes when
 * the detector looks and when a track ends. Regions come from the frame before, smoothing from `smoothing.ts`.
 */
import { constants } from "./constants";
import type { Detection } from "./detection";
import { roiFromDetection } from "./detection";
import { ClnError } from "./errors";
import type { Face } from "./face";
import type { Pixels } from "./image";
import { angleBetween, isOff, ownRoi } from "./regions";
import { averageBlocks, crop, onGrid, type Roi, toImage2d } from "./roi";
import { type FilterState, place, type Smoothing, settings, smooth, unplace } from "./smoothing";

const T = constants.tracking;
const VIEW = constants.detection.view;

/** One face of a frame: smoothed as `face`, and `raw`, as the network alone sees it. */
export interface TrackedFace {
  readonly id: number;
  /** Frames since it was first seen. */
  readonly age: number;
  readonly face: Face;
  readonly raw: Face;
}

/** What a tracker asks of a reconstructor. */
export interface Networks {
  readonly inputSize: number;
  readonly shapeCount: number;
  detect(image: Pixels, quick: boolean): Promise<Detection[]>;
  /** Regions, cut out: (F, S, S, 3), BGR. */
  crops(image: Pixels, rois: readonly Roi[]): Uint8Array;
  /** Params of each crop. */
  infer(crops: Uint8Array): Promise<Float32Array[]>;
  face(params: Float32Array, roi: Roi, score?: number): Face;
}

export interface TrackerOptions {
  /** At most so many faces are tracked; default: four. */
  readonly maxFaces?: number;
  /** `still`, `responsive` (the default) or `off`. */
  readonly smoothing?: string;
  /** Seconds for which a face that is gone keeps its id; default: five. */
  readonly patience?: number;
}

type Point = readonly [number, number];

/** A face on its way through the frames. */
interface Track {
  readonly id: number;
  roi: Roi; // where the next frame is cut
  score: number;
  age: number;
  seen: number; // seconds
  checked: number;
  doubts: number;
  suspected: number; // seconds since which a face is seen that may be this one
  center: Point | undefined; // of the region that the last landmarks gave
  speed: Point; // pixels per second
  state: FilterState | undefined;
  size: number; // side of its region over the last half second; 0 of a new one
  cut: boolean; // whether it ended with a scene
  recent: Float64Array | undefined; // its looks: of late, and over the track
  known: Float64Array | undefined;
}

/** What the network says of a track in a frame. */
interface Found {
  readonly roi: Roi; // that it was cut by
  readonly params: Float32Array;
  readonly raw: Face;
  readonly nextRoi: Roi; // that its landmarks give
  readonly looks: Float64Array;
}

export class Tracker {
  private readonly maxFaces: number;
  private readonly patience: number;
  private readonly setting: Smoothing | null;
  private nextId = 0;
  private tracks: Track[] = [];
  private missing: Track[] = []; // for up to `patience`
  private time = Number.NEGATIVE_INFINITY;
  private searched = Number.NEGATIVE_INFINITY;
  private searchedAll = Number.NEGATIVE_INFINITY;
  private sparse: Float64Array | undefined;

  constructor(
    private readonly networks: Networks,
    { maxFaces = T.maxFaces, smoothing = T.smoothing, patience = T.patience }: TrackerOptions = {},
  ) {
    if (!(maxFaces >= 1 && patience >= 0 && patience < Number.POSITIVE_INFINITY)) {
      throw new ClnError(`tracker: expected maxFaces >= 1 and patience >= 0 seconds, got ${maxFaces} and ${patience}`);
    }
    this.maxFaces = maxFaces;
    this.patience = patience;
    if (!Object.hasOwn(settings, smoothing)) {
      throw new ClnError(`smoothing: expected one of ${Object.keys(settings).join(", ")}, got '${smoothing}'`);
    }
    this.setting = settings[smoothing];
  }

  /** The faces of the next frame, by id; `seconds` must be later than the last frame's. */
  async track(image: Pixels, seconds: number): Promise<TrackedFace[]> {
    if (!(seconds > this.time && seconds < Number.POSITIVE_INFINITY)) {
      throw new ClnError(`time stamp: expected seconds after the last frame's ${this.time}, got ${seconds}`);
    }
    const step = this.time === Number.NEGATIVE_INFINITY ? 0 : seconds - this.time;
    this.time = seconds;
    const cut = this.sceneChanged(image);
    this.missing = this.missing.filter((track) => seconds - track.seen <= this.patience);
    const seen = await this.run(image, this.tracks);
    const found = await this.judge(image, seconds, seen, cut);
    return this.finish(await this.search(image, seconds, found), step);
  }

  // Which faces are there

  /** Whether some hundred pixels of the frame have little to do with those of the frame before. */
  private sceneChanged({ data, width, height }: Pixels): boolean {
    const [stepX, stepY] = [Math.max(Math.floor(width / 24), 1), Math.max(Math.floor(height / 24), 1)];
    const pixels: number[] = [];
    for (let y = Math.floor(stepY / 2); y < height; y += stepY) {
      for (let x = Math.floor(stepX / 2); x < width; x += stepX) {
        const from = 4 * (y * width + x);
        pixels.push(data[from], data[from + 1], data[from + 2]);
      }
    }
    const before = this.sparse;
    this.sparse = standardized(pixels);
    return before?.length === this.sparse.length && dot(before, this.sparse) < T.cut;
  }

  /**
   * Looks for new and missing faces, where it is time to; what was `found`, and they.
   *
   * Comes last: a face that was lost in this frame, as where frames were dropped, may be found elsewhere in it.
   */
  private async search(image: Pixels, time: number, found: readonly Found[]): Promise<Found[]> {
    const all = [...found];
    if (this.tracks.length >= this.maxFaces) return all;
    const hurry = this.missing.some((track) => time - track.seen < T.later);
    const pause = this.tracks.length === 0 ? 0 : hurry ? T.missing : T.search;
    if (time - this.searched < pause) return all;
    const every = this.tracks.length === 0 && time - this.searchedAll >= T.search;
    this.searched = time;
    if (every) this.searchedAll = time;
    const fresh = (await this.networks.detect(image, !every))
      .map((detection) => ({ roi: roiFromDetection(detection), score: detection.score }))
      .filter(({ roi }) => !found.some(({ nextRoi }) => near(roi, nextRoi)))
      .slice(0, this.maxFaces - this.tracks.length)
      .flatMap(({ roi, score }) => this.start(image, roi, score, time) ?? []);
    const seen = await this.run(image, fresh);
    fresh.forEach((track, i) => {
      if (holds(seen[i], image) && !all.some(({ nextRoi }) => near(seen[i].nextRoi, nextRoi))) {
        remember(track, seen[i].looks);
        track.seen = time;
        this.tracks.push(track);
        all.push(seen[i]);
      } else if (track.age > 0) {
        this.missing.push(track);
      }
    });
    return all;
  }

  /** A new track, or the missing one that this is; none where that shows only in a moment. */
  private start(image: Pixels, roi: Roi, score: number, time: number): Track | undefined {
    const looks = looksOf(this.networks.crops(image, [roi]), this.networks.inputSize);
    let [best, alikeness] = [undefined as Track | undefined, Number.NEGATIVE_INFINITY];
    let doubtful = false;
    for (const track of this.missing) {
      const way = Math.hypot(roi.centerX - track.roi.centerX, roi.centerY - track.roi.centerY);
      if (way > roi.side * (0.5 + T.reach * (time - track.seen)) || grown(track, roi) > T.grown) continue;
      const alike = track.known ? dot(track.known, looks) : 1;
      if (alike > (track.cut ? T.alikeAfterCut : alikeEnough(time - track.seen))) {
        if (alike > alikeness) [best, alikeness] = [track, alike];
      } else if (!track.cut) {
        // Half hidden still by what covered it? A suspicion of before was another time's.
        if (time - track.suspected > 2 * T.hesitation) track.suspected = time;
        doubtful ||= time - track.suspected < T.hesitation;
      }
    }
    if (doubtful && !best) return undefined;
    this.missing = this.missing.filter((track) => track !== best);
    return {
      id: best ? best.id : this.nextId++,
      roi,
      score,
      age: best?.age ?? 0,
      seen: best?.seen ?? 0,
      checked: time,
      doubts: 0,
      suspected: Number.NEGATIVE_INFINITY,
      center: undefined,
      speed: [0, 0],
      state: undefined,
      size: best ? roi.side : 0,
      cut: false,
      recent: undefined,
      known: best?.known,
    };
  }

  // What the network says

  /** All faces in one call; those whose region was far off once more. */
  private async run(image: Pixels, tracks: readonly Track[]): Promise<Found[]> {
    const found = await this.see(
      image,
      tracks.map(({ roi }) => roi),
    );
    const again = found.filter((one) => off(one.roi, one.nextRoi));
    if (again.length === 0) return found;
    const better = await this.see(
      image,
      again.map(({ nextRoi }) => onGrid(nextRoi)),
    );
    return found.map((one) => (again.includes(one) ? better[again.indexOf(one)] : one));
  }

  private async see(image: Pixels, rois: readonly Roi[]): Promise<Found[]> {
    const { inputSize: size } = this.networks;
    const crops = this.networks.crops(image, rois);
    const params = await this.networks.infer(crops);
    const length = size * size * 3;
    return rois.map((roi, i) => {
      const raw = this.networks.face(params[i], roi);
      const looks = looksOf(crops.subarray(i * length, (i + 1) * length), size);
      return { roi, params: params[i], raw, nextRoi: ownRoi(raw), looks };
    });
  }

  /** Ends the tracks whose face is gone; what was found of the others. */
  private async judge(image: Pixels, time: number, found: readonly Found[], cut: boolean): Promise<Found[]> {
    const looks = found.map((one) => one.looks);
    const likeness = (known: Float64Array | undefined, i: number) => (known ? dot(known, looks[i]) : 1);
    const lost = found.map((one) => !holds(one, image));
    const identity = this.tracks.map((track, i) => likeness(track.known, i));
    for (let i = 0; i < found.length; i++) {
      for (let k = 0; k < i; k++) {
        // Two tracks of one face: it is the one's whose looks it has.
        if (!lost[i] && !lost[k] && near(found[i].nextRoi, found[k].nextRoi))
          lost[identity[i] <= identity[k] ? i : k] = true;
      }
    }
    for (let i = 0; i < found.length; i++) {
      if (lost[i]) continue;
      const track = this.tracks[i];
      const otherwise = likeness(track.recent, i) < T.changed || grown(track, found[i].nextRoi) > T.grown;
      const changed = track.age > 0 && otherwise;
      if (changed && cut) {
        lost[i] = track.cut = true; // a face there is another scene's
      } else if (changed || time - track.checked >= (track.doubts ? T.doubtful : T.check)) {
        const others = found.filter((_, k) => k !== i && !lost[k]).map(({ nextRoi }) => nextRoi);
        lost[i] = !(await this.confirm(image, track, found[i].nextRoi, others, time, changed));
        if (changed) track.recent = undefined;
      }
      remember(track, looks[i]);
    }
    this.missing = this.missing.concat(this.tracks.filter((_, i) => lost[i]));
    this.tracks = this.tracks.filter((_, i) => !lost[i]);
    for (const track of this.tracks) track.seen = time;
    return found.filter((_, i) => !lost[i]);
  }

  /** Whether the detector sees a face there that is no other track's; after a change at once, else in the end. */
  private async confirm(
    image: Pixels,
    track: Track,
    roi: Roi,
    others: readonly Roi[],
    time: number,
    changed: boolean,
  ): Promise<boolean> {
    const view = onGrid({ ...roi, side: 2.2 * roi.side });
    track.checked = time;
    const cut = new Uint8Array(VIEW * VIEW * 3);
    crop(image, view, VIEW, cut);
    for (const detection of await this.networks.detect(pixelsOf(cut, VIEW), true)) {
      const inView = roiFromDetection(detection);
      const [centerX, centerY] = toImage2d(Float64Array.of(inView.centerX, inView.centerY), view, VIEW);
      const seen = { centerX, centerY, side: (inView.side * view.side) / VIEW, angle: 0 };
      if (near(seen, roi) && !others.some((other) => near(seen, other))) {
        track.doubts = 0;
        track.score = detection.score;
        return true;
      }
    }
    track.doubts += 1;
    return !changed && track.doubts < T.doubts;
  }

  // What comes out

  private finish(found: readonly Found[], step: number): TrackedFace[] {
    const faces = found.map((one, i) => {
      const track = this.tracks[i];
      const face = this.networks.face(this.smoothed(one, track, step), one.roi, track.score);
      const raw = this.networks.face(one.params, one.roi, track.score);
      const tracked = { id: track.id, age: track.age, face, raw };
      moveOn(track, one, step);
      return tracked;
    });
    return faces.sort((a, b) => a.id - b.id);
  }

  private smoothed({ params, roi }: Found, track: Track, step: number): Float32Array {
    if (!this.setting) return params;
    const { inputSize, shapeCount } = this.networks;
    const placed = place(params, roi, inputSize, shapeCount);
    const [filtered, state] = smooth(placed, track.state, roi.side, step || 1, this.setting);
    track.state = state;
    return unplace(filtered, roi, inputSize);
  }
}

function off(roi: Roi, better: Roi): boolean {
  return isOff(roi, better, T.far, T.farTurned);
}

/** The correlation that a face found again must have, `gone` seconds after it was seen last. */
function alikeEnough(gone: number): number {
  return T.alike + (T.alikeLater - T.alike) * Math.min(Math.max((gone - T.soon) / (T.later - T.soon), 0), 1);
}

function near(roi: Roi, other: Roi): boolean {
  const way = Math.hypot(roi.centerX - other.centerX, roi.centerY - other.centerY);
  return way < T.same * Math.max(roi.side, other.side);
}

/** Whether what was found can be a face of the picture: inside of it, not tiny, and where it was looked for. */
function holds({ raw, roi, nextRoi }: Found, { width, height }: Pixels): boolean {
  const { landmarks } = raw;
  let inside = 0;
  for (let i = 0; i < landmarks.length; i += 3) {
    const [x, y] = [landmarks[i], landmarks[i + 1]];
    if (x >= 0 && x < width && y >= 0 && y < height) inside += 1;
  }
  return (3 * inside) / landmarks.length >= T.inside && nextRoi.side >= T.smallest && !off(roi, nextRoi);
}

function remember(track: Track, looks: Float64Array): void {
  track.recent = track.recent ? blend(track.recent, looks, 0.3) : looks;
  track.known = track.known ? blend(track.known, looks, 0.03) : looks;
}

/** As a vector of mean 0 and length 1 (0 where all are alike): products of two are correlations. */
function standardized(pixels: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(pixels);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return scaled(values.map((value) => value - mean));
}

/** A face's looks: a small picture of the inner three quarters of its crop, in colour, standardised. */
function looksOf(cut: Uint8Array, size: number): Float64Array {
  const block = Math.max(Math.floor((3 * size + 2 * T.thumb) / (4 * T.thumb)), 1);
  const first = Math.floor(Math.max(size - T.thumb * block, 0) / (2 * block));
  const span = [first, first + T.thumb] as const;
  const { data } = averageBlocks(pixelsOf(cut, size), block, span, span);
  return standardized(data.filter((_, i) => i % 4 !== 3)); // without alpha
}

/** By what factor a region is larger or smaller than its track's of late. */
function grown(track: Track, roi: Roi): number {
  return track.size ? Math.max(roi.side / track.size, track.size / roi.side) : 1;
}

function blend(old: Float64Array, recent: Float64Array, share: number): Float64Array {
  return scaled(old.map((value, i) => (1 - share) * value + share * recent[i]));
}

function scaled(vector: Float64Array): Float64Array {
  const length = Math.max(Math.sqrt(dot(vector, vector)), 1e-6);
  return vector.map((value) => value / length);
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** A crop, BGR, as an image of its own. */
function pixelsOf(cut: Uint8Array, size: number): Pixels {
  const data = new Uint8ClampedArray(4 * size * size);
  for (let from = 0, to = 0; from < cut.length; from += 3, to += 4) {
    data[to] = cut[from + 2];
    data[to + 1] = cut[from + 1];
    data[to + 2] = cut[from];
    data[to + 3] = 255;
  }
  return { data, width: size, height: size };
}

/** Where the next frame is cut: where the face was, moved on by its speed; what moves little stays. */
function moveOn(track: Track, { roi: old, nextRoi: now }: Found, step: number): void {
  const center: Point = [now.centerX, now.centerY];
  if (track.center && step > 0) {
    const [x, y] = [center[0] - track.center[0], center[1] - track.center[1]];
    track.speed = [0.5 * track.speed[0] + (0.5 * x) / step, 0.5 * track.speed[1] + (0.5 * y) / step];
  }
  track.center = center;
  track.age += 1;
  const share = track.size ? 1 - Math.exp(-step / T.sizeTime) : 1;
  const size = track.size || now.side;
  track.size = size * (now.side / size) ** share;
  const [aheadX, aheadY] = [track.speed[0] * step, track.speed[1] * step];
  const limit = Math.min(1, (0.25 * now.side) / Math.max(Math.hypot(aheadX, aheadY), 1e-9));
  const [x, y] = [center[0] + limit * aheadX, center[1] + limit * aheadY];
  const way = Math.hypot(x - old.centerX, y - old.centerY);
  const go = way > 0 ? Math.max(0, 1 - (T.rest * old.side) / way) : 0;
  const beyond = (value: number, rest: number) => Math.sign(value) * Math.max(0, Math.abs(value) - rest);
  track.roi = onGrid({
    centerX: old.centerX + go * (x - old.centerX),
    centerY: old.centerY + go * (y - old.centerY),
    side: old.side * Math.exp(beyond(Math.log(now.side / old.side), T.rest)),
    angle: angleBetween(old.angle + beyond(angleBetween(now.angle, old.angle), T.restAngle), 0),
  });
}
