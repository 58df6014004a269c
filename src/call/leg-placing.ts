/**
 * Placing an outgoing leg: one group of targets after another until one takes the call, rings,
 * answers or refuses for good. Targets of one group are tried at once: the first 2xx wins, the
 * others are cancelled, and of refusals the best counts (RFC 3261 §16.7). Whether the next group is
 * tried is the policy's word (`failover.ts`). The port and its offer are made once and serve every
 * try that speaks the same codecs. After the answer only the end of the session still passes here.
 */
import type { Bus } from '../bus/bus.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import { ANSWERED_ELSEWHERE } from '../sip/cause.ts';
import type { InviteRemains } from '../sip/invite-head.ts';
import type { HeaderField } from '../sip/message.ts';
import { reasonFields } from '../sip/reason.ts';
import type { Session, SessionEnd } from '../sip/session.ts';
import type { Decision } from './decision.ts';
import { bestEnd, isGatewayFault, judgeFailover, restMsOf } from './failover.ts';
import { type LegGroup, type LegOrder, SLOTS } from './leg.ts';
import { Branch, type BranchDeps, type BranchOwner, canceled } from './leg-branch.ts';
import type { Placing } from './leg-options.ts';
import { localEnd } from './leg-signal.ts';
import { RedirectGuard } from './redirect.ts';
import type { SipLeg } from './sip-leg.ts';
import type { StirSignRequest } from './stir.ts';
import type { TraceBook } from './trace.ts';
import type { GatewayReport } from './trunk-health.ts';

export interface PlacingDeps extends BranchDeps {
  readonly log: Log;
  readonly bus: Bus;
  /** INVITEs sent for one leg, over all targets and their addresses. */
  readonly triesMax: number;
  /** How long the router may take to give a place in another trunk's limits. */
  readonly slotTimeoutMs: number;
  /** Told each INVITE's Call-ID, for the call's history. */
  readonly trace: TraceBook;
  /** Signs a caller; absent: nobody is signed. */
  readonly sign?: (request: StirSignRequest) => HeaderField | null;
  /** How a gateway did, whatever the callee said. */
  readonly onGateway: GatewayReport;
}

export class LegPlacing implements BranchOwner, Placing {
  readonly #leg: SipLeg;
  readonly #order: LegOrder;
  readonly #deps: PlacingDeps;
  readonly #groups: LegGroup[];
  readonly #redirects: RedirectGuard;
  #group: LegGroup | null = null;
  #branches: Branch[] = [];
  #winner: Branch | null = null;
  #trunkSid: LegGroup['trunkSid'];
  #tries = 0;
  readonly #deadlineMs: number;
  /** By what of a policy is in it. */
  readonly #offers = new Map<string, Promise<string>>();
  /** How the last group ended: what the leg ends with when none is left. */
  #last: SessionEnd | null = null;
  #hasRung = false;
  /** The branch whose early media is heard. */
  #early: Branch | null = null;

  constructor(leg: SipLeg, order: LegOrder, deps: PlacingDeps) {
    this.#leg = leg;
    this.#order = order;
    this.#deps = deps;
    this.#groups = [...order.groups];
    this.#redirects = new RedirectGuard(order.groups);
    this.#trunkSid = order.groups[0]?.trunkSid ?? null;
    this.#deadlineMs = deps.clock.monotonicMs() + order.ringTimeoutMs;
  }

  start(): void {
    this.#leg.placeWith(this);
    this.#leg.queue(() => this.#next());
  }

