/**
 * The first INVITE of a call that we make (RFC 3261 §13.2): writes it, keeps the early dialogs of a
 * fork apart, makes the dialog of the answer we take, and ends the dialogs of answers we do not: of
 * other branches, or come after CANCEL. Without an offer of ours it brings the peer's.
 */
import type { ErrorCode, GatewayError } from '../core/errors.ts';
import { Bye, type ByeOwner } from './bye.ts';
import type { CallCredentials } from './challenge.ts';
import { type Dialog, dialogOfResponse } from './dialog.ts';
import { EarlyDialog, earlyMediaOf, rseqOf } from './early-dialog.ts';
import { InviteClient, type InviteClientOwner } from './invite-client.ts';
import type { InviteRemains } from './invite-head.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import type { Hop, Source } from './peer.ts';
import { type Reason, reasonsOf } from './reason.ts';
import { type Offer, type ProvisionalReport, sdpOf } from './session-report.ts';
import type { SessionTimer } from './session-timer.ts';
import type { DialogUsage } from './usage.ts';
import type { UserAgent } from './user-agent.ts';

export interface OutgoingOwner {
  onTrying(): void;
  onProvisional(report: ProvisionalReport): void;
  /** A branch of a fork is over: its early dialog, told by its tag (RFC 6228). */
  onForkEnded(dialog: string, reasons: readonly Reason[]): void;
  /**
   * The peer makes the offer that our INVITE did not, in a reliable 1xx or in the 2xx. The answer
   * goes in PRACK or ACK. False when nobody listens.
   */
  onOffer(offer: Offer): boolean;
  /** That offer cannot be answered, so the call is given up. */
  onOfferRefused(status: number, reason: string): void;
  /** A 2xx came and its ACK went out. `sdp`: the answer that holds; '' when it is known. */
  onAnswered(dialog: Dialog, sdp: string, response: SipMessage, source: Source): void;
  /** A 2xx came that no ACK can be sent for: nothing leads to its Contact. */
  onUnreachable(error: GatewayError): void;
  onRefused(response: SipMessage): void;
  onUnanswered(): void;
  onFailed(code: ErrorCode): void;
  /** Nothing more is under way. */
  onSettled(): void;
}

export interface OutgoingParts {
  readonly uri: string;
  readonly callId: string;
  readonly localTag: string;
  /** From and To without tags. */
  readonly localParty: string;
  readonly remoteParty: string;
  readonly headers: readonly HeaderField[];
  /** '' asks the peer to make the offer. */
  readonly sdp: string;
  readonly hops: readonly Hop[];
  readonly answerTimeoutMs: number;
  /** Hops that the INVITE may still take (RFC 3261 §8.1.1.6). */
  readonly maxForwards: number;
}

/** Early dialogs of one INVITE that are kept; a fork that makes more is told no PRACK. */
const EARLY_MAX = 16;
/** A 422 makes us ask for more so often (RFC 4028 §7.3): two that disagree must not loop. */
const INTERVALS_MAX = 3;

export class Outgoing implements InviteClientOwner {
  readonly #usage: DialogUsage;
  readonly #ua: UserAgent;
  #owner: OutgoingOwner | null;
  readonly #timer: SessionTimer;
  readonly #parts: OutgoingParts;
  readonly #client: InviteClient;
  readonly #credentials: CallCredentials | null;
  readonly #early = new Map<string, EarlyDialog>();
  #sequence = 0;
  #intervals = 0;
  #hasFinal = false;
  /** Dialogs that are being ended. */
  #byes = 0;
  /** A 2xx with an offer has no ACK yet: gives it up. */
  #dropLate: (() => void) | null = null;

