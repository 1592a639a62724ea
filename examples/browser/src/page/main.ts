/** The page: a photo or the camera in, contours, mesh and numbers out. */
import { type Backend, type Face, type Pixels, Reconstructor, type Timings, toGlb, VideoTracker } from "../cln";
import { Camera } from "./camera";
import { Downloads, megabytes } from "./download";
import { isolate } from "./isolation";
import { MeshView, type Surface } from "./mesh_view";
import { drawFaces } from "./overlay";
import { Rates } from "./rates";

function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page lacks #${id}`);
  return found as T;
}

const status = element("status");
const alarm = element("error");
const retry = element<HTMLButtonElement>("retry");
const progress = element<HTMLProgressElement>("progress");
const picture = element<HTMLCanvasElement>("picture");
const overlay = element<HTMLCanvasElement>("overlay");
const pictureContext = picture.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
const overlayContext = overlay.getContext("2d") as CanvasRenderingContext2D;
const fileInput = element<HTMLInputElement>("file");
const cameraButton = element<HTMLButtonElement>("camera");
const exampleButton = element<HTMLButtonElement>("example");
const saveGlb = element<HTMLButtonElement>("save-glb");
const saveJson = element<HTMLButtonElement>("save-json");
const backendSelect = element<HTMLSelectElement>("backend");
const engineSelect = element<HTMLSelectElement>("engine");
const surfaceSelect = element<HTMLSelectElement>("surface");

let loading: Promise<Reconstructor> | undefined;
let camera: Camera | undefined;
let meshView: MeshView | undefined;
let shownName = "face";
let faces: readonly Face[] = [];
let selected = 0;
let turn = 0; // counts pictures: an answer that comes after the next picture is dropped

/** For the console and the page's own tests. */
const shown = { faces, timings: undefined as Timings | undefined, frames: 0, reconstructor, VideoTracker };
Object.assign(globalThis, { cln: shown });

function say(text: string): void {
  status.textContent = text;
}

function fail(error: unknown): void {
  alarm.textContent = error instanceof Error ? error.message : String(error);
  alarm.hidden = false;
  progress.hidden = true;
}

function clearError(): void {
  alarm.hidden = true;
  retry.hidden = true;
}

function reconstructor(): Promise<Reconstructor> {
  loading ??= load();
  return loading;
}

async function load(): Promise<Reconstructor> {
  clearError();
  say("Loading the networks…");
  const downloads = new Downloads((received, wanted) => {
    progress.hidden = false;
    progress.max = wanted;
    progress.value = received;
    say(`Downloading: ${megabytes(received)} of ${megabytes(wanted)}`);
  });
  try {
    const loaded = await Reconstructor.load({
      backend: backendSelect.value as Backend,
      engine: engineSelect.value,
      read: downloads.read,
    });
    await loaded.warmup();
    progress.hidden = true;
    const { backend, threads, manifest } = loaded;
    const where = backend === "webgpu" ? "GPU" : `CPU, ${threads} thread${threads === 1 ? "" : "s"}`;
    element("machine").textContent = `Network: ${manifest.precision}, ${manifest.input_size} px, on the ${where}.`;
    say("Ready.");
    return loaded;
  } catch (error) {
    loading = undefined;
    retry.hidden = false;
    say("Not ready.");
    throw error;
  }
}

/** Makes both canvases so large, and shows them. */
function setSize(width: number, height: number): void {
  for (const canvas of [picture, overlay]) {
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
  }
  element("frame").hidden = false;
  element("hint").hidden = true;
}

/** Takes away the faces of the picture before: they are none of this one's. */
function clearFaces(name: string): void {
  setFaces([]);
  listFaces();
  picture.setAttribute("aria-label", name);
}

/** Draws `source` and takes its pixels. */
function takePicture(source: ImageBitmap): Pixels {
  const { width, height } = source;
  setSize(width, height);
  pictureContext.clearRect(0, 0, width, height);
  pictureContext.drawImage(source, 0, 0);
  return pictureContext.getImageData(0, 0, width, height);
}

function show(found: readonly Face[], timings: Timings): void {
  setFaces(found);
  Object.assign(shown, { timings, frames: shown.frames + 1 });
}

/** Draws faces, shows the chosen one's mesh, and offers to save what there is. */
function setFaces(found: readonly Face[]): void {
  faces = found;
  selected = Math.min(selected, Math.max(faces.length - 1, 0));
  Object.assign(shown, { faces });
  drawFaces(overlayContext, faces);
  meshView?.show(faces[selected], picture);
  saveGlb.disabled = saveJson.disabled = faces.length === 0;
}

