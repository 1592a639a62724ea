/** What `build.mjs` puts in. */
declare const BUILD_VERSION: string;
declare const BUILD_SIZES: Record<string, { bytes: number; compressed: number }>;

/** Changes with every file of the page. */
export const version = BUILD_VERSION;

/** Sizes in bytes of the large files, which are stored compressed. */
export const sizes = BUILD_SIZES;

/** Of the cache that makes the page work offline; the version keeps files of two builds apart. */
export const cacheName = `cln-browser-${BUILD_VERSION}`;