  /** The leg was told to end before anybody answered. */
  abort(reason: string, headers: readonly HeaderField[]): SessionEnd | null {
    const isUnderWay = this.#branches.some(({ session }) => session !== null);
    for (const branch of this.#branches) branch.cancel(headers);
    this.#groups.length = 0;
    return isUnderWay ? canceled(reason) : null;
  }

  get remains(): readonly InviteRemains[] {
    return this.#branches.flatMap(({ session }) => session?.remains ?? []);
  }

  // --- For the branches -----------------------------------------------------------------------

  get maxForwards(): number {
    return this.#order.maxForwards;
  }

  leftMs(): number {
    return this.#deadlineMs - this.#deps.clock.monotonicMs();
  }

  mayTry(): boolean {
    if (this.#leg.isEnding || this.leftMs() <= 0 || this.#triesLeft() <= 0) return false;
    this.#tries += 1;
    return true;
  }

  hasMore(): boolean {
    return this.#groups.length > 0 && this.#triesLeft() > 0;
  }

  offerFor({ policy }: LegGroup, peer: string): Promise<string> {
    const { codecs, ptimeMs, srtp, dtmf } = policy;
    const key = [codecs.join(), ptimeMs, srtp, dtmf].join(' ');
    let offer = this.#offers.get(key);
    if (offer === undefined) {
      this.#leg.usePolicy(policy);
      offer = this.#leg.media.offer({ near: this.#order.near, peer });
      // One that was made before is not what an answer would be compared with any more.
      this.#offers.clear();
      this.#offers.set(key, offer);
    }
    return offer;
  }

  /** Anew for each try: a signature is good for a minute (RFC 8224 §4.1 wants Date beside it). */
  identityFields({ stir = null }: LegGroup, to: string): readonly HeaderField[] {
    const { sign, clock } = this.#deps;
    if (stir === null || sign === undefined) return [];
    const { caller: from, attest, numbers } = stir;
    const field = sign({ from, to, numbers, ...(attest === null ? {} : { attest }) });
    if (field === null) {
      this.#note('unsigned', 'the caller is no number of the world, or the key is gone');
      return [];
    }
    return [['Date', new Date(clock.nowMs()).toUTCString()], field];
  }

  onDecided(decisions: readonly Decision[]): void {
    this.#deps.trace.decide(this.#leg.callSid, decisions);
  }

  onSession(branch: Branch, session: Session): void {
    // With several at once only the one that is answered is the leg's.
    if (this.#branches.length === 1) this.#leg.attachSession(session);
    this.#deps.trace.bindSip(session.callId, this.#leg.callSid);
    if (this.#tries > 1) this.#note(`try ${this.#tries}`, branch.target.uri);
  }

  onHeard(): void {
    // Who works on it must be told to stop, should we not live to see it answered.
    this.#leg.onAgreed();
  }

  onProvisional(branch: Branch, status: number, sdp: string | null): void {
    this.#leg.queue(() => this.#provisional(branch, status, sdp));
  }

  onAnswered(branch: Branch, sdp: string, headers: readonly HeaderField[]): void {
    this.#tell(branch, true, 'answered');
    // The others end now: what they answer from here on is ended by their sessions (§16.7).
    if (this.#winner === null) {
      this.#winner = branch;
      for (const other of this.#branches) if (other !== branch) other.cancel(ELSEWHERE);
    }
    this.#leg.queue(() => this.#answered(branch, sdp, headers));
  }

  onEnded(branch: Branch, end: SessionEnd): void {
    const leg = this.#leg;
    if (this.#winner === branch) {
      leg.end(end);
      return;
    }
    if (!(end.by === 'local' || end.code === 'CALL_NO_ANSWER')) {
      const reason = `${end.status} ${end.reason}`.trim();
      this.#tell(branch, !isGatewayFault(end), reason, restMsOf(end));
    }
    // RFC 3261 §16.7 step 5: a 6xx is the word of all.
    if (end.status >= 600) for (const other of this.#branches) other.cancel();
    if (this.#winner !== null || this.#branches.some((other) => other.end === null)) return;
    this.#groupEnded();
  }

  // --- Groups ---------------------------------------------------------------------------------

  /** One group; comes back only when it failed and there is another. */
  async #next(): Promise<void> {
    const leg = this.#leg;
    const group = await this.#nextGroup();
    if (leg.isEnding) return;
    if (group === null || this.leftMs() <= 0 || this.#triesLeft() <= 0) {
      leg.end(this.#last ?? localEnd('CALL_NO_ANSWER', ''));
      return;
    }
    this.#group = group;
    leg.trunkSid = group.trunkSid;
    this.#early = null;
    this.#branches = group.targets.map((target) => new Branch(target, group, this, this.#deps));
    // All of them are there before the first can fail.
    for (const branch of [...this.#branches]) {
      branch.start().catch((thrown: unknown) => leg.fail(thrown));
    }
  }

  /** The next whose trunk has room; null when there is none left. */
  async #nextGroup(): Promise<LegGroup | null> {
    for (;;) {
      const group = this.#groups.shift();
      if (group === undefined) return null;
      const { trunkSid } = group;
      if (trunkSid === null || trunkSid === this.#trunkSid) return group;
      if (await this.#moveTo(trunkSid)) return group;
      this.#last ??= localEnd('TRUNK_LIMIT', `no room in trunk ${trunkSid}`);
    }
  }

  async #moveTo(trunkSid: NonNullable<LegGroup['trunkSid']>): Promise<boolean> {
    const { bus, slotTimeoutMs: timeoutMs } = this.#deps;
    const { callSid } = this.#leg;
    try {
      const { isGranted } = await bus.request(SLOTS, { callSid, trunkSid }, { timeoutMs });
      if (isGranted) this.#trunkSid = trunkSid;
      return isGranted;
    } catch (thrown) {
      const { code } = asGatewayError(thrown);
      this.#deps.log.warn({ callSid, trunkSid, code }, 'no word on a trunk’s limits');
      return false;
    }
  }

  #groupEnded(): void {
    const leg = this.#leg;
    const ends = this.#branches.flatMap(({ end }) => (end === null ? [] : [end]));
    const end = bestEnd(ends) ?? localEnd('CALL_NO_ANSWER', '');
    this.#last = end;
    if (leg.isEnding) {
      leg.end(end);
      return;
    }
    const failover = this.#group?.failover;
    const judged = failover === undefined ? null : judgeFailover(end, failover);
    const isMoved = this.#redirected(end);
    const isFailed = judged?.isNext === true && this.#groups.length > 0;
    const isNext = (isMoved || isFailed) && leg.phase === 'early';
    if (!isNext || this.leftMs() <= 0 || this.#triesLeft() <= 0) {
      leg.end(end);
      return;
    }
    if (!isMoved) this.#note(`gateway failed: ${judged?.why}`, this.#branches[0]?.target.uri ?? '');
    leg.betweenSessions();
    this.#branches = [];
    leg.queue(() => this.#next());
  }

  /** RFC 3261 §8.1.3.4: the places that a 3xx names come before all others. */
  #redirected(end: SessionEnd): boolean {
    const from = this.#branches.find((branch) => branch.end === end)?.target;
    const group = this.#group;
    if (group === null || from === undefined || Math.floor(end.status / 100) !== 3) return false;
    const { groups, why } = this.#redirects.follow(end, group, from);
    if (why !== '') this.#note(why, from.uri);
    this.#groups.unshift(...groups);
    return groups.length > 0;
  }

  #triesLeft(): number {
    const own = this.#group?.failover.triesMax ?? this.#deps.triesMax;
    return Math.min(own, this.#deps.triesMax) - this.#tries;
  }

  // --- Answers --------------------------------------------------------------------------------

  #provisional(branch: Branch, status: number, sdp: string | null): void {
    const leg = this.#leg;
    if (leg.isEnding || leg.phase !== 'early' || branch.end !== null) return;
    let isNewMedia = false;
    // One voice at a time: of a fork the first that has any.
    if (sdp !== null && sdp !== '' && (this.#early === null || this.#early === branch)) {
      const isUsed = this.#acceptEarly(sdp);
      isNewMedia = isUsed && this.#early === null;
      if (isUsed) this.#early = branch;
    }
    const isNews = !this.#hasRung || isNewMedia;
    this.#hasRung = true;
    if (isNews && !leg.isEnding) leg.rings(status, isNewMedia);
  }

  #acceptEarly(sdp: string): boolean {
    try {
      this.#accept(sdp, false);
      return true;
    } catch (thrown) {
      // Early media we cannot use is no reason to give the call up; the answer may be better.
      const { code } = asGatewayError(thrown);
      this.#deps.log.info({ callSid: this.#leg.callSid, code }, 'early media not usable');
      return false;
    }
  }

  #answered(branch: Branch, sdp: string, headers: readonly HeaderField[]): void {
    const leg = this.#leg;
    if (leg.isEnding || this.#winner !== branch) return;
    if (this.#branches.length > 1 && branch.session !== null) leg.attachSession(branch.session);
    // A 2xx may leave out what a provisional answer said already (RFC 3261 §13.2.1).
    const description = sdp === '' ? branch.earlySdp : sdp;
    if (description !== '') this.#accept(description, true);
    else throw new GatewayError('SDP_MALFORMED', { problem: 'the answer has no description' });
    leg.answered(headers);
  }

  /** Does not wait for the port: whatever is asked of it from now on comes after this. */
  #accept(sdp: string, isFinal: boolean): void {
    this.#leg.media.accept(sdp, isFinal).catch((thrown: unknown) => this.#leg.fail(thrown));
  }

  #tell(branch: Branch, isGood: boolean, reason: string, restMs = 0): void {
    const { gateway } = branch.target;
    const trunkSid = this.#group?.trunkSid ?? null;
    if (gateway === undefined || trunkSid === null) return;
    this.#deps.onGateway({ trunkSid, uri: gateway }, isGood, reason, restMs);
  }

  #note(text: string, detail: string): void {
    this.#deps.trace.add(this.#leg.callSid, 'call', text, detail);
  }
}

/** RFC 3326 §2: a phone that is told so does not count a missed call. */
const ELSEWHERE = reasonFields([ANSWERED_ELSEWHERE]);
