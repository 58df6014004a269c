/**
 * One branch of an outgoing leg: one target, and the addresses its name leads to, tried one after
 * another until one takes the call (RFC 3263 §4.3: the next only when one cannot be reached or
 * says 503). What a refusal means for other targets is `leg-placing.ts`'s.
 *
 * Where a URI leads is judged before anything is sent (`reach.ts`); what was judged is used.
 */
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, type ErrorCode } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import type { Endpoint } from '../sip/endpoint.ts';
import type { HeaderField } from '../sip/message.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { ProvisionalReport } from '../sip/session-report.ts';
import { type Decision, Decisions } from './decision.ts';
import type { LegGroup, LegTarget } from './leg.ts';
import type { Reach, ResolvedPeer } from './reach.ts';

export interface BranchDeps {
  readonly clock: Clock;
  readonly endpoint: Endpoint;
  readonly reach: Reach;
}

/** What the leg that is placed has to say, and to hear. */
export interface BranchOwner {
  /** Until the leg has rung long enough. */
  leftMs(): number;
  readonly maxForwards: number;
  /** One more INVITE may be sent; counts it. */
  mayTry(): boolean;
  /** There is something else to try should this branch fail. */
  hasMore(): boolean;
  offerFor(group: LegGroup, peer: string): Promise<string>;
  /** Date and Identity of an INVITE to `to`; none where the caller is not signed. */
  identityFields(group: LegGroup, to: string): readonly HeaderField[];
  /** Why a target cannot be reached from here. */
  onDecided(decisions: readonly Decision[]): void;
  onSession(branch: Branch, session: Session): void;
  /** The INVITE has arrived. */
  onHeard(): void;
  onProvisional(branch: Branch, status: number, sdp: string | null): void;
  onAnswered(branch: Branch, sdp: string, headers: readonly HeaderField[]): void;
  /** This branch reaches nobody; or, once answered, its call is over. */
  onEnded(branch: Branch, end: SessionEnd): void;
}

export class Branch {
  readonly target: LegTarget;
  readonly #group: LegGroup;
  readonly #owner: BranchOwner;
  readonly #deps: BranchDeps;
  #session: Session | null = null;
  #peers: (ResolvedPeer | null)[] = [];
  #end: SessionEnd | null = null;
  /** The present session's last description before its answer. */
  #earlySdp = '';
  /** It has a description and says that there is nothing to hear. */
  #isSilent = false;
  #isAnswered = false;
  #hasProvisional = false;
  #silence: Timer | null = null;

  constructor(target: LegTarget, group: LegGroup, owner: BranchOwner, deps: BranchDeps) {
    this.target = target;
    this.#group = group;
    this.#owner = owner;
    this.#deps = deps;
  }

  get session(): Session | null {
    return this.#session;
  }

  get earlySdp(): string {
    return this.#earlySdp;
  }

  /** How it ended; null while it may still answer, and while it stands. */
  get end(): SessionEnd | null {
    return this.#end;
  }

  /** Anybody there has said anything. */
  get hasProvisional(): boolean {
    return this.#hasProvisional;
  }

  /** More addresses of this target could be tried. */
  get hasMore(): boolean {
    return this.#peers.length > 0;
  }

  async start(): Promise<void> {
    const decisions = new Decisions();
    try {
      this.#peers = [...(await this.#deps.reach.find(this.target, decisions))];
    } catch (thrown) {
      this.#owner.onDecided(decisions.list);
      const { code, message, row } = asGatewayError(thrown);
      this.#finish(unreached(code, row.sip, message));
      return;
    }
    await this.#next();
  }

