/**
 * Cross-origin isolation, which WebAssembly threads need: the host's headers give it, or else the service worker does,
 * once it controls the page, which takes one reload on the first visit.
 */

const RELOADED = "cln-reloaded";
const PATIENCE = 3000; // ms

/** Registers the service worker; resolves to false where the page is about to reload. */
export async function isolate(): Promise<boolean> {
  if (!("serviceWorker" in navigator)) return true; // not served securely: one thread, no offline use
  try {
    await navigator.serviceWorker.register("service_worker.js");
    if (globalThis.crossOriginIsolated || sessionStorage.getItem(RELOADED)) return true;
    const ready = navigator.serviceWorker.ready.then(() => true);
    const late = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), PATIENCE));
    if (!(await Promise.race([ready, late]))) return true;
    sessionStorage.setItem(RELOADED, "yes"); // once only: a browser that doesn't isolate must not reload for ever
    location.reload();
    return false;
  } catch {
    return true; // storage or workers are switched off: the page works without
  }
}
