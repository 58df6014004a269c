/**
 * One early dialog of an INVITE that we sent (RFC 3261 §12.1.2, §13.2.2.4): a fork makes several,
 * each with its own tag, targets, sequence numbers and offer/answer. Puts reliable provisional
 * responses in order and acknowledges them with PRACK (RFC 3262 §4). Which one becomes the call is
 * `outgoing.ts`.
 */
import type { CallCredentials } from './challenge.ts';
import type { Dialog } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Hop, Source } from './peer.ts';
import { RequestClient, type RequestClientOwner } from './request-client.ts';
import { requires } from './session-timer.ts';
import type { HopUser, UserAgent } from './user-agent.ts';

/** A direction for the audio before the answer (RFC 5009), and whether a gate is in its way. */
export interface EarlyMedia {
  readonly direction: 'sendrecv' | 'sendonly' | 'recvonly' | 'inactive';
  readonly isGated: boolean;
}

/** What a reliable provisional response is: to be read, known, or ahead of one that was lost. */
export type Arrival = 'new' | 'again' | 'early';

export class EarlyDialog {
  readonly dialog: Dialog;
  /** The answer that came in a reliable response, as long as it is what holds; '' before. */
  answerSdp = '';
  /** An offer and its answer went through: later descriptions to the INVITE say nothing. */
  hasAgreed = false;
  readonly #ua: UserAgent;
  readonly #credentials: CallCredentials | null;
  /** The last number taken; null before the first. */
  #rseq: number | null = null;
  #prack: Prack | null = null;

  constructor(options: { ua: UserAgent; dialog: Dialog; credentials: CallCredentials | null }) {
    this.#ua = options.ua;
    this.dialog = options.dialog;
    this.#credentials = options.credentials;
  }

  /** §4: in order by RSeq, whatever the network did to them. */
  arrive(rseq: number, near: Source): Arrival {
    if (this.#rseq === null || rseq === this.#rseq + 1) {
      this.#rseq = rseq;
      return 'new';
    }
    if (rseq > this.#rseq) return 'early';
    // Its PRACK is on its way, and repeats itself; one that failed is made anew.
    if (this.#prack?.rseq === rseq && this.#prack.hasFailed) this.#prack.send(near);
    return 'again';
  }

  /** Acknowledges a response; `sdp` is our answer where it made an offer. */
  acknowledge(response: SipMessage, near: Source | null, sdp: string): void {
    const { dialog } = this;
    this.#prack = new Prack({
      ua: this.#ua,
      dialog,
      credentials: this.#credentials,
      rseq: rseqOf(response) ?? 0,
      cseq: response.cseq,
      sdp,
    });
    this.#prack.send(near);
  }
}

/** RSeq of a response that is to be acknowledged; null for any other. */
export function rseqOf(response: SipMessage): number | null {
  const text = response.header('RSeq') ?? '';
  if (!/^\d{1,10}$/.test(text) || !requires(response, '100rel')) return null;
  return Number(text);
}

/** P-Early-Media; null when the response has none that says a direction or a gate. */
export function earlyMediaOf(response: SipMessage): EarlyMedia | null {
  if (response.header('P-Early-Media') === undefined) return null;
  let direction: EarlyMedia['direction'] | null = null;
  let isGated = false;
  for (const value of response.list('P-Early-Media')) {
    const param = value.toLowerCase();
    if (param === 'gated') isGated = true;
    // RFC 5009 §8: one for each m= line; ours is the first.
    else if (isDirection(param)) direction ??= param;
  }
  if (direction === null && !isGated) return null;
  return { direction: direction ?? 'sendrecv', isGated };
}

function isDirection(param: string): param is EarlyMedia['direction'] {
  return (
    param === 'sendrecv' || param === 'sendonly' || param === 'recvonly' || param === 'inactive'
  );
}

/** One PRACK (RFC 3262 §7.2), and once more when it did not get through. */
class Prack implements HopUser, RequestClientOwner {
  readonly rseq: number;
  hasFailed = false;
  readonly #ua: UserAgent;
  readonly #dialog: Dialog;
  readonly #credentials: CallCredentials | null;
  readonly #cseq: number;
  readonly #sdp: string;

  constructor(options: {
    ua: UserAgent;
    dialog: Dialog;
    credentials: CallCredentials | null;
    rseq: number;
    cseq: number;
    sdp: string;
  }) {
    this.rseq = options.rseq;
    this.#ua = options.ua;
    this.#dialog = options.dialog;
    this.#credentials = options.credentials;
    this.#cseq = options.cseq;
    this.#sdp = options.sdp;
  }

  send(near: Source | null): void {
    this.hasFailed = false;
    this.#ua.reach(this.#dialog, near, this);
  }

  onHop(hop: Hop): void {
    const dialog = this.#dialog;
    const own: HeaderField[] = [['RAck', `${this.rseq} ${this.#cseq} INVITE`]];
    if (this.#sdp !== '') own.push(['Content-Type', 'application/sdp']);
    new RequestClient({
      ua: this.#ua,
      owner: this,
      hop,
      callId: dialog.callId,
      challenge: this.#credentials?.forDialog() ?? null,
      compose: (fields) =>
        dialog.request('PRACK', dialog.nextSequence(), [...own, ...fields], this.#sdp),
    }).start();
  }

  onNoHop(): void {
    this.hasFailed = true;
  }

  /** 481 and 500 can mean that another request overtook it: it goes again with the response. */
  onDone(_client: RequestClient, status: number): void {
    this.hasFailed = status >= 300;
  }
}
