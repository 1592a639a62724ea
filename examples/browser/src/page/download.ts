/** Downloads the large files, compressed, with progress; keeps them unpacked in the browser's cache for the next time. */
import { ClnError } from "../cln";
import { cacheName, sizes } from "./build";

export class Downloads {
  private readonly received = new Map<string, number>();
  private readonly wanted = new Map<string, number>();

  /** `progress` is told the bytes received and wanted of all files so far. */
  constructor(private readonly progress: (received: number, wanted: number) => void) {}

  /** The file at `url`, unpacked, from the cache or from `url` + ".gz"; a `ClnError` where it can't be had whole. */
  readonly read = async (url: URL): Promise<Uint8Array<ArrayBuffer>> => {
    const name = url.pathname.split("/").at(-1) ?? "";
    const size = sizes[name];
    if (!size) throw new ClnError(`${name}: expected one of the files of this build: ${Object.keys(sizes).join(", ")}`);
    // Absent where the page is not served securely.
    const cache = await globalThis.caches?.open(cacheName).catch(() => undefined);
    const kept = await cache?.match(url);
    if (kept) return new Uint8Array(await kept.arrayBuffer());
    this.wanted.set(name, size.compressed);
    const data = await unpack(await this.fetchAll(new URL(`${url.href}.gz`), name), name);
    if (data.length !== size.bytes) {
      throw new ClnError(
        `${name}: expected ${size.bytes} bytes, got ${data.length}; reload the page to download it again`,
      );
    }
    await cache?.put(url, new Response(data)).catch(() => undefined); // a full disk is no reason to stop
    return data;
  };

  private async fetchAll(url: URL, name: string): Promise<Uint8Array<ArrayBuffer>> {
    const parts: Uint8Array<ArrayBuffer>[] = [];
    let length = 0;
    try {
      const response = await fetch(url);
      if (!response.ok || !response.body) throw new Error(`HTTP ${response.status}`);
      const reader = response.body.getReader();
      for (let step = await reader.read(); !step.done; step = await reader.read()) {
        parts.push(step.value);
        length += step.value.length;
        this.received.set(name, length);
        this.report();
      }
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new ClnError(`The download of ${name} was interrupted after ${megabytes(length)} (${reason}).`);
    }
    const whole = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  private report(): void {
    const sum = (counts: Map<string, number>) => [...counts.values()].reduce((total, count) => total + count, 0);
    this.progress(Math.min(sum(this.received), sum(this.wanted)), sum(this.wanted));
  }
}

/** `data` without its gzip layer; a host that announces the layer to the browser has had it removed already. */
async function unpack(data: Uint8Array<ArrayBuffer>, name: string): Promise<Uint8Array<ArrayBuffer>> {
  if (!(data[0] === 0x1f && data[1] === 0x8b)) return data;
  try {
    const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new ClnError(`The download of ${name} is damaged: ${megabytes(data.length)} that can't be unpacked.`);
  }
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
