/** `Face`: what the user holds after a reconstruction. Points are in image pixels: x right, y down, z nearer. */
import type { FaceModel } from "./face_model";
import { type Pose, poseOf } from "./pose";
import { type Roi, toImage } from "./roi";

export interface FaceFields {
  readonly box: readonly [number, number, number, number];
  readonly score: number;
  readonly roi: Roi;
  readonly params: Float32Array;
  readonly cropSize: number;
  readonly model: FaceModel;
}

export class Face {
  /** x, y, width, height in image pixels. */
  readonly box: readonly [number, number, number, number];
  readonly score: number;
  readonly roi: Roi;
  /** 12 of the pose matrix, then shape and expression coefficients, in the crop's frame. */
  readonly params: Float32Array;
  /** 68 (x, y, z). */
  readonly landmarks: Float32Array;
  readonly pose: Pose;
  private readonly model: FaceModel;
  private readonly cropSize: number;
  private mesh: Float32Array | undefined;

  constructor({ box, score, roi, params, cropSize, model }: FaceFields) {
    this.box = box;
    this.score = score;
    this.roi = roi;
    this.params = params;
    this.model = model;
    this.cropSize = cropSize;
    this.landmarks = toImage(model.landmarks(params), roi, cropSize);
    this.pose = poseOf(params, roi.side / cropSize, roi.angle);
  }

  /** The dense mesh: N (x, y, z), computed when first asked for. */
  get vertices(): Float32Array {
    this.mesh ??= toImage(this.model.vertices(this.params), this.roi, this.cropSize);
    return this.mesh;
  }

  /** Three vertex numbers each, counter-clockwise seen from outside the face in the y-up model frame. */
  get triangles(): Uint32Array {
    return this.model.triangles;
  }

  /** As `runtime.Face.to_dict` in Python. */
  toJSON(): Record<string, unknown> {
    const rounded = (value: number, digits: number) => Number(value.toFixed(digits));
    const points = Array.from({ length: this.landmarks.length / 3 }, (_, i) =>
      Array.from(this.landmarks.subarray(3 * i, 3 * i + 3), (value) => rounded(value, 4)),
    );
    const { yaw, pitch, roll } = this.pose;
    return {
      box: this.box.map((value) => rounded(value, 3)),
      score: rounded(this.score, 6),
      params: Array.from(this.params),
      landmarks: points,
      pose: { yaw: rounded(yaw, 4), pitch: rounded(pitch, 4), roll: rounded(roll, 4) },
    };
  }
}
