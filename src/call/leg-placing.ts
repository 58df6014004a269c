/**
 * Placing an outgoing leg: one INVITE after another until a target takes the call, rings, answers
 * or refuses (RFC 3263 §4.3: the next one only when a target cannot be reached or says 503).
 * The port and its offer are made once and serve every try. After the answer only the end of the
 * session still passes here.
 *
 * A dialled URI is resolved here and its address judged as bytes before anything is sent; what was
 * judged is what is used. Gateways of configured trunks are trusted to be where they are.
 */
import type { AddressGuard } from '../core/address.ts';
import type { Clock } from '../core/clock.ts';
import { asGatewayError, type ErrorCode, GatewayError } from '../core/errors.ts';
import { type Log, Secret } from '../core/log.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import { type HeaderField, parseUri, type SipUri } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { LegOrder, LegTarget } from './leg.ts';
import { refusalStatus } from './leg-signal.ts';
import type { SipLeg } from './sip-leg.ts';

export interface PlacingDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly endpoint: Endpoint;
  readonly resolve: (uri: SipUri) => Promise<readonly PeerAddress[]>;
  readonly guard: AddressGuard;
  /** INVITEs sent for one leg, over all targets and their addresses. */
  readonly triesMax: number;
  /** Each INVITE's Call-ID, for the call's history. */
  readonly onSession: (sipCallId: string) => void;
}

interface Try {
  readonly uri: string;
  readonly peer: PeerAddress | null;
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
      leg.end(this.#last ?? endOf('CALL_NO_ANSWER'));
      return;
    }
    this.#triesLeft -= 1;
    if (this.#offer === '') this.#offer = await leg.media.offer(this.#order.near);
    if (leg.isEnding) return;
    const { fromUri, fromDisplay, headers, credentials } = this.#order;
    const session = this.#deps.endpoint.invite({
      uri: target.uri,
      from: fromDisplay === '' ? { uri: fromUri } : { uri: fromUri, display: fromDisplay },
      headers: [...headers] as HeaderField[],
      sdp: this.#offer,
      ringTimeoutMs: leftMs,
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

  async #onProvisional(status: number, sdp: string | null): Promise<void> {
    const leg = this.#leg;
    if (leg.isEnding || leg.phase !== 'early') return;
    let hasMedia = false;
    if (sdp !== null && sdp !== '') {
      try {
        await leg.media.accept(sdp, false);
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

  async #onAnswered(sdp: string, headers: readonly HeaderField[]): Promise<void> {
    const leg = this.#leg;
    if (leg.isEnding) return;
    // A 2xx may leave out what a provisional answer said already (RFC 3261 §13.2.1).
    if (sdp !== '') await leg.media.accept(sdp, true);
    else if (!this.#hasEarlyMedia) {
      throw new GatewayError('SDP_MALFORMED', { problem: 'the answer has no description' });
    }
    leg.answered(headers);
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
        this.#last = endOf(error.code, error.message);
      }
    }
    return this.#tries.shift() ?? null;
  }

  async #resolve(target: LegTarget): Promise<Try[]> {
    const { uri, peer, trusted } = target;
    if (peer !== null) return [{ uri, peer }];
    const found = await this.#deps.resolve(parseUri(uri));
    const usable = found.filter((one) => trusted || this.#deps.guard.permits(one.address));
    if (usable.length === 0) throw new GatewayError('DIAL_ADDRESS_REFUSED', { uri });
    return usable.map((one) => ({ uri, peer: one }));
  }
}

function endOf(code: ErrorCode, reason = ''): SessionEnd {
  return { by: 'local', code, status: refusalStatus(code), reason, headers: [] };
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
