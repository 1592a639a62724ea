/** What an image may be, and its pixels: RGBA, 8 bits each, row by row, as a canvas gives them. */
import { constants } from "./constants";
import { ClnError } from "./errors";

/** RGBA pixels; `ImageData` is one. */
export interface Pixels {
  readonly data: Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/** Whatever a canvas can draw, or pixels. A video gives its frame of now. */
export type ImageSource =
  | ImageBitmap
  | HTMLImageElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | HTMLVideoElement
  | Pixels;

/** Width and height in pixels. */
export function sizeOf(source: ImageSource): [number, number] {
  if ("videoWidth" in source) return [source.videoWidth, source.videoHeight];
  if ("naturalWidth" in source) return [source.naturalWidth, source.naturalHeight];
  return [source.width, source.height];
}

/** Reads pixels into memory that it keeps, so that a video's frames need no new one each: they hold until the next call. */
export class PixelReader {
  private context: OffscreenCanvasRenderingContext2D | undefined;
  private frame: ImageData | undefined;
  private copies = "VideoFrame" in globalThis;

  /**
   * The pixels of a video's frame of now, as `read` gives them. Copied where the browser can: through a canvas, they go
   * to the graphics processor and back, which takes longer than all else where that is busy, or is only emulated.
   */
  async readFrame(video: HTMLVideoElement): Promise<Pixels> {
    const [width, height] = sizeOf(video);
    if (!this.copies || !(width > 0 && height > 0)) return this.read(video);
    let frame: VideoFrame | undefined;
    try {
      frame = new VideoFrame(video);
      // A copy is of the pixels as they are stored: not of those of a turned video, or one with other than square pixels.
      const { rotation = 0, flip = false } = frame as { rotation?: number; flip?: boolean };
      const { visibleRect: seen } = frame;
      if (rotation !== 0 || flip || seen?.width !== width || seen.height !== height) return this.read(video);
      if (this.frame?.width !== width || this.frame.height !== height) this.frame = new ImageData(width, height);
      await frame.copyTo(this.frame.data, { format: "RGBA", colorSpace: "srgb" } as VideoFrameCopyToOptions);
      return this.frame;
    } catch {
      this.copies = false; // a browser that copies frames but does not convert them
      return this.read(video);
    } finally {
      frame?.close();
    }
  }

  /** The pixels of `source`; `ClnError` where it has none or too many. */
  read(source: ImageSource): Pixels {
    const [width, height] = sizeOf(source);
    if (!(width > 0 && height > 0 && width <= constants.image.maxSide && height <= constants.image.maxSide)) {
      throw new ClnError(
        `image: expected sides of 1..${constants.image.maxSide} pixels, got ${width} x ${height}; load it first`,
      );
    }
    if ("data" in source) return source;
    this.context ??= new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true }) ?? undefined;
    if (!this.context) throw new ClnError("image: expected a browser with a 2D canvas, got none");
    const { canvas } = this.context;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    } else {
      this.context.clearRect(0, 0, width, height);
    }
    try {
      this.context.drawImage(source, 0, 0);
      return this.context.getImageData(0, 0, width, height);
    } catch (error) {
      throw new ClnError(
        `image: ${width} x ${height} pixels are more than this browser can read (${error}); reduce it`,
      );
    }
  }
}
