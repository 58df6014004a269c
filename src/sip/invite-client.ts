/**
 * One INVITE that we send, first or within a dialog, until its transaction is forgotten (RFC 3261
 * §13.2, §9.1): answers a challenge, goes on to the next target, cancels, acknowledges each 2xx as
 * often as it comes, and hands surplus 2xx of a fork to its owner. The owner writes the requests
 * and decides what an answer means.
 */
import { headOfSent, type InviteRemains } from './invite-head.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import { type Hop, isSamePeer, type PeerAddress, type SendOutcome, type Source } from './peer.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

/** Answers the challenges to one request; see `challenge.ts`. */
export interface ChallengeAnswer {
  /** The credentials to send with the next attempt, or null when there is nothing more to try. */
  answer(response: SipMessage, request: OutgoingRequest, from: PeerAddress): HeaderField | null;
}

export interface InviteClientOwner {
  /**
   * The request of the next attempt, without Via, and its sequence number: a new one, or the last
   * one where the same request goes another way (RFC 3263 §4.3), so that whoever gets both of them
   * can tell (RFC 3261 §8.2.2.2).
   */
  compose(
    fields: readonly HeaderField[],
    isRepeated: boolean,
  ): { request: OutgoingRequest; sequence: number };
  /** A 100, which says nothing but that the INVITE arrived; who does not care leaves it out. */
  onTrying?(): void;
  onProvisional(client: InviteClient, response: SipMessage, source: Source): void;
  /** 422 (RFC 4028 §7.3): true when `compose` would ask for something else now. */
  onTooBrief?(response: SipMessage): boolean;
  /** The first 2xx. The owner gives the ACK to `acknowledge`. */
  onAnswered(client: InviteClient, response: SipMessage, source: Source): void;
  /** A 2xx that is not wanted: of another branch, or after CANCEL. To be acknowledged and ended. */
  onSurplus(client: InviteClient, response: SipMessage, source: Source): void;
  onRefused(client: InviteClient, response: SipMessage): void;
  /** No final response in `answerTimeoutMs`; the owner cancels. */
  onUnanswered(client: InviteClient): void;
  onFailed(client: InviteClient, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT' | 'OVERLOADED'): void;
}

/** 2xx of so many branches of one fork are acknowledged; a peer that makes more is not served. */
const BRANCHES_MAX = 16;

const NOBODY: ClientUser = { onResponse: () => {}, onFailure: () => {} };

export class InviteClient extends Deadline implements ClientUser {
  readonly #ua: UserAgent;
  readonly #owner: InviteClientOwner;
  readonly #hops: readonly Hop[];
  readonly #callId: string;
  readonly #challenge: ChallengeAnswer | null;
  readonly #answerTimeoutMs: number;
  readonly #acknowledgements: Acknowledgement[] = [];
  #hopIndex = 0;
  #transaction: ClientTransaction | null = null;
  #sequence = 0;
  #toTag: string | null = null;
  #hasProvisional = false;
  #sentMs = 0;
  #answerByMs = Number.POSITIVE_INFINITY;
  /** The credentials of the last attempt. */
  #proof: readonly HeaderField[] = [];
  #cancelFields: readonly HeaderField[] | null = null;
  #isCancelSent = false;

  constructor(options: {
    ua: UserAgent;
    owner: InviteClientOwner;
    /** Where to try, in order; at least one. */
    hops: readonly Hop[];
    callId: string;
    challenge: ChallengeAnswer | null;
    /** From `start` to a final response, all attempts together. */
    answerTimeoutMs: number;
  }) {
    super();
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.#hops = options.hops.flatMap(waysOf);
    this.#callId = options.callId;
    this.#challenge = options.challenge;
    this.#answerTimeoutMs = options.answerTimeoutMs;
  }

  /** The number of the INVITE that was sent last, which is its ACK's too. */
  get sequence(): number {
    return this.#sequence;
  }

  get hop(): Hop {
    return this.#hops[this.#hopIndex] as Hop;
  }

  /** The attempt that is out, as plain data; null when there is none without a final answer. */
  get remains(): InviteRemains | null {
    const sent = this.#transaction;
    if (sent === null || this.#toTag !== null || !sent.machine.isWaiting) return null;
    const { transport, address, port, serverName } = sent.peer;
    const name = serverName === undefined ? {} : { serverName };
    const peer = { transport, address, port, ...name };
    return { kind: 'sent', head: headOfSent(sent.request), peer };
  }

  /** Throws `OVERLOADED`, and what serialising throws. */
  start(): void {
    this.#answerByMs = this.#ua.wheel.nowMs() + this.#answerTimeoutMs;
    this.#attempt([], false);
  }

  #attempt(fields: readonly HeaderField[], isRepeated: boolean): void {
    const { request, sequence } = this.#owner.compose(fields, isRepeated);
    this.#sequence = sequence;
    this.#hasProvisional = false;
    this.#transaction = this.#ua.request(request, this.hop, this, this.#callId);
    this.#proof = fields;
    this.#sentMs = this.#ua.wheel.nowMs();
    this.#ua.wheel.set(this, this.#answerByMs);
  }

