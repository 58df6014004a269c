/**
 * The subscription that REFER makes (RFC 3515 §2.4.4, RFC 6665): the words of its fields, the body
 * that carries an outcome (message/sipfrag, RFC 3420), and the notifier that sends it. What is
 * notified about is `refer.ts`; who listens to the other side's NOTIFYs is `referring.ts`.
 */
import type { Dialog } from './dialog.ts';
import { DialogRequest } from './dialog-request.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { reasonPhrase } from './message.ts';
import { mediaType } from './multipart.ts';
import { plainText } from './session-report.ts';
import type { DialogUsage } from './usage.ts';
import { Deadline } from './wheel.ts';

const SIPFRAG = 'message/sipfrag';

export interface EventName {
  readonly package: string;
  readonly id: string;
}

/** `Event: refer;id=7`; null when there is none that can be read. */
export function eventOf(message: SipMessage): EventName | null {
  const match = /^([^\s;]+)\s*(?:;(.*))?$/s.exec(message.header('Event') ?? '');
  if (match === null) return null;
  const id = /(?:^|;)\s*id\s*=\s*([^\s;]+)/i.exec(match[2] ?? '')?.[1] ?? '';
  return { package: (match[1] ?? '').toLowerCase(), id };
}

/** `Subscription-State`: its first word and why it ended, lower case. */
export function subscriptionStateOf(message: SipMessage): { state: string; reason: string } {
  const [state = '', ...params] = (message.header('Subscription-State') ?? '').split(';');
  const reason = params.map((param) => /^\s*reason\s*=\s*(\S+)\s*$/i.exec(param)?.[1] ?? '');
  return {
    state: state.trim().toLowerCase(),
    reason: (reason.find((word) => word !== '') ?? '').toLowerCase(),
  };
}

/** The status line of a NOTIFY's fragment; null when it has none. */
export function fragmentOf(notify: SipMessage): { status: number; reason: string } | null {
  const { type } = mediaType(notify.header('Content-Type') ?? '');
  if (type !== SIPFRAG) return null;
  const match = /^SIP\/2\.0 ([1-6]\d\d)(?: ([^\r\n]*))?(?:\r?\n|$)/i.exec(notify.body);
  return match === null ? null : { status: Number(match[1]), reason: match[2] ?? '' };
}

/** Seconds that a subscriber may ask for at most, and what it gets when it does not say. */
const EXPIRES_MAX_S = 3600;
const EXPIRES_S = 240;

export interface NotifierOwner {
  /** No more NOTIFY of it will be sent, and the last one is answered. */
  onSubscriptionOver(notifier: Notifier): void;
}

/** One subscription of the peer to what became of its REFER. */
export class Notifier extends Deadline {
  readonly id: string;
  readonly #usage: DialogUsage;
  readonly #dialog: Dialog;
  readonly #owner: NotifierOwner;
  /** Left out in the first of a dialog, as phones expect (RFC 3515 §2.4.6). */
  readonly #hasId: boolean;
  #expiresAtMs: number;
  #last = { status: 100, reason: 'Trying' };
  /** Why it ends, once it does. */
  #endReason: 'noresource' | 'timeout' | null = null;
  #isOver = false;
  #isSending = false;
  #isDue = false;

  constructor(options: {
    usage: DialogUsage;
    dialog: Dialog;
    owner: NotifierOwner;
    id: string;
    hasId: boolean;
  }) {
    super();
    this.#usage = options.usage;
    this.#dialog = options.dialog;
    this.#owner = options.owner;
    this.id = options.id;
    this.#hasId = options.hasId;
    this.#expiresAtMs = this.#nowMs() + EXPIRES_S * 1000;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** RFC 3515 §2.4.4: the first NOTIFY comes at once, and says what is known. */
  start(): void {
    this.#usage.ua.wheel.set(this, this.#expiresAtMs);
    this.#notify();
  }

  /** News. A final status ends the subscription: nothing can follow it (RFC 3515 §2.4.7). */
  tell(status: number, reason: string): void {
    if (this.#isOver || this.#endReason !== null) return;
    this.#last = { status, reason };
    if (status >= 200) this.#endReason = 'noresource';
    this.#notify();
  }

  /** A SUBSCRIBE within the dialog; the seconds it got. 0 ends it, with what is known by now. */
  renew(asked: number | null): number {
    const seconds = Math.min(asked ?? EXPIRES_S, EXPIRES_MAX_S);
    this.#expiresAtMs = this.#nowMs() + seconds * 1000;
    if (seconds === 0) this.#endReason ??= 'timeout';
    else this.#usage.ua.wheel.set(this, this.#expiresAtMs);
    this.#notify();
    return seconds;
  }

  override expire(): void {
    this.#endReason ??= 'timeout';
    this.#notify();
  }

  /** Ends without a word: nobody can be told any more. */
  drop(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#usage.ua.wheel.clear(this);
    this.#owner.onSubscriptionOver(this);
  }

  /** One at a time, so that no network can change their order; what is old by then is left out. */
  #notify(): void {
    if (this.#isOver) return;
    if (this.#isSending) {
      this.#isDue = true;
      return;
    }
    this.#isSending = true;
    this.#isDue = false;
    const isLast = this.#endReason !== null;
    const { status, reason } = this.#last;
    const phrase = plainText(reason) || reasonPhrase(status);
    new DialogRequest({
      usage: this.#usage,
      dialog: this.#dialog,
      method: 'NOTIFY',
      fields: this.#fields(),
      body: `SIP/2.0 ${status} ${phrase}\r\n`,
      onDone: (answer) => this.#answered(answer, isLast),
    }).send();
  }

  #fields(): HeaderField[] {
    const event = this.#hasId ? `refer;id=${this.id}` : 'refer';
    const left = Math.max(0, Math.ceil((this.#expiresAtMs - this.#nowMs()) / 1000));
    const state =
      this.#endReason === null ? `active;expires=${left}` : `terminated;reason=${this.#endReason}`;
    return [
      ['Event', event],
      ['Subscription-State', state],
      ['Content-Type', `${SIPFRAG};version=2.0`],
    ];
  }

  #answered(status: number, wasLast: boolean): void {
    this.#isSending = false;
    // RFC 6665 §4.2.2: a peer that refuses or does not answer is not subscribed any more.
    if (wasLast || status >= 300) this.drop();
    else if (this.#isDue) this.#notify();
  }

  #nowMs(): number {
    return this.#usage.ua.wheel.nowMs();
  }
}
