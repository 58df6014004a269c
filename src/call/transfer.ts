/**
 * Transfers between calls: the call that a REFER asks for is placed beside the partner of the one
 * who asks, and the two are joined when it is answered; the transferor is told how it goes and
 * leaves. Until then nothing changes: when it fails, the two are as before. With Replaces that
 * names a call of ours, two partners are joined and nobody is called. RFC 3515, 3891, 5589.
 *
 * Who is joined with whom is in the calls' records (`transferredTo`, `endsWith`), so it holds after
 * a restart; only the telling of an open transfer is lost with this object.
 */
import type { Bus, Subscription } from '../bus/bus.ts';
import { asGatewayError, GatewayError } from '../core/errors.ts';
import type { Log } from '../core/log.ts';
import type { CallSid, TrunkSid } from '../core/sid.ts';
import { parseUri } from '../sip/message.ts';
import type { TrunkTransfers } from '../store/store.ts';
import { Bridge } from './bridge.ts';
import type { Call } from './call.ts';
import type { CallRecord } from './call-record.ts';
import { Decisions } from './decision.ts';
import type { Inbound } from './inbound.ts';
import { type LegOffer, legSubject } from './leg.ts';
import type { DialRequest } from './route.ts';
import type { CallNotice } from './router.ts';
import type { JoinFailure } from './transfer-join.ts';
import {
  type LegReferral,
  REFERRALS,
  REPLACEMENTS,
  type ReferralVerdict,
  type ReplaceRequest,
} from './transfer-order.ts';
import { type Ends, interrupted, TransferPair, type TransferSide } from './transfer-pair.ts';

/** The table of calls, as far as transfers need it. */
export interface TransferTable {
  find(sid: CallSid): Call | undefined;
  calls(): Iterable<Call>;
  dial(request: DialRequest): Call;
  readonly inbound: Pick<Inbound, 'look'>;
}

/** What an application is asked with; false when it gave no URL for it. */
export interface ReferQuestion {
  readonly referrer: Call;
  readonly partner: Call;
  /** Refer-To, as `ReferTransferTarget` has it. */
  readonly uri: string;
}

export interface TransfersParts {
  readonly bus: Bus;
  readonly log: Log;
  readonly table: TransferTable;
  /** Gives the partner to the application's document. */
  readonly ask: (question: ReferQuestion) => boolean;
  readonly ringTimeoutMs: number;
  /** What a trunk says of transfers that its calls ask for; absent: nothing. */
  readonly ofTrunk?: (sid: TrunkSid) => TrunkTransfers | null;
}

/** A transfer whose outcome is not known yet. */
interface Open {
  readonly referId: string;
  readonly referrer: Call;
  readonly partner: Call;
  /** What the partner's record said before. */
  readonly before: Ends;
  /** The call that was placed; null: the application places it, if any. */
  readonly target: Call | null;
  lastStatus: number;
}

export class Transfers {
  readonly #parts: TransfersParts;
  readonly #open = new Set<Open>();
  /** Of both dialogs ours, and not joined yet. */
  readonly #pairs = new Set<TransferPair>();
  readonly #services: Subscription[] = [];

  constructor(parts: TransfersParts) {
    this.#parts = parts;
  }

