/** ONNX Runtime Web: WebAssembly with SIMD and, where the page is cross-origin isolated, threads; or WebGPU. */
import type { Env, InferenceSession, Tensor } from "onnxruntime-web";
import { constants } from "./constants";
import { ClnError } from "./errors";
import { withWinograd } from "./winograd";

export type Backend = "wasm" | "webgpu";

/** The part of ONNX Runtime Web's module that is used here; its builds for WebAssembly and WebGPU both have it. */
interface OnnxRuntime {
  readonly env: Env;
  readonly InferenceSession: typeof InferenceSession;
  readonly Tensor: typeof Tensor;
}

/** The files of ONNX Runtime Web that a backend needs, as its package names them. */
export const runtimeFiles: Record<Backend, { script: string; binary: string }> = {
  wasm: { script: "ort-wasm-simd-threaded.mjs", binary: "ort-wasm-simd-threaded.wasm" },
  webgpu: { script: "ort-wasm-simd-threaded.asyncify.mjs", binary: "ort-wasm-simd-threaded.asyncify.wasm" },
};

/** Threads that a network may use here: WebAssembly has them only in a cross-origin isolated page. */
export function usableThreads(): number {
  return globalThis.crossOriginIsolated
    ? Math.min(navigator.hardwareConcurrency || 1, constants.engine.mostThreads)
    : 1;
}

/** Loads ONNX Runtime Web once for the page. */
export async function loadRuntime(
  backend: Backend,
  options: { script: URL; binary: Uint8Array<ArrayBuffer>; threads: number },
): Promise<OnnxRuntime> {
  const runtime: OnnxRuntime =
    backend === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  runtime.env.logLevel = "error";
  runtime.env.wasm.numThreads = options.threads;
  runtime.env.wasm.wasmPaths = { mjs: options.script.href };
  runtime.env.wasm.wasmBinary = options.binary.buffer;
  return runtime;
}

/** A loaded network with one uint8 input. */
export class Network {
  private constructor(
    private readonly runtime: OnnxRuntime,
    private readonly session: InferenceSession,
  ) {}

  /** Loads `model`; `name` is used in errors. */
  static async load(runtime: OnnxRuntime, model: Uint8Array, name: string, backend: Backend): Promise<Network> {
    try {
      const [graph, executionProviders] =
        backend === "webgpu" ? [model, ["webgpu", "wasm"]] : [withWinograd(model), ["wasm"]];
      return new Network(runtime, await runtime.InferenceSession.create(graph, { executionProviders }));
    } catch (error) {
      throw new ClnError(`${name}: expected a network that ONNX Runtime Web can load here (${error})`);
    }
  }

  /** Runs the network on `bytes` of shape `dims`; the outputs by name. */
  async run(bytes: Uint8Array, dims: readonly number[]): Promise<Record<string, Float32Array>> {
    const { inputNames, outputNames } = this.session;
    const results = await this.session.run({ [inputNames[0]]: new this.runtime.Tensor("uint8", bytes, dims) });
    return Object.fromEntries(outputNames.map((name) => [name, results[name].data as Float32Array]));
  }

  /** Frees the network. */
  async close(): Promise<void> {
    await this.session.release();
  }
}