  /** Another branch has won, or nobody wants the call any more. Nothing is told from here on. */
  cancel(headers: readonly HeaderField[] = []): void {
    this.#silence?.cancel();
    if (this.#end !== null) return;
    this.#end = canceled('');
    this.#session?.hangup({ headers });
  }

  async #next(): Promise<void> {
    const peer = this.#peers.shift();
    if (peer === undefined || this.#end !== null) return;
    if (!this.#owner.mayTry()) {
      this.#finish(unreached('CALL_NO_ANSWER', 408, ''));
      return;
    }
    try {
      const sdp = await this.#owner.offerFor(this.#group, peer?.address ?? '');
      if (this.#end === null) this.#invite(peer, sdp);
    } catch (thrown) {
      // Without a port no other target would fare better.
      const { code, message, row } = asGatewayError(thrown);
      this.#finish({ ...unreached(code, row.sip, message), by: 'local' });
    }
  }

  #invite(peer: ResolvedPeer | null, sdp: string): void {
    const { fromUri, fromDisplay, headers, credentials, policy } = this.#group;
    const { reliable, sessionTimer, refer } = policy;
    const { uri, route = [] } = this.target;
    const routes = route.map((value): HeaderField => ['Route', value]);
    this.#hasProvisional = false;
    this.#earlySdp = '';
    this.#isSilent = false;
    const session = this.#deps.endpoint.invite({
      uri,
      from: fromDisplay === '' ? { uri: fromUri } : { uri: fromUri, display: fromDisplay },
      headers: [...routes, ...this.#owner.identityFields(this.#group, uri), ...headers],
      sdp,
      ringTimeoutMs: this.#owner.leftMs(),
      maxForwards: this.#owner.maxForwards,
      ...{ reliable, sessionTimer, refer },
      ...(peer === null ? {} : { target: peer }),
      ...(credentials === null ? {} : { credentials: secretOf(credentials) }),
    });
    this.#session = session;
    this.#watchSilence(session);
    session.on('trying', () => this.#heard());
    session.on('provisional', (report) => {
      this.#heard();
      if (this.#end === null && session === this.#session) this.#onProvisional(report);
    });
    session.on('answered', ({ sdp: answer, headers: fields }) => {
      this.#heard();
      if (this.#end !== null || session !== this.#session) return;
      this.#isAnswered = true;
      this.#owner.onAnswered(this, answer, fields);
    });
    session.on('ended', (end) => this.#onEnded(session, end));
    this.#owner.onSession(this, session);
  }

  /**
   * A description counts as early media unless the peer says that it sends none, or none yet (RFC
   * 5009 §5.3); what was said before counts as soon as it does.
   */
  #onProvisional({ status, sdp, earlyMedia }: ProvisionalReport): void {
    if (sdp !== null && sdp !== '') this.#earlySdp = sdp;
    const isSilent = earlyMedia?.direction === 'inactive' || earlyMedia?.direction === 'recvonly';
    const opens = this.#isSilent && !isSilent && earlyMedia !== null;
    if (earlyMedia !== null) this.#isSilent = isSilent;
    const heard = opens ? this.#earlySdp : sdp;
    if (status > 100) this.#owner.onProvisional(this, status, this.#isSilent ? null : heard);
  }

  /**
   * Who says nothing at all, not even 100, is dead long before Timer B would tell (§17.1.1.2). A
   * trunk's limit says when another gateway may do better, and may be as short as that one is
   * quick; an address that was dialled has only itself, and its limit is its end.
   */
  #watchSilence(session: Session): void {
    const { noProvisionalMs } = this.#group.failover;
    this.#silence?.cancel();
    if (noProvisionalMs === 0) return;
    this.#silence = this.#deps.clock.timer(noProvisionalMs, () => {
      if (this.#end !== null || session !== this.#session) return;
      const isLast = !this.hasMore && !this.#owner.hasMore();
      if (isLast && this.#group.trunkSid !== null) return;
      const reason = `no provisional response in ${noProvisionalMs} ms`;
      this.#session = null;
      session.hangup();
      this.#fail({ ...endOf('SIP_TIMEOUT', 408, reason), by: 'timeout' });
    });
  }

  #heard(): void {
    if (!this.#hasProvisional) this.#owner.onHeard();
    this.#hasProvisional = true;
    this.#silence?.cancel();
  }

  #onEnded(session: Session, end: SessionEnd): void {
    if (this.#end !== null || session !== this.#session) return;
    this.#silence?.cancel();
    if (this.#isAnswered) this.#finish(end);
    else this.#fail(end);
  }

  /** RFC 3263 §4.3; what any other answer is good for is the owner's to say. */
  #fail(end: SessionEnd): void {
    const isUnreached = end.by === 'timeout' || end.by === 'transport' || end.status === 503;
    const isTooLate = end.code === 'CALL_NO_ANSWER';
    if (isUnreached && !isTooLate && this.hasMore && this.#owner.leftMs() > 0) void this.#next();
    else this.#finish(end);
  }

  #finish(end: SessionEnd): void {
    if (this.#end !== null) return;
    this.#end = end;
    this.#owner.onEnded(this, end);
  }
}

function unreached(code: ErrorCode, status: number, reason: string): SessionEnd {
  return { ...endOf(code, Math.max(status, 400), reason), by: 'transport' };
}

/** How a session ends that we gave up. */
export function canceled(reason: string): SessionEnd {
  return { ...endOf('CALL_CANCELED', 487, reason), by: 'local' };
}

function endOf(code: ErrorCode, status: number, reason: string): Omit<SessionEnd, 'by'> {
  return { code, status, reason, reasonHeader: [], headers: [] };
}

function secretOf(credentials: NonNullable<LegGroup['credentials']>): {
  username: string;
  password: Secret;
  realm?: string;
} {
  const { username, password, realm } = credentials;
  const plain = { username, password: new Secret(password) };
  return realm === null ? plain : { ...plain, realm };
}