  start(): void {
    const { bus } = this.#parts;
    this.#services.push(
      bus.respond(REFERRALS, (referral) => this.#onReferral(referral)),
      bus.respond(REPLACEMENTS, (request) => this.#onReplace(request)),
    );
    // Begun by a former process.
    const { table } = this.#parts;
    for (const { first, second } of interrupted(table.calls(), (sid) => table.find(sid))) {
      this.#pair(first, second, null);
    }
  }

  close(): void {
    for (const service of this.#services) service.close();
  }

  /** Every change of a call, as the router tells it. */
  take({ type, call }: Pick<CallNotice, 'type' | 'call'>): void {
    for (const open of [...this.#open]) this.#follow(open, call);
    if (type !== 'call.completed') return;
    let isOpen = false;
    for (const pair of this.#pairs) {
      pair.left(call.sid);
      isOpen ||= pair.isStayer(call.sid);
    }
    // Who is not joined yet takes nobody with him.
    if (!isOpen) this.#endPartner(call);
  }

  // --- REFER ----------------------------------------------------------------------------------

  #onReferral(referral: LegReferral): ReferralVerdict {
    try {
      this.#begin(referral);
      return { isTaken: true };
    } catch (thrown) {
      const { code, details } = asGatewayError(thrown);
      const { callSid, uri } = referral;
      this.#parts.log.info({ callSid, code, uri }, 'transfer refused');
      return { isTaken: false, code, details };
    }
  }

  #begin(referral: LegReferral): void {
    const referrer = this.#parts.table.find(referral.callSid);
    const partner = referrer && this.#partnerOf(referrer);
    if (referrer === undefined || partner === undefined) throw refused('there is nobody to join');
    if (this.#isBusy(referrer)) throw refused('another transfer is under way');
    // With Replaces that names a call of ours nobody is called, so no number is either.
    const { transferSipOnly = false } = this.#ofTrunk(referrer) ?? {};
    const isCalled = referral.mode === 'application' || referral.replacedCallSid === null;
    if (transferSipOnly && isCalled && referral.target.kind === 'number') {
      throw refused('its trunk transfers to SIP addresses only');
    }
    referrer.note('call', 'asked to transfer', referral.uri);
    if (referral.mode === 'application') this.#ask(referral, referrer, partner);
    else if (referral.replacedCallSid === null) this.#place(referral, referrer, partner);
    else this.#join(referral, referrer, partner);
  }

  #isBusy(call: Call): boolean {
    if ([...this.#pairs].some((pair) => pair.has(call))) return true;
    return [...this.#open].some(({ referrer, partner }) => referrer === call || partner === call);
  }

  #partnerOf({ record }: Call): Call | undefined {
    return record.bridgedTo === null ? undefined : this.#parts.table.find(record.bridgedTo);
  }

  #ofTrunk({ record }: Call): TrunkTransfers | null {
    return record.trunkSid === null ? null : (this.#parts.ofTrunk?.(record.trunkSid) ?? null);
  }

  #ask(referral: LegReferral, referrer: Call, partner: Call): void {
    const { uri, referId } = referral;
    const before = endsOf(partner);
    detach(referrer, partner, null);
    if (!this.#parts.ask({ referrer, partner, uri })) {
      partner.relate(before);
      throw new GatewayError('REFER_NO_URL');
    }
    // Whom it called is the application's now; it lives until it is told how that went.
    referrer.relate({ transferredTo: partner.sid, endsWithParent: false });
    this.#open.add({ referId, referrer, partner, before, target: null, lastStatus: 603 });
  }

  #place(referral: LegReferral, referrer: Call, partner: Call): void {
    const { ringTimeoutMs, table } = this.#parts;
    // The one who is called sees who he will talk to, or who sends him.
    const isReferrerShown = this.#ofTrunk(referrer)?.transferCallerId === 'from-transferor';
    const { record } = isReferrerShown ? referrer : partner;
    const target = table.dial({
      parentCallSid: partner.sid,
      target: referral.target,
      callerId: record.direction === 'inbound' ? record.from : record.to,
      ringTimeoutMs,
      statusCallback: referrer.record.statusCallback,
    });
    const before = endsOf(partner);
    detach(referrer, partner, target.sid);
    referrer.relate({ transferredTo: target.sid });
    const { referId } = referral;
    this.#open.add({ referId, referrer, partner, before, target, lastStatus: 603 });
  }

  /** Both dialogs are ours: their other ends are joined, and nobody is called. */
  #join(referral: LegReferral, referrer: Call, partner: Call): void {
    const { replacedCallSid, referId } = referral;
    const other = replacedCallSid === null ? undefined : this.#parts.table.find(replacedCallSid);
    const third = other && this.#partnerOf(other);
    if (other === undefined || third === undefined || third === partner) {
      throw refused('the call to join it with has no other end');
    }
    if (other.record.accountSid !== referrer.record.accountSid)
      throw refused('not the same account');
    if ([other, third].some((call) => this.#isBusy(call))) {
      throw refused('another transfer is under way');
    }
    const first = { leaver: referrer, stayer: partner, before: endsOf(partner) };
    detach(referrer, partner, third.sid);
    const second = { leaver: other, stayer: third, before: endsOf(third) };
    detach(other, third, partner.sid);
    this.#pair(first, second, referId);
  }

  #pair(first: TransferSide, second: TransferSide, referId: string | null): void {
    const onDone = (done: TransferPair, failure: JoinFailure | null): void => {
      this.#pairs.delete(done);
      this.#paired(done, failure, referId);
    };
    const pair = new TransferPair({ first, second, onDone });
    this.#pairs.add(pair);
    pair.start();
  }

  #paired(pair: TransferPair, failure: JoinFailure | null, referId: string | null): void {
    const { leaver: referrer, stayer: partner } = pair.first;
    const { leaver: other, stayer: third } = pair.second;
    const { bus, log } = this.#parts;
    if (failure === null) {
      referrer.note('call', 'transferred', third.sid);
      // Of a former process: nobody waits for word.
      if (referId === null) referrer.hangup('CALL_COMPLETED');
      else tellOutcome(bus, referrer, referId, 200, true);
      other.hangup('CALL_COMPLETED');
      return;
    }
    const { code, sipStatus } = failure;
    log.info({ callSid: referrer.sid, code, sipStatus }, 'transfer failed');
    referrer.note('call', 'not transferred', `${code} ${sipStatus}`);
    if (referId !== null) tellOutcome(bus, referrer, referId, sipStatus, false);
    // Whom he would have been joined with lives on; those he was with before do not.
    for (const { record } of [partner, third]) if (record.end !== null) this.#endPartner(record);
  }

