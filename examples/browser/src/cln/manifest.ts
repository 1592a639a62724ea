/** The manifest in an ONNX file's metadata: what a runtime must know of the network before it runs it. */
import { constants } from "./constants";
import { ClnError } from "./errors";
import { fields, text } from "./protobuf";

/** The fields that this library uses, named as in the file (`runtime/manifest.py` describes all of them). */
export interface Manifest {
  readonly format: string;
  readonly version: number;
  readonly input_size: number;
  readonly shape_count: number;
  readonly expression_count: number;
  readonly face_model: string;
  readonly face_model_sha256: string;
  readonly precision: string;
}

/** Reads the manifest of an ONNX file; `name` is used in errors. */
export function readManifest(model: Uint8Array, name: string): Manifest {
  const json = onnxMetadata(model, name).get(constants.manifest.key);
  if (json === undefined) {
    throw new ClnError(`${name}: expected a manifest in the metadata ('${constants.manifest.key}'), found none`);
  }
  const manifest = JSON.parse(json) as Manifest;
  const { format, version } = constants.manifest;
  if (manifest.format !== format || manifest.version !== version) {
    throw new ClnError(
      `${name}: expected a manifest '${format}' version ${version}, got '${manifest.format}' ${manifest.version}; ` +
        "build page and network from one version of the repository",
    );
  }
  for (const key of ["input_size", "shape_count", "expression_count"] as const) {
    if (!Number.isInteger(manifest[key]) || manifest[key] < 0) {
      throw new ClnError(`${name}: expected a whole number '${key}' in the manifest, got ${manifest[key]}`);
    }
  }
  return manifest;
}

const METADATA_PROPS = 14; // of ModelProto; a StringStringEntryProto has its key in field 1, its value in field 2

/** `metadata_props` of a serialised `ModelProto` (onnx.proto3), everything else skipped by its length. */
export function onnxMetadata(model: Uint8Array, name: string): Map<string, string> {
  const metadata = new Map<string, string>();
  try {
    for (const { field, bytes } of fields(model)) {
      if (field !== METADATA_PROPS) continue;
      const entry = new Map([...fields(bytes)].map((part) => [part.field, text(part.bytes)]));
      metadata.set(entry.get(1) ?? "", entry.get(2) ?? "");
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ClnError(`${name}: expected an ONNX model, got ${model.length} bytes that are none; fetch it again`);
  }
  return metadata;
}
