/**
 * Makes the page work offline, and gives it the headers that WebAssembly threads need where the host doesn't send them
 * (cross-origin isolation). Large files are kept by the page itself (`download.ts`), in the same cache.
 */
import { cacheName } from "./build";

declare const BUILD_SHELL: readonly string[];

interface ExtendableEvent extends Event {
  waitUntil(promise: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface ServiceWorkerScope extends EventTarget {
  readonly registration: { readonly scope: string };
  readonly clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
}
const scope = globalThis as unknown as ServiceWorkerScope;

const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

scope.addEventListener("install", (event) => {
  const install = async () => {
    const cache = await caches.open(cacheName);
    await cache.addAll(BUILD_SHELL.map((path) => new URL(path, scope.registration.scope).href));
    await scope.skipWaiting();
  };
  (event as ExtendableEvent).waitUntil(install());
});

scope.addEventListener("activate", (event) => {
  const activate = async () => {
    const old = (await caches.keys()).filter((key) => key.startsWith("cln-browser-") && key !== cacheName);
    await Promise.all(old.map((key) => caches.delete(key)));
    await scope.clients.claim();
  };
  (event as ExtendableEvent).waitUntil(activate());
});

scope.addEventListener("fetch", (event) => {
  const { request } = event as FetchEvent;
  const { origin, pathname } = new URL(request.url);
  // Downloads go straight to the host, so that the page sees their progress and their failures.
  if (request.method !== "GET" || origin !== location.origin || pathname.endsWith(".gz")) return;
  (event as FetchEvent).respondWith(respond(request));
});

/** The page itself fresh where the host can be reached; its parts, whose names change with them, from the cache. */
async function respond(request: Request): Promise<Response> {
  const cache = await caches.open(cacheName);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (request.mode !== "navigate" && kept) return isolated(kept);
  try {
    return isolated(await fetch(request));
  } catch (error) {
    if (kept) return isolated(kept);
    throw error;
  }
}

function isolated(response: Response): Response {
  if (response.status === 0 || response.redirected) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(isolation)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
