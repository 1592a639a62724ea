/** Anything that the library refuses: the message says what was expected, what came and what to do. */
export class ClnError extends Error {
  override name = "ClnError";
}
