/**
 * CLN in the browser: 3D faces from a picture, on the visitor's own machine.
 *
 *     import { reconstruct } from "./cln";
 *     for (const face of await reconstruct(await createImageBitmap(file))) console.log(face.pose.yaw, face.landmarks);
 *
 * Points are in image pixels (pixel centres at integers; x right, y down, z nearer), three numbers each in one flat
 * Float32Array. Frames, signs and files are those of the Python runtime.
 */
import { type Detection, FaceDetector, roiFromDetection } from "./cln/detection";
import { type Backend, loadRuntime, Network, runtimeFiles, usableThreads } from "./cln/engine";
import { ClnError } from "./cln/errors";
import { Face } from "./cln/face";
import { FaceModel } from "./cln/face_model";
import { toGlb } from "./cln/glb";
import { type ImageSource, PixelReader, type Pixels } from "./cln/image";
import { type Manifest, readManifest } from "./cln/manifest";
import { furtherRoi, isFar, joined, LOOKS } from "./cln/regions";
import { crop, type Roi } from "./cln/roi";
import { type TrackedFace, Tracker, type TrackerOptions } from "./cln/tracking";

export type { Backend, Detection, ImageSource, Manifest, Pixels, Roi, TrackedFace, TrackerOptions };
export { ClnError, Face, runtimeFiles, toGlb };

export interface Options {
  /** Where the asset files lie; default: `assets/` beside the page. */
  readonly assets?: URL | string;
  /** The network's file; default: `edge.onnx`. */
  readonly engine?: string;
  /** Default: WebAssembly. */
  readonly backend?: Backend;
  /** Default: the processor's, at most four; one where the page is not cross-origin isolated. */
  readonly threads?: number;
  /** Reads an asset; default: `fetch`. */
  readonly read?: (url: URL) => Promise<Uint8Array<ArrayBuffer>>;
}

/** Milliseconds of the steps of a call. */
export type Timings = Record<"pixels" | "detection" | "crop" | "network" | "decoding", number>;

export const DETECTOR = "face_detector.onnx";
export const FACE_MODEL = "face_model.safetensors";
export const ENGINE = "edge.onnx";

const nothing: Readonly<Timings> = { pixels: 0, detection: 0, crop: 0, network: 0, decoding: 0 };

/** Reconstructs the faces of images; several faces go through the network as one batch. */
export class Reconstructor {
  /** Of the last call, or of a tracker's last frame. */
  timings: Timings = { ...nothing };
  private readonly reader = new PixelReader();

  private constructor(
    readonly manifest: Manifest,
    readonly faceModel: FaceModel,
    readonly backend: Backend,
    readonly threads: number,
    private readonly network: Network,
    private readonly detectorNetwork: Network,
    private readonly detector = new FaceDetector(detectorNetwork),
  ) {}

  /** Loads networks and face model; throws a `ClnError` where a file is damaged or doesn't belong to the others. */
  static async load(options: Options = {}): Promise<Reconstructor> {
    const { engine = ENGINE, backend = "wasm", threads = usableThreads(), read = fetchBytes } = options;
    const folder = new URL(options.assets ?? "assets/", globalThis.location?.href);
    const files = runtimeFiles[backend];
    const [model, detector, faceModelFile, binary] = await Promise.all(
      [engine, DETECTOR, FACE_MODEL, files.binary].map((name) => read(new URL(name, folder))),
    );
    const manifest = readManifest(model, engine);
    const faceModel = await FaceModel.load(faceModelFile, FACE_MODEL);
    checkTogether(manifest, faceModel, engine);
    const runtime = await loadRuntime(backend, { script: new URL(files.script, folder), binary, threads });
    const network = await Network.load(runtime, model, engine, backend);
    // The detector's many small layers gain nothing on a GPU, and its views come from the CPU.
    const detectorNetwork = await Network.load(runtime, detector, DETECTOR, "wasm");
    return new Reconstructor(manifest, faceModel, backend, threads, network, detectorNetwork);
  }

  /** The side of a crop in pixels. */
  get inputSize(): number {
    return this.manifest.input_size;
  }

  /** How many of the params are shape coefficients. */
  get shapeCount(): number {
    return this.manifest.shape_count;
  }

  /** Faces of `image`, best detection first. */
  async reconstruct(image: ImageSource): Promise<Face[]> {
    this.timings = { ...nothing };
    const pixels = this.pixels(image);
    const found = await this.detect(pixels);
    const rois = found.map(roiFromDetection);
    const params = await this.infer(this.crops(pixels, rois));
    const faces = found.map(({ box, score }, i) => this.face(params[i], rois[i], score, box));
    // Those whose region was off are looked at again, in the one they ask for, until it is near.
    let asked = faces.map((_, i) => i);
    for (let look = 1; look < LOOKS; look++) {
      const again = asked.flatMap((i) => {
        const roi = furtherRoi(faces[i]);
        return roi ? [{ i, roi }] : [];
      });
      if (again.length === 0) break;
      const rois = again.map(({ roi }) => roi);
      const better = await this.infer(this.crops(pixels, rois));
      asked = again.filter(({ i, roi }) => isFar(faces[i].roi, roi)).map(({ i }) => i);
      again.forEach(({ i, roi }, k) => {
        const params = joined(faces[i], roi, better[k], this.inputSize);
        faces[i] = this.face(params, roi, found[i].score, found[i].box);
      });
    }
    return faces;
  }

