/** `Face`: what the user holds after a reconstruction. Points are in image pixels: x right, y down, z nearer. */
import { constants } from "./constants";
import type { FaceModel } from "./face_model";
import { type Pose, poseOf } from "./pose";
import { type Roi, toImage } from "./roi";
import { visiblePoints } from "./visibility";

type Box = readonly [number, number, number, number];

export interface FaceFields {
  /** The detector's; without one, the landmarks'. */
  readonly box?: Box | undefined;
  readonly score: number;
  readonly roi: Roi;
  readonly params: Float32Array;
  readonly cropSize: number;
  readonly model: FaceModel;
}

export class Face {
  /** x, y, width, height in image pixels. */
  readonly box: Box;
  readonly score: number;
  readonly roi: Roi;
  /** 12 of the pose matrix, then shape and expression coefficients, in the crop's frame. */
  readonly params: Float32Array;
  /** 68 (x, y, z). */
  readonly landmarks: Float32Array;
  readonly pose: Pose;
  readonly model: FaceModel;
  private readonly cropSize: number;
  private mesh: Float32Array | undefined;

  constructor({ box, score, roi, params, cropSize, model }: FaceFields) {
    this.score = score;
    this.roi = roi;
    this.params = params;
    this.model = model;
    this.cropSize = cropSize;
    this.landmarks = toImage(model.landmarks(params), roi, cropSize);
    this.box = box ?? boxAround(this.landmarks);
    this.pose = poseOf(params, roi.side / cropSize, roi.angle);
  }

  /** The dense mesh: N (x, y, z), computed when first asked for. */
  get vertices(): Float32Array {
    this.mesh ??= toImage(this.model.vertices(this.params), this.roi, this.cropSize);
    return this.mesh;
  }

  /** The vertices in the model frame, millimetres, with the face's shape and neither pose nor expression. */
  get neutral(): Float32Array {
    const params = this.params.slice();
    params.fill(0, 0, constants.faceModel.poseSize);
    for (const diagonal of [0, 5, 10]) params[diagonal] = 1;
    return this.model.vertices(params.fill(0, params.length - this.model.expressionCount));
  }

  /** Three vertex numbers each, counter-clockwise seen from outside the face in the y-up model frame. */
  get triangles(): Uint32Array {
    return this.model.triangles;
  }

  /** Which landmarks the face's own mesh doesn't hide from the camera. */
  get visible(): boolean[] {
    return visiblePoints(this.landmarks, this.vertices, this.triangles, constants.visibility.margin * this.pose.scale);
  }

  /** As `runtime.Face.to_dict` in Python. */
  toJSON(): Record<string, unknown> {
    const rounded = (value: number, digits: number) => Number(value.toFixed(digits));
    const points = Array.from({ length: this.landmarks.length / 3 }, (_, i) =>
      Array.from(this.landmarks.subarray(3 * i, 3 * i + 3), (value) => rounded(value, 4)),
    );
    const { yaw, pitch, roll } = this.pose;
    const { centerX, centerY, side, angle } = this.roi;
    return {
      box: this.box.map((value) => rounded(value, 3)),
      score: rounded(this.score, 6),
      roi: { center_x: centerX, center_y: centerY, side, angle },
      crop_size: this.cropSize,
      face_model: this.model.sha256,
      params: Array.from(this.params),
      landmarks: points,
      visible: this.visible,
      pose: { yaw: rounded(yaw, 4), pitch: rounded(pitch, 4), roll: rounded(roll, 4) },
    };
  }
}

function boxAround(points: Float32Array): Box {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 3) {
    [left, right] = [Math.min(left, points[i]), Math.max(right, points[i])];
    [top, bottom] = [Math.min(top, points[i + 1]), Math.max(bottom, points[i + 1])];
  }
  return [left, top, right - left, bottom - top];
}