async function showPhoto(blob: Blob, fileName: string): Promise<void> {
  stopCamera();
  clearError();
  turn += 1;
  const mine = turn;
  let bitmap: ImageBitmap | undefined;
  try {
    bitmap = await decode(blob, fileName);
    const reconstruct = await reconstructor();
    if (mine !== turn) return;
    say(`Looking for faces in ${fileName}…`);
    const started = performance.now();
    const pixels = takePicture(bitmap);
    const read = performance.now();
    clearFaces(fileName);
    const found = await reconstruct.reconstruct(pixels);
    if (mine !== turn) return;
    shownName = fileName;
    selected = 0;
    const done = performance.now();
    show(found, reconstruct.timings);
    const drawn = performance.now();
    listFaces();
    listTimes({ ...reconstruct.timings, pixels: read - started, drawing: drawn - done, whole: drawn - started });
    describe(fileName);
  } catch (error) {
    if (mine === turn) fail(error);
  } finally {
    bitmap?.close();
  }
}

async function decode(blob: Blob, fileName: string): Promise<ImageBitmap> {
  try {
    // Colours as they are in the file, as the Python runtime reads them: no profile is applied.
    return await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${fileName} is no picture that this browser can read; choose a JPEG, PNG or WebP file.`);
  }
}

function describe(fileName: string): void {
  const angles = faces.map(({ pose }, i) => {
    const [yaw, pitch, roll] = [pose.yaw, pose.pitch, pose.roll].map((angle) => Math.round(angle));
    return `face ${i + 1}: yaw ${yaw}°, pitch ${pitch}°, roll ${roll}°`;
  });
  const count = faces.length === 1 ? "1 face" : `${faces.length} faces`;
  const none = "no face found; try a picture where a face is larger or better lit.";
  say(
    `${fileName}: ${faces.length ? `${count} (${angles.slice(0, 3).join("; ")}${angles.length > 3 ? "; …" : ""})` : none}`,
  );
  picture.setAttribute("aria-label", `${fileName}: ${faces.length ? count : "no face"}`);
}

function listFaces(): void {
  const rows = faces.map((face, i) => {
    const row = document.createElement("tr");
    row.setAttribute("aria-selected", String(i === selected));
    const choose = document.createElement("button");
    choose.type = "button";
    choose.textContent = String(i + 1);
    choose.setAttribute("aria-label", `Show face ${i + 1}`);
    choose.setAttribute("aria-pressed", String(i === selected));
    choose.addEventListener("click", () => {
      selected = i;
      meshView?.show(faces[selected], picture);
      listFaces();
    });
    row.insertCell().append(choose);
    const { yaw, pitch, roll } = face.pose;
    for (const angle of [yaw, pitch, roll]) row.insertCell().textContent = `${angle.toFixed(1)}°`;
    row.insertCell().textContent = face.score.toFixed(2);
    return row;
  });
  const focused = document.activeElement?.closest("#faces tr") as HTMLTableRowElement | null;
  const index = focused ? focused.sectionRowIndex : -1;
  element("faces").replaceChildren(...(rows.length ? rows : [emptyRow()]));
  rows[index]?.querySelector("button")?.focus();
}

function emptyRow(): HTMLTableRowElement {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = 5;
  cell.textContent = "none";
  return row;
}

function listTimes(times: Record<string, number>): void {
  const rows = Object.entries(times).map(([step, value]) => {
    const row = document.createElement("tr");
    row.insertCell().textContent = step;
    row.insertCell().textContent = step === "frames" ? `${value.toFixed(0)} / s` : `${value.toFixed(1)} ms`;
    return row;
  });
  element("times").replaceChildren(...rows);
}

async function startCamera(): Promise<void> {
  clearError();
  turn += 1;
  const mine = turn;
  try {
    const reconstruct = await reconstructor();
    const opened = await Camera.open();
    if (mine !== turn) return opened.close();
    camera = opened;
    shownName = "camera";
    clearFaces("The camera's picture");
    cameraButton.textContent = "Stop the camera";
    cameraButton.setAttribute("aria-pressed", "true");
    mirror(true);
    say("The camera is running.");
    const rates = new Rates();
    const tracker = new VideoTracker(reconstruct);
    await opened.run(async (video, seconds) => {
      const times = await onFrame(reconstruct, tracker, seconds, video, () => camera === opened);
      if (!times) return;
      rates.add(times);
      if (rates.due()) {
        listFaces();
        listTimes(rates.take());
      }
    });
    if (camera === opened) {
      stopCamera();
      say("The camera ended.");
    }
  } catch (error) {
    if (mine !== turn) return; // of a camera that is no longer wanted
    stopCamera();
    fail(error);
  }
}

/** Shows a frame and its faces; what it took, or undefined where the camera was stopped meanwhile. */
async function onFrame(
  reconstruct: Reconstructor,
  tracker: VideoTracker,
  seconds: number,
  video: HTMLVideoElement,
  wanted: () => boolean,
): Promise<Record<string, number> | undefined> {
  const started = performance.now();
  const pixels = await reconstruct.framePixels(video);
  const read = performance.now();
  const found = await tracker.track(pixels, seconds);
  if (!wanted()) return undefined;
  const done = performance.now();
  setSize(pixels.width, pixels.height);
  pictureContext.putImageData(pixels as ImageData, 0, 0);
  show(
    found.map(({ face }) => face),
    reconstruct.timings,
  );
  const drawn = performance.now();
  const spent = { ...reconstruct.timings, pixels: read - started, drawing: drawn - done, whole: drawn - started };
  Object.assign(shown, { spent, ids: found.map(({ id }) => id) });
  return spent;
}

function stopCamera(): void {
  camera?.close();
  camera = undefined;
  cameraButton.textContent = "Start the camera";
  cameraButton.setAttribute("aria-pressed", "false");
  mirror(false);
}

function mirror(on: boolean): void {
  element("frame").classList.toggle("mirrored", on);
  element("mirror").hidden = !on;
}

function save(data: BlobPart, type: string, suffix: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data], { type }));
  link.download = `${shownName.replace(/\.[^.]*$/, "")}${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function watchDrops(): void {
  const stage = element("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file) void showPhoto(file, file.name);
    else fail("What was dropped is no file; drop a picture file.");
  });
}

function watchControls(): void {
  fileInput.addEventListener("change", () => {
    const file = fileInput.files?.[0];
    fileInput.value = ""; // the same file may be chosen again
    if (file) void showPhoto(file, file.name);
  });
  cameraButton.addEventListener("click", () => {
    if (!camera) return void startCamera();
    stopCamera();
    say("The camera is off.");
  });
  exampleButton.addEventListener("click", async () => {
    try {
      const response = await fetch("assets/astronaut.jpg");
      if (!response.ok) throw new Error(`The example could not be downloaded (HTTP ${response.status}).`);
      await showPhoto(await response.blob(), "astronaut.jpg");
    } catch (error) {
      fail(error);
    }
  });
  retry.addEventListener("click", () => {
    clearError();
    reconstructor().catch(fail);
  });
  surfaceSelect.addEventListener("change", () => {
    if (meshView) meshView.surface = surfaceSelect.value as Surface;
  });
  for (const select of [backendSelect, engineSelect]) select.addEventListener("change", reload);
  saveGlb.addEventListener("click", async () => {
    const face = faces[selected];
    if (!face) return;
    const suffix = `_${selected}.glb`;
    try {
      const pixels = pictureContext.getImageData(0, 0, picture.width, picture.height);
      save(await toGlb(face, pixels), "model/gltf-binary", suffix);
    } catch (error) {
      fail(error);
    }
  });
  saveJson.addEventListener("click", () => {
    save(`${JSON.stringify({ image: shownName, faces })}\n`, "application/json", ".json");
  });
}

/** Loads the network that is chosen now, and frees the one before. */
async function reload(): Promise<void> {
  const before = loading;
  loading = undefined;
  stopCamera();
  reconstructor().catch(fail);
  await before?.then((old) => old.close()).catch(() => undefined);
}

function openMeshView(): void {
  try {
    meshView = new MeshView(element<HTMLCanvasElement>("mesh"));
  } catch {
    element("mesh").hidden = true;
    element("no-mesh").hidden = false;
    element("no-mesh").textContent = "The mesh needs WebGL, which this browser doesn't offer. All else works.";
  }
}

async function offerWebGpu(): Promise<void> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
  const adapter = await gpu?.requestAdapter().catch(() => null);
  if (adapter) backendSelect.options[1].disabled = false;
}

async function main(): Promise<void> {
  watchDrops();
  watchControls();
  if (!(await isolate())) return;
  openMeshView();
  void offerWebGpu();
  await reconstructor();
}

main().catch(fail);
