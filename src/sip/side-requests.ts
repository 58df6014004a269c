/**
 * Requests within a dialog that leave the session as it is: INFO, OPTIONS, and those of the
 * subscriptions that share it (RFC 5057 §3): REFER, NOTIFY, SUBSCRIBE. A subscription lives on
 * after BYE until its last NOTIFY is answered. What is not offered here is refused, with Allow.
 */
import type { Dialog } from './dialog.ts';
import { DialogRequest } from './dialog-request.ts';
import { answerInfo, infoFields } from './info.ts';
import { Referrals } from './refer.ts';
import { type ReferOptions, Referring } from './referring.ts';
import type { InfoMessage, ReferProgress, Referral } from './side-report.ts';
import type { ServerTransaction } from './transaction.ts';
import type { DialogUsage } from './usage.ts';

/** Where it is told; false when nobody listens. */
export interface SideListener {
  emit(event: 'digit', digit: { key: string; durationMs: number }): boolean;
  emit(event: 'info', info: InfoMessage): boolean;
  emit(event: 'refer', referral: Referral): boolean;
  emit(event: 'referProgress', progress: ReferProgress): boolean;
}

export class SideRequests {
  readonly #usage: DialogUsage;
  readonly #to: SideListener;
  readonly #referrals: Referrals;
  readonly #referring: Referring;

  constructor(options: { usage: DialogUsage; to: SideListener; onSettled: () => void }) {
    const { usage, to, onSettled } = options;
    this.#usage = usage;
    this.#to = to;
    this.#referrals = new Referrals({
      usage,
      owner: {
        onReferral: (referral) => to.emit('refer', referral),
        onReferralsOver: onSettled,
      },
    });
    this.#referring = new Referring({
      usage,
      owner: {
        onReferProgress: (progress) => to.emit('referProgress', progress),
        onReferringOver: onSettled,
      },
    });
  }

  /** No subscription keeps the dialog. */
  get isSettled(): boolean {
    return this.#referrals.isSettled && this.#referring.isSettled;
  }

  /** RFC 5057 §4.2: BYE ends the session, not a subscription beside it. */
  outlives(method: string): boolean {
    return !this.isSettled && (method === 'NOTIFY' || method === 'SUBSCRIBE');
  }

  receive(transaction: ServerTransaction, dialog: Dialog): void {
    const { ua, policy } = this.#usage;
    switch (transaction.request.method) {
      case 'INFO':
        answerInfo(this.#usage, transaction, this.#to);
        return;
      case 'OPTIONS':
        ua.answer(transaction, 200, { headers: this.#usage.allAbilities() });
        return;
      case 'NOTIFY':
        this.#referring.receiveNotify(transaction);
        return;
      case 'SUBSCRIBE':
        this.#referrals.receiveSubscribe(transaction);
        return;
      case 'REFER':
        // RFC 3515 §2.4.2 leaves the choice: who may never refer learns it from Allow as well.
        if ((policy.refer ?? 'refuse') === 'refuse') ua.answer(transaction, 603);
        else this.#referrals.receive(transaction, dialog);
        return;
      default:
        ua.answer(transaction, 405, { headers: this.#usage.abilities() });
    }
  }

  /** The number that `referProgress` names. */
  refer(target: string, options: ReferOptions): number {
    return this.#referring.refer(target, options, this.#usage.dialog);
  }

  /** RFC 6086, or of the old kind where no package is named. `onDone` gets what is answered. */
  sendInfo(info: InfoMessage, onDone: (status: number) => void = () => undefined): void {
    const { dialog } = this.#usage;
    if (dialog === null) {
      onDone(481);
      return;
    }
    new DialogRequest({
      usage: this.#usage,
      dialog,
      method: 'INFO',
      fields: infoFields(info),
      body: info.body,
      onDone,
    }).send();
  }

  /** The peer has forgotten the dialog: no subscription of it can go on. */
  close(): void {
    this.#referrals.close();
    this.#referring.close();
  }
}
