/**
 * One INVITE that we send, first or within a dialog, until its transaction is forgotten (RFC 3261
 * §13.2, §9.1): answers a challenge, goes on to the next target, cancels, acknowledges each 2xx as
 * often as it comes, and hands surplus 2xx of a fork to its owner. The owner writes the requests
 * and decides what an answer means.
 */
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import { type Hop, isSamePeer, type PeerAddress, type Source } from './peer.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

/** Answers the challenges to one request; see `challenge.ts`. */
export interface ChallengeAnswer {
  /** The credentials to send with the next attempt, or null when there is nothing more to try. */
  answer(response: SipMessage, request: OutgoingRequest, from: PeerAddress): HeaderField | null;
}

export interface InviteClientOwner {
  /** The request of the next attempt, without Via, and its new sequence number. */
  compose(fields: readonly HeaderField[]): { request: OutgoingRequest; sequence: number };
  onProvisional(client: InviteClient, response: SipMessage): void;
  /** The first 2xx. The owner gives the ACK to `acknowledge`. */
  onAnswered(client: InviteClient, response: SipMessage, source: Source): void;
  /** A 2xx that is not wanted: of another branch, or after CANCEL. To be acknowledged and ended. */
  onSurplus(client: InviteClient, response: SipMessage, source: Source): void;
  onRefused(client: InviteClient, response: SipMessage): void;
  /** No final response in `answerTimeoutMs`; the owner cancels. */
  onUnanswered(client: InviteClient): void;
  onFailed(client: InviteClient, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT' | 'OVERLOADED'): void;
}

interface Acknowledgement {
  readonly toTag: string;
  readonly text: string;
  readonly hop: Hop;
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
    this.#hops = options.hops;
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

  /** Throws `OVERLOADED`, and what serialising throws. */
  start(): void {
    this.#attempt([]);
    this.#ua.wheel.set(this, this.#ua.wheel.nowMs() + this.#answerTimeoutMs);
  }

  #attempt(fields: readonly HeaderField[]): void {
    const { request, sequence } = this.#owner.compose(fields);
    this.#sequence = sequence;
    this.#hasProvisional = false;
    this.#transaction = this.#ua.request(request, this.hop, this, this.#callId);
  }

  /** §9.1: not before a provisional response, as CANCEL could arrive first. */
  cancel(fields: readonly HeaderField[]): void {
    if (this.#cancelFields !== null || this.#toTag !== null) return;
    this.#cancelFields = fields;
    this.#ua.wheel.clear(this);
    if (this.#hasProvisional) this.#sendCancel();
  }

  /** Sends the ACK of a 2xx, and again whenever that 2xx comes again (§13.2.2.4). */
  acknowledge(toTag: string, ack: OutgoingRequest, hop: Hop): void {
    const text = this.#ua.acknowledgement(ack, hop.local);
    this.#acknowledgements.push({ toTag, text, hop });
    this.#ua.acknowledge(text, hop, this.#callId, false);
  }

  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    if (transaction !== this.#transaction) return;
    const { status } = response;
    if (status < 200) this.#provisional(response);
    else if (status < 300) this.#success(response, source);
    else this.#refusal(transaction, response, source);
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    if (this.#tryNext()) return;
    this.#ua.wheel.clear(this);
    this.#owner.onFailed(this, code);
  }

  override expire(): void {
    this.#owner.onUnanswered(this);
  }

  #provisional(response: SipMessage): void {
    this.#hasProvisional = true;
    if (this.#cancelFields !== null) this.#sendCancel();
    else if (response.status > 100) this.#owner.onProvisional(this, response);
  }

  #success(response: SipMessage, source: Source): void {
    const known = this.#acknowledgements.find(({ toTag }) => toTag === response.toTag);
    if (known !== undefined) {
      this.#ua.acknowledge(known.text, known.hop, this.#callId, true);
      return;
    }
    if (response.toTag === this.#toTag) return; // its ACK is on its way already
    if (this.#acknowledgements.length >= BRANCHES_MAX) return;
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
        if (field !== null && this.#restart([field])) return;
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
    return this.#restart([]);
  }

  #restart(fields: readonly HeaderField[]): boolean {
    try {
      this.#attempt(fields);
      return true;
    } catch {
      return false; // OVERLOADED: the answer that we have stands
    }
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
