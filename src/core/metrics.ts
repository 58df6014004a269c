/**
 * Counters and histograms of this process, in Prometheus' text form. Each instance has its own
 * registry, so that two gateways in one test do not add up. Not per-call data: labels are closed
 * sets.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export class Metrics {
  readonly registry = new Registry();

  /** Adds the process' own figures (CPU, memory, event loop). Once per process. */
  collectProcess(): void {
    // Every 10 ms, as it would by itself, costs an idle node 1 % of a core.
    collectDefaultMetrics({ register: this.registry, eventLoopMonitoringPrecision: 100 });
  }

  counter<L extends string>(name: string, help: string, labelNames: readonly L[] = []): Counter<L> {
    return new Counter({ name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  /** `collect` is called at each scrape and returns the present value. */
  gauge(name: string, help: string, collect: () => number): Gauge {
    return new Gauge({
      name,
      help,
      registers: [this.registry],
      collect() {
        this.set(collect());
      },
    });
  }

  /** One figure for each value of a label, all told by one `collect`. */
  gauges<L extends string>(
    name: string,
    help: string,
    label: L,
    collect: () => Iterable<readonly [value: string, figure: number]>,
  ): Gauge<L> {
    return new Gauge({
      name,
      help,
      labelNames: [label],
      registers: [this.registry],
      collect() {
        for (const [value, figure] of collect()) this.set({ [label]: value } as never, figure);
      },
    });
  }

  histogram<L extends string>(
    name: string,
    help: string,
    buckets: readonly number[],
    labelNames: readonly L[] = [],
  ): Histogram<L> {
    return new Histogram({
      name,
      help,
      buckets: [...buckets],
      labelNames: [...labelNames],
      registers: [this.registry],
    });
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}
