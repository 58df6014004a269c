/**
 * How well calls were heard: the figures of a leg's port, as they were when the call ended, go into
 * histograms of all calls and, in words, to the end of that call's own trace. Never a label per
 * call. Not the figures themselves: the media worker counts them (RFC 3550 §6.4, appendix A).
 */
import type { CallDirection } from '../call/call-record.ts';
import type { CallNotice } from '../call/router.ts';
import type { TraceBook } from '../call/trace.ts';
import type { Metrics } from '../core/metrics.ts';
import type { PortStats } from '../media/binding.ts';

export class MediaQuality {
  readonly #trace: TraceBook;
  readonly #loss;
  readonly #jitter;
  readonly #roundTrip;

  constructor({ metrics, trace }: { metrics: Metrics; trace: TraceBook }) {
    this.#trace = trace;
    this.#loss = metrics.histogram(
      'tandem_media_loss_ratio',
      'RTP packets lost, of those expected, by ended call: on the way to us; on the way to the peer, in its last report',
      [0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5],
      ['way', 'direction'],
    );
    this.#jitter = metrics.histogram(
      'tandem_media_jitter_seconds',
      'Interarrival jitter of received RTP at the end of a call',
      [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2],
      ['direction'],
    );
    this.#roundTrip = metrics.histogram(
      'tandem_media_round_trip_seconds',
      'Last round trip that RTCP told of an ended call',
      [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2],
      ['direction'],
    );
  }

  /** To be told before the trace is stored. A call without audio leaves no mark. */
  take({ type, call }: CallNotice): void {
    const stats = call.end?.stats ?? null;
    if (type !== 'call.completed' || stats === null) return;
    if (stats.packetsReceived === 0 && stats.packetsSent === 0) return;
    this.#observe(stats, call.direction);
    this.#trace.add(call.sid, 'call', 'media', describe(stats));
  }

  #observe(stats: PortStats, direction: CallDirection): void {
    if (stats.packetsReceived > 0) {
      this.#loss.observe({ way: 'in', direction }, lossOf(stats));
      this.#jitter.observe({ direction }, stats.jitterMs / 1000);
    }
    if (stats.roundTripMs < 0) return;
    this.#loss.observe({ way: 'out', direction }, stats.remoteLossFraction);
    this.#roundTrip.observe({ direction }, stats.roundTripMs / 1000);
  }
}

function lossOf({ packetsLost, packetsReceived }: PortStats): number {
  return packetsLost / (packetsLost + packetsReceived);
}

function describe(stats: PortStats): string {
  const { packetsReceived, packetsLost, packetsSent, jitterMs, roundTripMs } = stats;
  const parts = [`received ${packetsReceived}`];
  if (packetsReceived > 0) {
    parts.push(
      `lost ${packetsLost} (${percent(lossOf(stats))})`,
      `jitter ${jitterMs.toFixed(1)} ms`,
    );
  }
  parts.push(`sent ${packetsSent}`);
  // The peer told nothing: neither that all arrived nor that it did not.
  if (roundTripMs < 0) parts.push('no report of the peer');
  else {
    const lost = percent(stats.remoteLossFraction);
    parts.push(`peer lost ${lost}`, `round trip ${roundTripMs.toFixed(1)} ms`);
  }
  return parts.join(', ');
}

function percent(ratio: number): string {
  return `${(ratio * 100).toFixed(1)} %`;
}