  constructor(options: {
    usage: DialogUsage;
    owner: OutgoingOwner;
    timer: SessionTimer;
    parts: OutgoingParts;
  }) {
    const { usage, parts } = options;
    this.#usage = usage;
    this.#ua = usage.ua;
    this.#owner = options.owner;
    this.#timer = options.timer;
    this.#parts = parts;
    this.#credentials = usage.credentials;
    this.#client = new InviteClient({
      ua: usage.ua,
      owner: this,
      hops: parts.hops,
      callId: parts.callId,
      challenge: usage.credentials?.forInvite(parts.hops) ?? null,
      answerTimeoutMs: parts.answerTimeoutMs,
    });
  }

  get isSettled(): boolean {
    return this.#hasFinal && this.#byes === 0;
  }

  /** See `Session.remains`. */
  get remains(): InviteRemains | null {
    return this.#client.remains;
  }

  /** Throws `OVERLOADED`, and SIP_MALFORMED when a part of the request cannot be sent. */
  start(): void {
    this.#client.start();
  }

  cancel(fields: readonly HeaderField[]): void {
    this.#client.cancel(fields);
    this.#dropLate?.();
  }

  /** The session is over. What a fork may still answer is dealt with here, and is no news to it. */
  leave(): void {
    this.#owner = null;
  }

  /** The early dialog with this tag of the peer; the only one when `tag` is ''. */
  early(tag: string): EarlyDialog | undefined {
    if (tag !== '') return this.#early.get(tag);
    return this.#early.size === 1 ? this.#early.values().next().value : undefined;
  }

  /** An offer and its answer went through in that dialog after those of the INVITE. */
  overtake(dialog: Dialog): void {
    const early = this.#early.get(dialog.remoteTag);
    if (early !== undefined) early.answerSdp = '';
  }

  compose(
    fields: readonly HeaderField[],
    isRepeated: boolean,
  ): { request: OutgoingRequest; sequence: number } {
    const { uri, callId, localTag, localParty, remoteParty, headers, sdp, maxForwards } =
      this.#parts;
    if (!isRepeated) this.#sequence += 1;
    // What an attempt before this one began has ended with it.
    this.#early.clear();
    const all: HeaderField[] = [
      ['Max-Forwards', String(maxForwards)],
      ['From', `${localParty};tag=${localTag}`],
      ['To', remoteParty],
      ['Call-ID', callId],
      ['CSeq', `${this.#sequence} INVITE`],
      this.#usage.contact(this.#client.hop.local),
      ...this.#usage.firstAbilities(),
      ...this.#timer.requestFields(),
      ...headers,
      ...fields,
    ];
    if (sdp !== '') all.push(['Content-Type', 'application/sdp']);
    const request = { method: 'INVITE', uri, headers: all, body: sdp };
    return { request, sequence: this.#sequence };
  }

  onTrying(): void {
    this.#owner?.onTrying();
  }

  onProvisional(_client: InviteClient, response: SipMessage, source: Source): void {
    const { status, reason, toTag } = response;
    const early = this.#earlyOf(response);
    const rseq = this.#usage.policy.reliable === 'off' ? null : rseqOf(response);
    const isReliable = early !== null && rseq !== null;
    // RFC 3262 §4: what is known says nothing new, and what is ahead comes again in its turn.
    if (isReliable && early.arrive(rseq, source) !== 'new') return;
    early?.dialog.refresh(response);
    const sdp = this.#descriptionOf(response, { early, isReliable, source });
    if (status === 199) {
      this.#owner?.onForkEnded(toTag, reasonsOf(response));
      return;
    }
    const earlyMedia = earlyMediaOf(response);
    this.#owner?.onProvisional({ status, reason, sdp, dialog: toTag, isReliable, earlyMedia });
  }

  onTooBrief(response: SipMessage): boolean {
    this.#intervals += 1;
    if (this.#intervals > INTERVALS_MAX) return false;
    return this.#timer.raise(response);
  }

  onAnswered(client: InviteClient, response: SipMessage, source: Source): void {
    this.#hasFinal = true;
    const early = this.#confirmed(response);
    const { dialog } = early;
    const sdp = sdpOf(response) ?? '';
    if (this.#parts.sdp === '' && !early.hasAgreed && sdp !== '') {
      this.#offerLate(client, response, source, sdp);
      return;
    }
    // RFC 3261 §13.2.1: once a reliable response has answered, the 2xx has nothing to add.
    const answer = early.hasAgreed ? early.answerSdp : sdp;
    // An UPDATE of ours may be out still: its answer is not in here.
    if (!early.hasAgreed) dialog.offerBy = 'nobody';
    this.#acknowledge(client, { dialog, response, source, sdp: '', answer });
  }

  onSurplus(client: InviteClient, response: SipMessage, source: Source): void {
    this.#hasFinal = true;
    const { dialog } = this.#confirmed(response);
    this.#drop(client, dialog, response, source);
  }

  onRefused(_client: InviteClient, response: SipMessage): void {
    this.#hasFinal = true;
    this.#owner?.onRefused(response);
    this.#checkSettled();
  }

  onUnanswered(): void {
    this.#owner?.onUnanswered();
  }

  onFailed(_client: InviteClient, code: ErrorCode): void {
    this.#hasFinal = true;
    this.#owner?.onFailed(code);
    this.#checkSettled();
  }

  /** The description of a provisional response, where it means something; sends PRACK. */
  #descriptionOf(
    response: SipMessage,
    arrival: { early: EarlyDialog | null; isReliable: boolean; source: Source },
  ): string | null {
    const { early, isReliable, source } = arrival;
    const sdp = sdpOf(response);
    const isOfferless = this.#parts.sdp === '';
    if (early === null) return isOfferless ? null : sdp;
    if (isReliable && isOfferless && sdp !== null && !early.hasAgreed) {
      this.#offerEarly(early, response, source, sdp);
      return null;
    }
    if (isReliable) early.acknowledge(response, source, '');
    // RFC 3261 §13.2.1: the first answer is the answer; an offer has to come reliably.
    if (isOfferless || early.hasAgreed) return null;
    if (isReliable && sdp !== null) {
      early.hasAgreed = true;
      early.answerSdp = sdp;
      early.dialog.offerBy = 'nobody';
    }
    return sdp;
  }

  /** RFC 3262 §5: the answer goes in the PRACK, which waits for it. */
  #offerEarly(early: EarlyDialog, response: SipMessage, near: Source, sdp: string): void {
    const { dialog } = early;
    dialog.offerBy = 'peer';
    early.hasAgreed = true;
    this.#offer(dialog, sdp, (answer) => {
      if (dialog.offerBy !== 'peer') return;
      dialog.offerBy = 'nobody';
      early.acknowledge(response, near, answer);
    });
  }

  /** RFC 3261 §13.2.2.4: the answer goes in the ACK. */
  #offerLate(client: InviteClient, response: SipMessage, source: Source, sdp: string): void {
    const { dialog } = this.#confirmed(response);
    let isOpen = true;
    const give = (): boolean => {
      const wasOpen = isOpen;
      isOpen = false;
      this.#dropLate = null;
      return wasOpen;
    };
    this.#dropLate = () => {
      if (give()) this.#drop(client, dialog, response, source);
    };
    this.#offer(dialog, sdp, (answer) => {
      if (give()) this.#acknowledge(client, { dialog, response, source, sdp: answer, answer: '' });
    });
  }

  /** RFC 3261 §13.2.2.4: there is no refusing it, but by the end of the call. */
  #offer(dialog: Dialog, sdp: string, answer: (sdp: string) => void): void {
    const refuse = (status: number, reason = ''): void => {
      this.cancel([]);
      this.#owner?.onOfferRefused(status, reason);
    };
    const offer: Offer = {
      sdp,
      dialog: dialog.remoteTag,
      answer: (own) => {
        this.#usage.localSdp = own;
        answer(own);
      },
      refuse,
    };
    if (this.#owner?.onOffer(offer) !== true) refuse(488);
  }

  #acknowledge(
    client: InviteClient,
    ack: { dialog: Dialog; response: SipMessage; source: Source; sdp: string; answer: string },
  ): void {
    const { dialog, response, source, sdp, answer } = ack;
    const fields: HeaderField[] = sdp === '' ? [] : [['Content-Type', 'application/sdp']];
    this.#ua.reach(dialog, source, {
      onHop: (hop) => {
        const request = dialog.request('ACK', response.cseq, fields, sdp);
        client.acknowledge(response.toTag, request, hop);
        this.#owner?.onAnswered(dialog, answer, response, source);
      },
      onNoHop: (error) => this.#owner?.onUnreachable(error),
    });
  }

  /** ACK and BYE for an answer that is not wanted (RFC 3261 §13.2.2.4, §15). */
  #drop(client: InviteClient, dialog: Dialog, response: SipMessage, source: Source): void {
    const { cseq, toTag } = response;
    const owner: ByeOwner = {
      onByeHop: (_bye, hop) => client.acknowledge(toTag, dialog.request('ACK', cseq), hop),
      onByeDone: () => {
        this.#byes -= 1;
        this.#checkSettled();
      },
    };
    this.#byes += 1;
    const challenge = this.#credentials?.forDialog() ?? null;
    new Bye({ ua: this.#ua, owner, dialog, fields: [], challenge }).send(source);
  }

  /** Null when the response makes no dialog, or one too many. */
  #earlyOf(response: SipMessage): EarlyDialog | null {
    if (response.toTag === '') return null;
    const known = this.#early.get(response.toTag);
    if (known !== undefined) return known;
    return this.#early.size >= EARLY_MAX ? null : this.#newEarly(response);
  }

  /** The dialog of a 2xx: an early one goes on with its sequence numbers. */
  #confirmed(response: SipMessage): EarlyDialog {
    const early = this.#early.get(response.toTag);
    if (early === undefined) return this.#newEarly(response);
    early.dialog.confirm(response);
    return early;
  }

  #newEarly(response: SipMessage): EarlyDialog {
    const { localParty, localTag, uri, sdp } = this.#parts;
    const { cseq: sequence } = response;
    const dialog = dialogOfResponse(response, { localParty, localTag, uri, sequence });
    if (sdp !== '') dialog.offerBy = 'us';
    const early = new EarlyDialog({ ua: this.#ua, dialog, credentials: this.#credentials });
    this.#early.set(dialog.remoteTag, early);
    return early;
  }

  #checkSettled(): void {
    if (this.isSettled) this.#owner?.onSettled();
  }
}