  /** §9.1: not before a provisional response, as CANCEL could arrive first. */
  cancel(fields: readonly HeaderField[]): void {
    if (this.#cancelFields !== null || this.#toTag !== null) return;
    this.#cancelFields = fields;
    this.#ua.wheel.clear(this);
    if (this.#hasProvisional) this.#sendCancel();
    else this.#giveUp();
  }

  /**
   * Who is at work says 100 in 200 ms (§17.2.1): given up for its silence, it is tried last now. A
   * lost packet or two is not yet silence, so it is told again until it can be cancelled; after
   * three it is not, lest it begins to ring when it comes back.
   */
  #giveUp(): void {
    const { t1Ms } = this.#ua.timers;
    const silentMs = this.#silentMs();
    if (silentMs >= t1Ms) this.#ua.unheard(this.hop.peer);
    if (silentMs >= 3 * t1Ms) this.#transaction?.abandon();
  }

  /** Sends the ACK of a 2xx, and again whenever that 2xx comes again (§13.2.2.4). */
  acknowledge(toTag: string, request: OutgoingRequest, hop: Hop): void {
    const callId = this.#callId;
    const ack = new Acknowledgement({ ua: this.#ua, callId, toTag, request, hop });
    this.#acknowledgements.push(ack);
    ack.send(false);
  }

  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    if (transaction !== this.#transaction) return;
    const { status } = response;
    if (!this.#hasProvisional) this.#ua.heard(transaction.peer, response);
    if (status < 200) this.#provisional(response, source);
    else if (status < 300) this.#success(response, source);
    else this.#refusal(transaction, response, source);
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    if (!this.#hasProvisional) this.#ua.unheard(transaction.peer);
    if (this.#tryNext()) return;
    this.#ua.wheel.clear(this);
    this.#owner.onFailed(this, code);
  }

  override expire(): void {
    this.#owner.onUnanswered(this);
  }

  #provisional(response: SipMessage, source: Source): void {
    this.#hasProvisional = true;
    if (this.#cancelFields !== null) this.#sendCancel();
    else if (response.status > 100) this.#owner.onProvisional(this, response, source);
    else this.#owner.onTrying?.();
  }

  #repeatAcknowledgement(toTag: string): boolean {
    const known = this.#acknowledgements.find((one) => one.toTag === toTag);
    known?.send(true);
    return known !== undefined || this.#acknowledgements.length >= BRANCHES_MAX;
  }

  #success(response: SipMessage, source: Source): void {
    if (this.#repeatAcknowledgement(response.toTag)) return;
    if (response.toTag === this.#toTag) return; // its ACK is on its way already
    const isWanted = this.#toTag === null && this.#cancelFields === null;
    this.#toTag ??= response.toTag;
    this.#ua.wheel.clear(this);
    if (isWanted) this.#owner.onAnswered(this, response, source);
    else this.#owner.onSurplus(this, response, source);
  }

  #refusal(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    if (this.#cancelFields === null) {
      const { status } = response;
      const isChallenge = status === 401 || status === 407;
      // Only who was asked may ask back: anybody else is after our credentials.
      if (isChallenge && this.#challenge !== null && isSamePeer(source, transaction.peer)) {
        const field = this.#challenge.answer(response, transaction.request, source);
        if (field !== null && this.#restart([field], false)) return;
      }
      if (
        status === 422 &&
        this.#owner.onTooBrief?.(response) &&
        this.#restart(this.#proof, false)
      ) {
        return;
      }
      // RFC 3263 §4.3: 503 says nothing about the other servers of the same name.
      if (status === 503 && this.#tryNext()) return;
    }
    this.#ua.wheel.clear(this);
    this.#owner.onRefused(this, response);
  }

  #tryNext(): boolean {
    if (this.#cancelFields !== null || this.#hopIndex + 1 >= this.#hops.length) return false;
    this.#hopIndex += 1;
    return this.#restart([], true);
  }

  #restart(fields: readonly HeaderField[], isRepeated: boolean): boolean {
    try {
      this.#attempt(fields, isRepeated);
      return true;
    } catch {
      return false; // OVERLOADED: the answer that we have stands
    }
  }

  /** Since the last attempt; only to be asked while nothing came back. */
  #silentMs(): number {
    return this.#ua.wheel.nowMs() - this.#sentMs;
  }

  #sendCancel(): void {
    const invite = this.#transaction;
    if (this.#isCancelSent || invite === null) return;
    this.#isCancelSent = true;
    invite.abandon();
    try {
      this.#ua.cancel(invite, this.#cancelFields ?? [], NOBODY);
    } catch {
      // OVERLOADED: the INVITE is given up by its timer instead.
    }
  }
}

/** The ACK of one 2xx, which may have to go another way than the first (RFC 3263 §4.3). */
class Acknowledgement implements SendOutcome {
  readonly toTag: string;
  readonly #ua: UserAgent;
  readonly #callId: string;
  /** Kept while there is another way. */
  #request: OutgoingRequest | null;
  #hop: Hop;
  #text: string;

  constructor(options: {
    ua: UserAgent;
    callId: string;
    toTag: string;
    request: OutgoingRequest;
    hop: Hop;
  }) {
    const { ua, request, hop } = options;
    this.toTag = options.toTag;
    this.#ua = ua;
    this.#callId = options.callId;
    this.#request = hop.next === undefined ? null : request;
    this.#hop = hop;
    this.#text = ua.acknowledgement(request, hop.local);
  }

  send(isRepeated: boolean): void {
    this.#ua.acknowledge(this.#text, this.#hop, this.#callId, isRepeated, this);
  }

  sendFailed(): void {
    const { peer, next } = this.#hop;
    this.#ua.unheard(peer);
    if (next === undefined || this.#request === null) return;
    this.#hop = next;
    this.#text = this.#ua.acknowledgement(this.#request, next.local);
    if (next.next === undefined) this.#request = null;
    this.send(true);
  }
}

/** A hop and those that come after it. */
function waysOf(hop: Hop): Hop[] {
  const ways: Hop[] = [];
  for (let way: Hop | undefined = hop; way !== undefined; way = way.next) ways.push(way);
  return ways;
}
