/**
 * REFER within a dialog, as the one who is asked (RFC 3515): reads who is to be called, lets
 * somebody decide, and then tells the truth about what became of it, for as long as anybody wants
 * to know (`subscription.ts`). Who may refer whom whither, and the call itself, are not here.
 * Referred-By is RFC 3892, a REFER without subscription RFC 4488.
 */
import type { Dialog } from './dialog.ts';
import { formatUri, type HeaderField, parseNameAddr, type SipMessage } from './message.ts';
import { parseReplaces, type Replaces } from './replaces.ts';
import { plainText } from './session-report.ts';
import { ALLOW_EVENTS_FIELD, type Referral, type ReferTarget } from './side-report.ts';
import { eventOf, Notifier, type NotifierOwner } from './subscription.ts';
import type { ServerTransaction } from './transaction.ts';
import type { DialogUsage } from './usage.ts';
import { Deadline } from './wheel.ts';

/** REFERs of one dialog that are being carried out: more is no person's doing. */
const REFERRALS_MAX = 4;
/** REFER is no INVITE: it must be answered before its transaction dies (RFC 3515 §2.4.2). */
const DECISION_MS = 8000;

export interface ReferOwner {
  /** False when nobody listens. */
  onReferral(referral: Referral): boolean;
  /** No subscription is left. */
  onReferralsOver(): void;
}

export class Referrals implements NotifierOwner {
  readonly #usage: DialogUsage;
  readonly #owner: ReferOwner;
  readonly #open = new Map<string, OpenReferral>();
  #count = 0;

  constructor(options: { usage: DialogUsage; owner: ReferOwner }) {
    this.#usage = options.usage;
    this.#owner = options.owner;
  }

  /** Nobody waits for word of us. */
  get isSettled(): boolean {
    return this.#open.size === 0;
  }

