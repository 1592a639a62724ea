/** The camera, as frames one after another. */
import { ClnError } from "../cln";

const WIDTH = 640;
const HEIGHT = 480;

export class Camera {
  private constructor(
    private readonly stream: MediaStream,
    private readonly video: HTMLVideoElement,
  ) {}

  /** Asks for the camera; a `ClnError` with a sentence for the visitor where there is none to be had. */
  static async open(): Promise<Camera> {
    if (!navigator.mediaDevices) {
      throw new ClnError("The camera needs a page served over https or from localhost; open it there.");
    }
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, facingMode: "user" },
      });
    } catch (error) {
      const { name, message } = error as DOMException;
      if (name === "NotAllowedError") {
        throw new ClnError("The camera was not allowed; allow it for this page in the browser and start it again.");
      }
      if (name === "NotFoundError") throw new ClnError("No camera was found; connect one, or choose a photo.");
      throw new ClnError(`The camera can't be used (${message}); is another program using it?`);
    }
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    video.srcObject = stream;
    const camera = new Camera(stream, video);
    try {
      await video.play();
    } catch (error) {
      camera.close();
      throw new ClnError(`The camera's picture can't be shown (${(error as DOMException).message}); start it again.`);
    }
    return camera;
  }

  /** Calls `onFrame` with each new frame and its time in seconds, which only grows, never while an earlier call is under way. */
  async run(onFrame: (video: HTMLVideoElement, seconds: number) => Promise<void>): Promise<void> {
    let last = Number.NEGATIVE_INFINITY;
    while (this.stream.active) {
      const seconds = await this.nextFrame();
      // A frame's time is that of its drawing: on a machine that is late with it, before the last look without a frame.
      if (seconds <= last || !this.stream.active || this.video.videoWidth === 0) continue;
      last = seconds;
      await onFrame(this.video, seconds);
    }
  }

  /** Ends `run` and frees the camera. */
  close(): void {
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
  }

  private nextFrame(): Promise<number> {
    const { video } = this;
    return new Promise((resolve) => {
      const done = (now: number) => {
        clearTimeout(timer);
        resolve(now / 1000);
      };
      const waiting =
        "requestVideoFrameCallback" in video ? video.requestVideoFrameCallback(done) : requestAnimationFrame(done);
      // A hidden tab gets no frames, and a camera that was unplugged gives none: look again now and then.
      const timer = setTimeout(() => {
        if ("cancelVideoFrameCallback" in video) video.cancelVideoFrameCallback(waiting);
        else cancelAnimationFrame(waiting);
        resolve(performance.now() / 1000);
      }, 500);
    });
  }
}