  /** Runs both networks once on nothing: what engines put off to their first call is then done. */
  async warmup(): Promise<void> {
    const size = this.inputSize;
    await this.detect({ data: new Uint8ClampedArray(4), width: 1, height: 1 }, true);
    await this.infer(new Uint8Array(size * size * 3));
  }

  /** The pixels of `image`. */
  pixels(image: ImageSource): Pixels {
    const started = performance.now();
    const pixels = this.reader.read(image);
    this.timings.pixels += performance.now() - started;
    return pixels;
  }

  /** The pixels of a video's frame of now; they hold until the next call. */
  async framePixels(video: HTMLVideoElement): Promise<Pixels> {
    const started = performance.now();
    const pixels = await this.reader.readFrame(video);
    this.timings.pixels += performance.now() - started;
    return pixels;
  }

  /** Where faces are in `pixels`, best first; `quick`: by one look at the whole image, for videos. */
  async detect(pixels: Pixels, quick = false): Promise<Detection[]> {
    const started = performance.now();
    const found = await this.detector.detect(pixels, quick);
    this.timings.detection += performance.now() - started;
    return found;
  }

  /** Cuts regions from `pixels`: (F, S, S, 3), BGR. */
  crops(pixels: Pixels, rois: readonly Roi[]): Uint8Array {
    const started = performance.now();
    const size = this.inputSize;
    const length = size * size * 3;
    const crops = new Uint8Array(rois.length * length);
    rois.forEach((roi, i) => {
      crop(pixels, roi, size, crops.subarray(i * length, (i + 1) * length));
    });
    this.timings.crop += performance.now() - started;
    return crops;
  }

  /** What the network says of crops: params of each. */
  async infer(crops: Uint8Array): Promise<Float32Array[]> {
    const size = this.inputSize;
    const { numParams } = this.faceModel;
    const count = crops.length / (size * size * 3);
    if (count === 0) return [];
    const started = performance.now();
    const { params } = await this.network.run(crops, [count, size, size, 3]);
    if (params?.length !== count * numParams || !params.every(Number.isFinite)) {
      throw new ClnError(`engine: expected ${numParams} finite params of each face; its file is damaged`);
    }
    this.timings.network += performance.now() - started;
    return Array.from({ length: count }, (_, i) => params.slice(i * numParams, (i + 1) * numParams));
  }

  /** The face of a region's params. */
  face(params: Float32Array, roi: Roi, score = 1, box?: Face["box"]): Face {
    const started = performance.now();
    const face = new Face({ box, score, roi, params, cropSize: this.inputSize, model: this.faceModel });
    this.timings.decoding += performance.now() - started;
    return face;
  }

  /** Frees both networks. */
  async close(): Promise<void> {
    await Promise.all([this.network.close(), this.detectorNetwork.close()]);
  }
}

/** Follows the faces of one video or camera: see `Tracker.track`. */
export class VideoTracker {
  private readonly tracker: Tracker;
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly reconstructor: Reconstructor,
    options?: TrackerOptions,
  ) {
    this.tracker = new Tracker(reconstructor, options);
  }

  /**
   * The faces of the next frame, smoothed, by id; `seconds` must be later than the last frame's. A call while another is
   * under way waits for it, and takes a video's frame of then.
   */
  track(frame: ImageSource, seconds: number): Promise<TrackedFace[]> {
    const next = this.last.then(() => this.next(frame, seconds));
    this.last = next.catch(() => undefined);
    return next;
  }

  private async next(frame: ImageSource, seconds: number): Promise<TrackedFace[]> {
    this.reconstructor.timings = { ...nothing };
    const isVideo = "videoWidth" in frame;
    const pixels = isVideo ? await this.reconstructor.framePixels(frame) : this.reconstructor.pixels(frame);
    return this.tracker.track(pixels, seconds);
  }
}

let shared: Promise<Reconstructor> | undefined;

/** Faces of `image`, best detection first; loads everything from `assets/` beside the page when first called. */
export async function reconstruct(image: ImageSource, options?: Options): Promise<Face[]> {
  shared ??= Reconstructor.load(options).catch((error: unknown) => {
    shared = undefined; // the next call tries again
    throw error;
  });
  return (await shared).reconstruct(image);
}

function checkTogether(manifest: Manifest, faceModel: FaceModel, engine: string): void {
  if (faceModel.sha256 !== undefined && manifest.face_model_sha256 !== faceModel.sha256) {
    throw new ClnError(
      `${engine}: built for face model '${manifest.face_model}' (${manifest.face_model_sha256.slice(0, 12)}…), ` +
        `got '${faceModel.name}' (${faceModel.sha256.slice(0, 12)}…); take both files from one version`,
    );
  }
}

async function fetchBytes(url: URL): Promise<Uint8Array<ArrayBuffer>> {
  const response = await fetch(url);
  if (!response.ok) throw new ClnError(`${url}: expected the file, got HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}