  receive(transaction: ServerTransaction, dialog: Dialog): void {
    const { ua } = this.#usage;
    const { request } = transaction;
    const target = readReferTo(request);
    if (typeof target === 'number') {
      ua.answer(transaction, target, { headers: this.#usage.abilities() });
      return;
    }
    if (this.#open.size >= REFERRALS_MAX) {
      ua.answer(transaction, 480, { headers: [['Retry-After', '10']] });
      return;
    }
    this.#count += 1;
    const referral = new OpenReferral({
      usage: this.#usage,
      owner: this,
      transaction,
      dialog,
      target,
      hasId: this.#count > 1,
    });
    this.#open.set(referral.id, referral);
    if (!this.#owner.onReferral(referral)) referral.refuse(603);
  }

  /** SUBSCRIBE within the dialog: a refresh, or the end, of one of its subscriptions (RFC 6665). */
  receiveSubscribe(transaction: ServerTransaction): void {
    const { ua } = this.#usage;
    const { request } = transaction;
    const event = eventOf(request);
    if (event?.package !== 'refer') {
      ua.answer(transaction, 489, { headers: [ALLOW_EVENTS_FIELD] });
      return;
    }
    // Without an id the first of the dialog is meant (RFC 3515 §2.4.6).
    const [first] = this.#open.values();
    const notifier = (event.id === '' ? first : this.#open.get(event.id))?.notifier ?? null;
    if (notifier === null || notifier.isOver) {
      ua.answer(transaction, 481);
      return;
    }
    const asked = /^\d{1,10}$/.exec(request.header('Expires') ?? '')?.[0];
    const expires = asked === undefined ? null : Number(asked);
    const contact = this.#usage.contact(transaction.source.local);
    const given = notifier.renew(expires);
    ua.answer(transaction, 200, { headers: [contact, ['Expires', String(given)]] });
  }

  /** Nobody is told anything any more: the endpoint closes, or the peer has forgotten us. */
  close(): void {
    for (const referral of [...this.#open.values()]) referral.close();
  }

  onSubscriptionOver(notifier: Notifier): void {
    this.onOver(notifier.id);
  }

  onOver(id: string): void {
    if (this.#open.delete(id) && this.#open.size === 0) this.#owner.onReferralsOver();
  }
}

/** What REFER asks for, or the status that refuses it (RFC 3515 §2.4.2). */
function readReferTo(request: SipMessage): ReferTarget | 400 | 416 | 501 {
  const fields = request.headers('Refer-To');
  if (fields.length !== 1) return 400;
  try {
    const { uri } = parseNameAddr(fields[0] ?? '');
    if (uri === null) return 416;
    const method = uri.params.get('method');
    if (method !== undefined && method.toUpperCase() !== 'INVITE') return 501;
    const params = new Map([...uri.params].filter(([name]) => name !== 'method'));
    const wanted = fieldsOf(uri.headers);
    const named = wanted.filter(([name]) => name.toLowerCase() === 'replaces');
    const replaces = named.length === 0 ? null : parseReplaces(named[0]?.[1] ?? '');
    if (named.length > 1 || (named.length === 1 && replaces === null)) return 400;
    const headers = wanted.filter(([name]) => /^x-/i.test(name)).slice(0, HEADERS_MAX);
    return { uri: formatUri({ ...uri, params, headers: '' }), replaces, headers };
  } catch {
    return 400;
  }
}

const HEADERS_MAX = 16;

/** Header fields of a URI, unescaped (RFC 3261 §19.1.1). What is no field is left out. */
function fieldsOf(headers: string): HeaderField[] {
  const fields: HeaderField[] = [];
  for (const pair of headers.replace(/^\?/, '').split('&')) {
    const equals = pair.indexOf('=');
    if (equals < 1) continue;
    try {
      const name = decodeURIComponent(pair.slice(0, equals));
      const value = decodeURIComponent(pair.slice(equals + 1));
      if (/^[\w.!%*+`'~-]+$/.test(name) && /^[\x20-\x7e]*$/.test(value)) {
        fields.push([name, value]);
      }
    } catch {
      // A broken escape says nothing.
    }
  }
  return fields;
}

/** One REFER from its arrival to the last NOTIFY. */
class OpenReferral extends Deadline implements Referral {
  readonly id: string;
  readonly uri: string;
  readonly replaces: Replaces | null;
  readonly headers: readonly HeaderField[];
  readonly referredBy: string;
  notifier: Notifier | null = null;
  readonly #usage: DialogUsage;
  readonly #owner: Referrals;
  readonly #transaction: ServerTransaction;
  readonly #dialog: Dialog;
  readonly #hasId: boolean;
  #isDecided = false;
  #isOver = false;
  readonly #waiting: (() => void)[] = [];

  constructor(options: {
    usage: DialogUsage;
    owner: Referrals;
    transaction: ServerTransaction;
    dialog: Dialog;
    target: ReferTarget;
    hasId: boolean;
  }) {
    super();
    const { usage, transaction, target } = options;
    this.#usage = usage;
    this.#owner = options.owner;
    this.#transaction = transaction;
    this.#dialog = options.dialog;
    this.#hasId = options.hasId;
    this.id = String(transaction.request.cseq);
    this.uri = target.uri;
    this.replaces = target.replaces;
    this.headers = target.headers;
    this.referredBy = plainText(transaction.request.header('Referred-By') ?? '');
    usage.ua.wheel.set(this, usage.ua.wheel.nowMs() + DECISION_MS);
  }

  accept(): void {
    if (!this.#decide()) return;
    const { request, source } = this.#transaction;
    const { ua } = this.#usage;
    const contact = this.#usage.contact(source.local);
    if (wantsNoSubscription(request)) {
      ua.answer(this.#transaction, 202, { headers: [contact, ['Refer-Sub', 'false']] });
      this.#over();
      return;
    }
    ua.answer(this.#transaction, 202, { headers: [contact] });
    const { id } = this;
    this.notifier = new Notifier({
      usage: this.#usage,
      dialog: this.#dialog,
      owner: { onSubscriptionOver: () => this.#over() },
      id,
      hasId: this.#hasId,
    });
    this.notifier.start();
  }

  refuse(status: number, reason = ''): void {
    if (!this.#decide()) return;
    const options = reason === '' ? {} : { reason: plainText(reason) };
    this.#usage.ua.answer(this.#transaction, status, options);
    this.#over();
  }

  tell(status: number, reason = ''): void {
    this.notifier?.tell(status, reason);
  }

  whenTold(done: () => void): void {
    if (this.#isOver) done();
    else this.#waiting.push(done);
  }

  close(): void {
    if (this.#decide()) this.#over();
    else this.notifier?.drop();
  }

  override expire(): void {
    this.refuse(603);
  }

  #decide(): boolean {
    if (this.#isDecided) return false;
    this.#isDecided = true;
    this.#usage.ua.wheel.clear(this);
    return true;
  }

  #over(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#owner.onOver(this.id);
    for (const done of this.#waiting.splice(0)) done();
  }
}

/** RFC 4488 §4. */
function wantsNoSubscription(request: SipMessage): boolean {
  return /^false\b/i.test(request.header('Refer-Sub') ?? '');
}