  // --- Outcomes -------------------------------------------------------------------------------

  #follow(open: Open, call: CallRecord): void {
    const { target, partner, referrer } = open;
    const isTarget = target === null ? isOwnChild(call, open) : call.sid === target.sid;
    if (isTarget && call.end === null) {
      if (call.answeredAtMs !== null) this.#succeed(open, call.sid);
      else if (call.status === 'ringing') this.#tell(open, 180);
    } else if (isTarget) {
      const { sipStatus = 603 } = call.end ?? {};
      open.lastStatus = sipStatus >= 300 ? sipStatus : 487;
      if (target !== null) this.#fail(open);
    } else if (call.sid === partner.sid && call.end !== null) {
      // Nobody is left to be transferred. A call that was placed ends with him.
      this.#fail(open);
    } else if (call.sid === referrer.sid && call.end !== null && target !== null) {
      // He left before it was answered, as phones do; the one who waits hears it ring.
      partner.act({ ...RINGING, playId: playIdOf(open) });
    }
  }

  #succeed(open: Open, sid: CallSid): void {
    const { target, partner, referrer } = open;
    if (target === null) {
      // The application's document joins them.
      this.#settle(open, 200, true);
      return;
    }
    if (!referrer.isLive) partner.act({ kind: 'stopPlay', playId: playIdOf(open) });
    const bridge = new Bridge({ a: partner, b: target });
    bridge.once('failed', (code) => {
      target.hangup(code);
      open.lastStatus = 503;
    });
    bridge.once('joined', () => {
      referrer.note('call', 'transferred', sid);
      this.#settle(open, 200, true);
    });
    bridge.join();
  }

  #fail(open: Open): void {
    const { referrer, partner, before, target } = open;
    const isAlone = !referrer.isLive;
    referrer.relate({ transferredTo: null });
    if (partner.isLive && isAlone && target !== null) {
      partner.act({ kind: 'stopPlay', playId: playIdOf(open) });
      // Who was to be joined has nobody any more; a document that runs him goes on by itself.
      if (partner.record.endsWith === target.sid) partner.hangup('CALL_COMPLETED');
    } else if (partner.isLive) {
      partner.relate(before);
    }
    // Under a document of its own the partner is gone for the referrer in any case.
    this.#settle(open, open.lastStatus, target === null);
  }

  #tell(open: Open, status: number): void {
    if (open.lastStatus === status) return;
    open.lastStatus = status;
    tellOutcome(this.#parts.bus, open.referrer, open.referId, status, false);
  }

  #settle(open: Open, status: number, isLast: boolean): void {
    if (!this.#open.delete(open)) return;
    tellOutcome(this.#parts.bus, open.referrer, open.referId, status < 200 ? 603 : status, isLast);
  }

  /** What is joined by a transfer alone ends together. */
  #endPartner(ended: CallRecord): void {
    const { sid, endsWith, parentCallSid, childSids } = ended;
    const near = new Set([endsWith, parentCallSid, ...childSids]);
    for (const one of near) {
      const call = one === null ? undefined : this.#parts.table.find(one);
      if (call?.record.endsWith === sid) call.hangup('CALL_COMPLETED');
    }
  }

  // --- Replaces -------------------------------------------------------------------------------

  /** RFC 3891 §5: who may end the call may take its place, and who is of its account. */
  async #onReplace({ callSid, offer }: ReplaceRequest): Promise<{ isGranted: boolean }> {
    const { inbound } = this.#parts.table;
    const call = this.#parts.table.find(callSid);
    if (call === undefined) return { isGranted: false };
    const { direction, to, from, accountSid } = call.record;
    // Where the INVITE is addressed to is our Contact as a rule, which is nobody's number.
    const number = direction === 'inbound' ? to : from;
    const asCalled = /^\+?[\w*#]+$/.test(number) ? `sip:${number}@${hostOf(offer)}` : '';
    for (const requestUri of [offer.requestUri, asCalled]) {
      if (requestUri === '') continue;
      const verdict = await inbound.look({ ...offer, requestUri }, new Decisions());
      const isGranted = verdict.kind === 'admitted' && verdict.route.accountSid === accountSid;
      if (isGranted) return { isGranted };
    }
    return { isGranted: false };
  }
}

