/** Means of what frames took, about twice a second. */

const PERIOD = 500; // ms

export class Rates {
  private since = performance.now();
  private count = 0;
  private sums: Record<string, number> = {};

  add(times: Record<string, number>): void {
    this.count += 1;
    for (const [step, time] of Object.entries(times)) this.sums[step] = (this.sums[step] ?? 0) + time;
  }

  due(): boolean {
    return performance.now() - this.since >= PERIOD;
  }

  /** Milliseconds of each step, and frames a second, since the last time. */
  take(): Record<string, number> {
    const seconds = (performance.now() - this.since) / 1000;
    const means = Object.entries(this.sums).map(([step, sum]) => [step, sum / this.count]);
    const taken = { ...Object.fromEntries(means), frames: this.count / seconds };
    this.since = performance.now();
    this.count = 0;
    this.sums = {};
    return taken;
  }
}
