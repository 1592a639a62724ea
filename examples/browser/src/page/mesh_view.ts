/** The mesh of one face in three.js, to turn by hand: textured from the picture, shaded, or as wires. */
import {
  BufferAttribute,
  BufferGeometry,
  CanvasTexture,
  Color,
  DirectionalLight,
  DoubleSide,
  HemisphereLight,
  Mesh,
  MeshBasicMaterial,
  MeshLambertMaterial,
  OrthographicCamera,
  Scene,
  Spherical,
  SRGBColorSpace,
  WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import type { Face } from "../cln";
import { constants } from "../cln/constants";

export type Surface = "picture" | "shaded" | "wireframe";

const TEXTURE = 512; // pixels of the square around the face
const MARGIN = 1.25; // the mesh reaches further than the region: ears and forehead
const TURN = Math.PI / 24; // of one key press
const FRAME = 17; // ms: a picture that is done before the next frame was no burden
const LONGEST_REST = 200; // ms: the first picture takes long, and the next shall not wait for that

export class MeshView {
  private readonly renderer: WebGLRenderer;
  private readonly scene = new Scene();
  private readonly camera = new OrthographicCamera(-0.5, 0.5, 0.5, -0.5, 0.01, 10);
  private readonly controls: OrbitControls;
  private readonly geometry = new BufferGeometry();
  private readonly crop = new OffscreenCanvas(TEXTURE, TEXTURE);
  private readonly cropContext = this.crop.getContext("2d", { willReadFrequently: true });
  private readonly texture = new CanvasTexture(this.crop);
  private readonly materials: Record<Surface, MeshBasicMaterial | MeshLambertMaterial>;
  private readonly mesh: Mesh;
  private waiting = false;
  private fence: WebGLSync | null = null; // of the last picture, until it is drawn
  private drawnAt = 0; // ms
  private restUntil = 0; // ms

  /** Throws where the browser has no WebGL. */
  constructor(private readonly canvas: HTMLCanvasElement) {
    this.renderer = new WebGLRenderer({ canvas, alpha: true, antialias: true });
    const [r, g, b] = constants.drawing.meshColor.map((value) => value / 255);
    this.texture.colorSpace = SRGBColorSpace;
    this.materials = {
      picture: new MeshBasicMaterial({ map: this.texture, side: DoubleSide }),
      shaded: new MeshLambertMaterial({ color: new Color().setRGB(r, g, b, SRGBColorSpace), side: DoubleSide }),
      wireframe: new MeshBasicMaterial({ color: 0x4a90d9, wireframe: true }),
    };
    this.mesh = new Mesh(this.geometry, this.materials.picture);
    this.mesh.frustumCulled = false;
    this.mesh.visible = false;
    const light = new DirectionalLight(0xffffff, 2.2);
    light.position.set(0.45, 0.5, 0.75);
    this.scene.add(this.mesh, light, new HemisphereLight(0xffffff, 0x606060, 0.9));
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enablePan = false;
    this.controls.addEventListener("change", () => this.draw());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.lookAhead();
  }

  set surface(surface: Surface) {
    this.mesh.material = this.materials[surface];
    if (surface === "shaded") this.geometry.computeVertexNormals();
    this.draw();
  }

  /** Shows `face`, its texture cut from `picture`; nothing without a face. */
  show(face: Face | undefined, picture: CanvasImageSource): void {
    this.mesh.visible = face !== undefined;
    if (face) {
      this.setTexture(face, picture);
      this.setGeometry(face);
    }
    this.draw();
  }

  private setTexture({ roi }: Face, picture: CanvasImageSource): void {
    const side = roi.side * MARGIN;
    const [left, top] = [roi.centerX - side / 2 + 0.5, roi.centerY - side / 2 + 0.5];
    this.cropContext?.clearRect(0, 0, TEXTURE, TEXTURE);
    this.cropContext?.drawImage(picture, left, top, side, side, 0, 0, TEXTURE, TEXTURE);
    this.texture.needsUpdate = true;
  }

  /** In units of the region's side, around the mesh's middle, y up. */
  private setGeometry({ vertices, triangles, roi }: Face): void {
    const count = vertices.length / 3;
    if (this.geometry.getAttribute("position")?.count !== count) {
      this.geometry.setAttribute("position", new BufferAttribute(new Float32Array(3 * count), 3));
      this.geometry.setAttribute("uv", new BufferAttribute(new Float32Array(2 * count), 2));
      this.geometry.setIndex(new BufferAttribute(triangles, 1));
    }
    const position = this.geometry.getAttribute("position") as BufferAttribute;
    const uv = this.geometry.getAttribute("uv") as BufferAttribute;
    for (let i = 0; i < count; i++) {
      const x = (vertices[3 * i] - roi.centerX) / roi.side;
      const y = (vertices[3 * i + 1] - roi.centerY) / roi.side;
      position.setXYZ(i, x, -y, vertices[3 * i + 2] / roi.side);
      uv.setXY(i, 0.5 + x / MARGIN, 0.5 - y / MARGIN);
    }
    position.needsUpdate = true;
    uv.needsUpdate = true;
    if (this.mesh.material === this.materials.shaded) this.geometry.computeVertexNormals();
    this.geometry.computeBoundingBox();
    this.geometry.boundingBox?.getCenter(this.mesh.position).negate();
  }

  private lookAhead(): void {
    this.camera.position.set(0, 0, 3);
    this.camera.zoom = 0.85;
    this.camera.updateProjectionMatrix();
    this.controls.update();
  }

  private onKey(event: KeyboardEvent): void {
    const turns: Record<string, [number, number]> = {
      ArrowLeft: [-TURN, 0],
      ArrowRight: [TURN, 0],
      ArrowUp: [0, -TURN],
      ArrowDown: [0, TURN],
    };
    const turn = turns[event.key];
    if (turn) {
      const place = new Spherical().setFromVector3(this.camera.position);
      place.theta += turn[0];
      place.phi += turn[1];
      this.camera.position.setFromSpherical(place.makeSafe());
    } else if (event.key === "+" || event.key === "-") {
      this.camera.zoom *= event.key === "+" ? 1.1 : 1 / 1.1;
      this.camera.updateProjectionMatrix();
    } else if (event.key === "Home") {
      this.lookAhead();
    } else {
      return;
    }
    event.preventDefault();
    this.controls.update();
    this.draw();
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (width === 0 || height === 0) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    const reach = 0.5 * Math.max(1, width / height);
    [this.camera.left, this.camera.right] = [-reach, reach];
    [this.camera.top, this.camera.bottom] = [(reach * height) / width, (-reach * height) / width];
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  /** Once before the next frame, however often it is asked for. */
  private draw(): void {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.drawWhenFree());
  }

  /**
   * Where drawing is slow, because the graphics processor is busy or only emulated, it gets half of the time: pictures
   * that it can't keep up with would pile up and hold up the page, the camera's frames too.
   */
  private drawWhenFree(): void {
    const now = performance.now();
    const gl = this.renderer.getContext() as WebGL2RenderingContext;
    if (this.fence && gl.getSyncParameter(this.fence, gl.SYNC_STATUS) !== gl.UNSIGNALED) {
      gl.deleteSync(this.fence);
      this.fence = null;
      this.restUntil = now + Math.min(Math.max(now - this.drawnAt - FRAME, 0), LONGEST_REST);
    }
    if (this.fence || now < this.restUntil) {
      requestAnimationFrame(() => this.drawWhenFree());
      return;
    }
    this.waiting = false;
    this.renderer.render(this.scene, this.camera);
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    this.drawnAt = now;
  }
}