/** Of an application that was asked: a call that its document placed for the partner. */
function isOwnChild(call: CallRecord, { partner, referrer }: Open): boolean {
  return call.parentCallSid === partner.sid && call.sid !== referrer.sid;
}

/**
 * The partner no longer ends with the referrer. One that a document runs is that document's to end;
 * any other ends with `next`.
 */
function detach(referrer: Call, partner: Call, next: CallSid | null): void {
  const { parentCallSid, endsWith } = partner.record;
  const isRun = parentCallSid !== referrer.sid && endsWith !== referrer.sid;
  if (!isRun) partner.relate({ endsWithParent: false, endsWith: next });
}

function endsOf({ record: { endsWithParent, endsWith } }: Call): Ends {
  return { endsWithParent, endsWith };
}

function tellOutcome(
  bus: Bus,
  { record }: Call,
  referId: string,
  sipStatus: number,
  isLast: boolean,
): void {
  // Past the call: its leg may owe word to a peer that has hung up already.
  const id = `refer.${referId}.${sipStatus}`;
  bus.publish(legSubject(record.legId), { id, kind: 'referOutcome', referId, sipStatus, isLast });
}

function playIdOf({ referId, referrer }: Open): string {
  return `refer.${referrer.sid}.${referId}`;
}

/** What somebody hears who waits to be joined: 440 and 480 Hz, 2 s in 6. */
const RINGING = {
  kind: 'play',
  source: { kind: 'tone', hz: [440, 480], onMs: 2000, offMs: 4000, levelDb: -19, count: 1 },
  loop: 0,
} as const;

function hostOf({ requestUri }: LegOffer): string {
  const { host } = parseUri(requestUri);
  return host.includes(':') ? `[${host}]` : host;
}

function refused(problem: string): GatewayError {
  return new GatewayError('REFER_REFUSED', { problem });
}
