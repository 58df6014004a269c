/**
 * Placing an outgoing leg: one INVITE after another until a target takes the call, rings, answers
 * or refuses (RFC 3263 §4.3: the next one only when a target cannot be reached or says 503).
 * The port and its offer are made once and serve every try. After the answer only the end of the
 * session still passes here.
 *
 * A dialled URI is resolved here and its address judged as bytes before anything is sent; what was
 * judged is what is used. Gateways of configured trunks are trusted to be where they are.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import { type Log, Secret } from '../core/log.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import { type HeaderField, parseUri, type SipUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { Egress } from './egress.ts';
import type { LegOrder, LegTarget } from './leg.ts';
import { localEnd } from './leg-signal.ts';
import type { SipLeg } from './sip-leg.ts';

export interface PlacingDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly endpoint: Endpoint;
  readonly resolve: (uri: SipUri) => Promise<readonly ResolvedPeer[]>;
  readonly egress: Egress;
  /** INVITEs sent for one leg, over all targets and their addresses. */
  readonly triesMax: number;
  /** Each INVITE's Call-ID, for the call's history. */
  readonly onSession: (sipCallId: string) => void;
}

/** An address; `eitherTransport` when its URI named none, so that a large request may go by TCP. */
export type ResolvedPeer = PeerAddress & { readonly eitherTransport?: boolean };

interface Try {
  readonly uri: string;
  readonly peer: ResolvedPeer | null;
}

export class LegPlacing {
  readonly #leg: SipLeg;
  readonly #order: LegOrder;
  readonly #deps: PlacingDeps;
  readonly #targets: LegTarget[];
  #tries: Try[] = [];
  #triesLeft: number;
  readonly #deadlineMs: number;
  #offer = '';
  /** How the last try ended: what the leg ends with when none is left. */
  #last: SessionEnd | null = null;
  #hasRung = false;
  #hasEarlyMedia = false;

  constructor(leg: SipLeg, order: LegOrder, deps: PlacingDeps) {
    this.#leg = leg;
    this.#order = order;
    this.#deps = deps;
    this.#targets = [...order.targets];
    this.#triesLeft = deps.triesMax;
    this.#deadlineMs = deps.clock.monotonicMs() + order.ringTimeoutMs;
  }

  start(): void {
    this.#leg.queue(() => this.#next());
  }

  /** One try; comes back only when it failed and there is another. */
  async #next(): Promise<void> {
    const leg = this.#leg;
    if (leg.isEnding) return;
    const target = await this.#nextTry();
    if (leg.isEnding) return;
    const leftMs = this.#deadlineMs - this.#deps.clock.monotonicMs();
    if (target === null || leftMs <= 0 || this.#triesLeft <= 0) {
      leg.end(this.#last ?? localEnd('CALL_NO_ANSWER', ''));
      return;
    }
    this.#triesLeft -= 1;
    if (this.#offer === '') {
      const { near } = this.#order;
      this.#offer = await leg.media.offer({ near, peer: target.peer?.address ?? '' });
    }
    if (leg.isEnding) return;
    const { fromUri, fromDisplay, headers, credentials, maxForwards } = this.#order;
    const session = this.#deps.endpoint.invite({
      uri: target.uri,
      from: fromDisplay === '' ? { uri: fromUri } : { uri: fromUri, display: fromDisplay },
      headers,
      sdp: this.#offer,
      ringTimeoutMs: leftMs,
      maxForwards,
      ...(target.peer === null ? {} : { target: target.peer }),
      ...(credentials === null ? {} : { credentials: secretOf(credentials) }),
    });
    this.#listen(session);
    leg.attachSession(session);
    this.#deps.onSession(session.callId);
  }

  #listen(session: Session): void {
    const leg = this.#leg;
    session.on('provisional', ({ status, sdp }) => {
      if (status > 100) leg.queue(() => this.#onProvisional(status, sdp));
    });
    session.on('answered', ({ sdp, headers }) => {
      leg.queue(() => this.#onAnswered(sdp, headers));
    });
    session.on('ended', (end) => this.#onEnded(end));
  }

  #onProvisional(status: number, sdp: string | null): void {
    const leg = this.#leg;
    if (leg.isEnding || leg.phase !== 'early') return;
    let hasMedia = false;
    if (sdp !== null && sdp !== '') {
      try {
        this.#accept(sdp, false);
        hasMedia = true;
      } catch (thrown) {
        // Early media we cannot use is no reason to give the call up; the answer may be better.
        const { code } = asGatewayError(thrown);
        this.#deps.log.info({ callSid: leg.callSid, code }, 'early media not usable');
      }
    }
    const isNews = !this.#hasRung || (hasMedia && !this.#hasEarlyMedia);
    this.#hasRung = true;
    this.#hasEarlyMedia ||= hasMedia;
    if (isNews && !leg.isEnding) leg.rings(status, hasMedia);
  }

  #onAnswered(sdp: string, headers: readonly HeaderField[]): void {
    const leg = this.#leg;
    if (leg.isEnding) return;
    // A 2xx may leave out what a provisional answer said already (RFC 3261 §13.2.1).
    if (sdp !== '') this.#accept(sdp, true);
    else if (!this.#hasEarlyMedia) {
      throw new GatewayError('SDP_MALFORMED', { problem: 'the answer has no description' });
    }
    leg.answered(headers);
  }

  /** Does not wait for the port: whatever is asked of it from now on comes after this. */
  #accept(sdp: string, isFinal: boolean): void {
    this.#leg.media.accept(sdp, isFinal).catch((thrown: unknown) => this.#leg.fail(thrown));
  }

  #onEnded(end: SessionEnd): void {
    const leg = this.#leg;
    this.#last = end;
    const isUnreached = end.by === 'transport' || end.by === 'timeout' || end.status === 503;
    const hasMore = this.#tries.length > 0 || this.#targets.length > 0;
    const mayGoOn = leg.phase === 'early' && !leg.isEnding && !this.#hasRung;
    if (!(mayGoOn && isUnreached && hasMore) || end.code === 'CALL_NO_ANSWER') {
      leg.end(end);
      return;
    }
    leg.betweenSessions();
    leg.queue(() => this.#next());
  }

  /** The next address to try; null when there is none left. */
  async #nextTry(): Promise<Try | null> {
    while (this.#tries.length === 0) {
      const target = this.#targets.shift();
      if (target === undefined) return null;
      try {
        this.#tries = await this.#resolve(target);
      } catch (thrown) {
        const error = asGatewayError(thrown);
        const { callSid } = this.#leg;
        this.#deps.log.info({ callSid, code: error.code }, 'target not usable');
        this.#last = localEnd(error.code, error.message);
      }
    }
    return this.#tries.shift() ?? null;
  }

  async #resolve(target: LegTarget): Promise<Try[]> {
    const { uri, peer, trusted } = target;
    if (peer !== null) return [{ uri, peer }];
    const found = await this.#deps.resolve(parseUri(uri));
    const { egress } = this.#deps;
    if (trusted) for (const { address } of found) egress.addGateway(address);
    const usable = found.filter((one) => trusted || egress.permits(one.address));
    if (usable.length === 0) throw new GatewayError('DIAL_ADDRESS_REFUSED', { uri });
    return usable.map((one) => ({ uri, peer: one }));
  }
}

function secretOf(credentials: NonNullable<LegOrder['credentials']>): {
  username: string;
  password: Secret;
  realm?: string;
} {
  const { username, password, realm } = credentials;
  const plain = { username, password: new Secret(password) };
  return realm === null ? plain : { ...plain, realm };
}
