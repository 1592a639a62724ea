/** Contours and points over the picture, as `runtime/drawing.py` draws them. */
import type { Face } from "../cln";
import { constants } from "../cln/constants";

const { contours, contourColor, pointColor, dotsFrom } = constants.drawing;
const css = (color: readonly number[]) => `rgb(${color.join(" ")})`;

/** Draws the faces on a canvas with as many pixels as the picture. */
export function drawFaces(context: CanvasRenderingContext2D, faces: readonly Face[]): void {
  context.clearRect(0, 0, context.canvas.width, context.canvas.height);
  context.lineJoin = "round";
  for (const { landmarks, roi } of faces) {
    const thickness = Math.max(1, roi.side / 300);
    // A canvas counts from a pixel's corner, landmarks from its centre.
    const at = (i: number): [number, number] => [landmarks[3 * i] + 0.5, landmarks[3 * i + 1] + 0.5];
    context.strokeStyle = css(contourColor);
    context.lineWidth = thickness;
    context.beginPath();
    for (const { first, last, closed } of contours) {
      context.moveTo(...at(first));
      for (let i = first + 1; i <= last; i++) context.lineTo(...at(i));
      if (closed) context.closePath();
    }
    context.stroke();
    if (roi.side < dotsFrom) continue;
    context.fillStyle = css(pointColor);
    context.beginPath();
    for (let i = 0; i < landmarks.length / 3; i++) {
      const [x, y] = at(i);
      context.moveTo(x, y);
      context.arc(x, y, thickness, 0, 2 * Math.PI);
    }
    context.fill();
  }
}
