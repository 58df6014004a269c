/**
 * REFER within a dialog, as the one who asks (RFC 3515 §2.4.1): sends it, follows the NOTIFYs of
 * the subscription it makes, and tells how the transfer went. One that never says the end of it is
 * given up. Ending our own call after success is for whoever asked for the transfer (RFC 5589 §6).
 */
import type { Dialog } from './dialog.ts';
import { DialogRequest } from './dialog-request.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { type Replaces, writeReplaces } from './replaces.ts';
import { ALLOW_EVENTS_FIELD, type ReferProgress } from './side-report.ts';
import { eventOf, fragmentOf, subscriptionStateOf } from './subscription.ts';
import type { ServerTransaction } from './transaction.ts';
import type { DialogUsage } from './usage.ts';
import { Deadline } from './wheel.ts';

/** REFERs of ours in one dialog that have no end yet. */
const TRANSFERS_MAX = 4;
/** How long the peer may take to say the end: a phone may ring so long, and a little more. */
const OUTCOME_MS = 240_000;
/** How long the answer to REFER may come behind the last NOTIFY. */
const LATE_MS = 2000;

export interface ReferOptions {
  /** The dialog, at the target, whose place the new call takes (RFC 3891). */
  readonly replaces?: Replaces;
  /** Who we say asks for it (RFC 3892); a URI. */
  readonly referredBy?: string;
  /** Wanted in the INVITE of the peer: written into the Refer-To. */
  readonly headers?: readonly HeaderField[];
}

export interface ReferringOwner {
  onReferProgress(progress: ReferProgress): void;
  onReferringOver(): void;
}

export class Referring {
  readonly #usage: DialogUsage;
  readonly #owner: ReferringOwner;
  readonly #open: Transfer[] = [];
  #count = 0;

  constructor(options: { usage: DialogUsage; owner: ReferringOwner }) {
    this.#usage = options.usage;
    this.#owner = options.owner;
  }

  get isSettled(): boolean {
    return this.#open.length === 0;
  }

  /** The number that progress names; never 0. */
  refer(target: string, options: ReferOptions, dialog: Dialog | null): number {
    this.#count += 1;
    const id = this.#count;
    if (dialog === null || this.#open.length >= TRANSFERS_MAX) {
      const status = dialog === null ? 481 : 480;
      this.#owner.onReferProgress({ id, status, outcome: 0, isOver: true });
      return id;
    }
    const transfer = new Transfer({ usage: this.#usage, owner: this, dialog, id });
    this.#open.push(transfer);
    transfer.send(referFields(target, options));
    return id;
  }

  /** NOTIFY within the dialog. */
  receiveNotify(transaction: ServerTransaction): void {
    const { ua } = this.#usage;
    const { request } = transaction;
    const event = eventOf(request);
    if (event?.package !== 'refer') {
      ua.answer(transaction, 489, { headers: [ALLOW_EVENTS_FIELD] });
      return;
    }
    const transfer = this.#named(event.id);
    // RFC 6665 §4.1.3: what nobody subscribed to is told so, and not sent again.
    if (transfer === undefined) ua.answer(transaction, 481);
    else {
      ua.answer(transaction, 200);
      transfer.notified(request);
    }
  }

  /** The dialog is gone for good. */
  close(): void {
    for (const transfer of [...this.#open]) transfer.giveUp();
  }

  progress(transfer: Transfer, progress: ReferProgress): void {
    if (progress.isOver) this.#open.splice(this.#open.indexOf(transfer), 1);
    this.#owner.onReferProgress(progress);
    if (progress.isOver && this.isSettled) this.#owner.onReferringOver();
  }

  /** RFC 3515 §2.4.6: by the CSeq of the REFER; without an id it is the oldest. */
  #named(id: string): Transfer | undefined {
    if (id === '') return this.#open[0];
    return this.#open.find((transfer) => transfer.sequence === Number(id));
  }
}

function referFields(target: string, options: ReferOptions): HeaderField[] {
  const { replaces, referredBy = '', headers = [] } = options;
  const wanted = headers.map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  // RFC 3891 §4: who does not know the field must not begin a call of its own instead.
  if (replaces !== undefined) {
    wanted.push(`Replaces=${encodeURIComponent(writeReplaces(replaces))}`, 'Require=replaces');
  }
  const uri = wanted.length === 0 ? target : `${target}?${wanted.join('&')}`;
  const fields: HeaderField[] = [['Refer-To', `<${uri}>`]];
  if (referredBy !== '') fields.push(['Referred-By', `<${referredBy}>`]);
  return fields;
}

class Transfer extends Deadline {
  readonly #usage: DialogUsage;
  readonly #owner: Referring;
  readonly #dialog: Dialog;
  readonly #id: number;
  #request: DialogRequest | null = null;
  #status = 0;
  #outcome = 0;
  /** Nothing more will be notified. */
  #hasEnded = false;
  #isOver = false;

  constructor(options: { usage: DialogUsage; owner: Referring; dialog: Dialog; id: number }) {
    super();
    this.#usage = options.usage;
    this.#owner = options.owner;
    this.#dialog = options.dialog;
    this.#id = options.id;
  }

  get sequence(): number {
    return this.#request?.sequence ?? 0;
  }

  send(fields: readonly HeaderField[]): void {
    const { wheel } = this.#usage.ua;
    wheel.set(this, wheel.nowMs() + OUTCOME_MS);
    this.#request = new DialogRequest({
      usage: this.#usage,
      dialog: this.#dialog,
      method: 'REFER',
      fields,
      onDone: (status, response) => this.#answered(status, response),
    });
    this.#request.send();
  }

  /** RFC 3515 §2.4.4: one may come before the 202 does. */
  notified(notify: SipMessage): void {
    if (this.#isOver) return;
    const fragment = fragmentOf(notify);
    const { state } = subscriptionStateOf(notify);
    if (fragment !== null && this.#outcome < 200) this.#outcome = fragment.status;
    // A subscription that ends without an outcome is not asked for once more.
    this.#hasEnded ||= this.#outcome >= 200 || state === 'terminated';
    this.#tell();
  }

  giveUp(): void {
    this.#status ||= 408;
    this.#hasEnded = true;
    this.#tell();
  }

  override expire(): void {
    this.giveUp();
  }

  #answered(status: number, response: SipMessage | null): void {
    this.#status = status;
    // RFC 4488 §4: nothing will be notified.
    const isSilent = /^false\b/i.test(response?.header('Refer-Sub') ?? '');
    this.#hasEnded ||= status >= 300 || isSilent;
    this.#tell();
  }

  #tell(): void {
    if (this.#isOver) return;
    const { wheel } = this.#usage.ua;
    if (this.#hasEnded && this.#status === 0) {
      // The NOTIFY overtook the answer to REFER: both belong to what is told.
      wheel.set(this, wheel.nowMs() + LATE_MS);
      return;
    }
    this.#isOver = this.#hasEnded;
    if (this.#isOver) wheel.clear(this);
    const [id, status, outcome, isOver] = [this.#id, this.#status, this.#outcome, this.#isOver];
    this.#owner.progress(this, { id, status, outcome, isOver });
  }
}
