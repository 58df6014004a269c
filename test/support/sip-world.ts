/**
 * One or more real endpoints on a simulated network, and scripted peers beside them.
 */
import { type ErrorCode, GatewayError } from '../../src/core/errors.ts';
import { silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import { Endpoint, type EndpointOptions } from '../../src/sip/endpoint.ts';
import type { Session, SessionEnd } from '../../src/sip/session.ts';
import { ScriptPeer } from './script-peer.ts';
import { SEED, SimClock, SimNetwork, type Weather } from './sim.ts';

export class SipWorld {
  readonly clock: SimClock;
  readonly network: SimNetwork;
  readonly #endpoints: Endpoint[] = [];

  constructor(options: { seed?: number; weather?: Partial<Weather> } = {}) {
    const seed = options.seed ?? SEED;
    this.clock = new SimClock({ seed });
    this.network = new SimNetwork({ clock: this.clock, seed, weather: options.weather ?? {} });
  }

  /** An endpoint that listens on UDP and TCP, port 5060. Strangers are not limited. */
  async endpoint(address: string, options: Partial<EndpointOptions> = {}): Promise<Endpoint> {
    const endpoint = new Endpoint({
      clock: this.clock,
      log: silentLog,
      metrics: new Metrics(),
      userAgent: 'tandem',
      listen: [
        { transport: 'udp', address, port: 5060 },
        { transport: 'tcp', address, port: 5060 },
      ],
      sockets: this.network.host(address),
      ...options,
      policy: { trusts: () => true, ...options.policy },
    });
    await endpoint.start();
    this.#endpoints.push(endpoint);
    return endpoint;
  }

  peer(address: string, port = 5060): Promise<ScriptPeer> {
    return ScriptPeer.create(this.network, address, port);
  }

  async close(): Promise<void> {
    for (const endpoint of this.#endpoints) await endpoint.close();
  }
}

/** A session and all that it said. */
export class Witness {
  readonly session: Session;
  readonly events: string[] = [];
  end: SessionEnd | null = null;
  ends = 0;

  constructor(session: Session) {
    this.session = session;
    session.on('provisional', ({ status, sdp }) => {
      this.events.push(sdp === null ? `${status}` : `${status} ${sdp.length}`);
    });
    session.on('answered', () => this.events.push('answered'));
    session.on('acknowledged', () => this.events.push('acknowledged'));
    session.on('digit', ({ key, durationMs }) => this.events.push(`digit ${key} ${durationMs}`));
    session.on('ended', (end) => {
      this.events.push(`ended ${end.by} ${end.code} ${end.status}`);
      this.end = end;
      this.ends += 1;
    });
  }
}

/** Offers `sdp` within the call; the peer's answer, or what went wrong. */
export function reoffered(session: Session, sdp: string): Promise<{ sdp: string }> {
  return new Promise((resolve, reject) => {
    const done = ({ sdp: answer }: { sdp: string }): void => {
      session.off('reofferFailed', failed);
      resolve({ sdp: answer });
    };
    const failed = ({ status, code }: { status: number; code: ErrorCode }): void => {
      session.off('reoffered', done);
      reject(new GatewayError(code, { status }));
    };
    session.once('reoffered', done);
    session.once('reofferFailed', failed);
    session.reoffer(sdp);
  });
}
