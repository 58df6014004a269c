/**
 * What the peer asks to change within a call: re-INVITE (RFC 3261 §14.2) and UPDATE (RFC 3311
 * §5.2), with an offer, asking for one, or for the session timer alone (RFC 4028 §9). Decides which
 * may be answered now, which met glare (491) and which came too soon (500); what an offer means is
 * for whoever hears of it. Our own changes are `change.ts`.
 */
import { asGatewayError } from '../core/errors.ts';
import type { OwnBye } from './bye.ts';
import type { Dialog } from './dialog.ts';
import { InviteServer, type InviteServerOwner, type Unacknowledged } from './invite-server.ts';
import type { HeaderField, SipMessage } from './message.ts';
import { findSdp } from './multipart.ts';
import type { OwnChanges } from './own-changes.ts';
import { acceptAgain } from './remains.ts';
import { type Offer, refusalOf, sdpOf } from './session-report.ts';
import { judgeTimer, type SessionTimer, type TimerVerdict } from './session-timer.ts';
import type { ServerTransaction } from './transaction.ts';
import { OfferInRequest } from './update.ts';
import type { DialogUsage } from './usage.ts';

export interface ModificationOwner extends InviteServerOwner {
  readonly isConfirmed: boolean;
  /** False when nobody listens. */
  onOffer(offer: Offer): boolean;
  /** The peer's change holds; `sdp` is our new description, null when there is none. */
  onModified(dialog: Dialog, sdp: string | null): void;
  /** Its offer was refused: what was agreed before stands. */
  onUnmodified(): void;
}

export class Modification {
  readonly #usage: DialogUsage;
  readonly #owner: ModificationOwner;
  readonly #timer: SessionTimer;
  readonly #changes: OwnChanges;
  readonly #bye: OwnBye;

  constructor(options: {
    usage: DialogUsage;
    owner: ModificationOwner;
    timer: SessionTimer;
    changes: OwnChanges;
    bye: OwnBye;
  }) {
    this.#usage = options.usage;
    this.#owner = options.owner;
    this.#timer = options.timer;
    this.#changes = options.changes;
    this.#bye = options.bye;
  }

  receiveReinvite(transaction: ServerTransaction, dialog: Dialog): void {
    const { server } = this.#usage;
    if (server?.isPending === true || dialog.offerBy === 'peer') {
      this.#tooSoon(transaction);
      return;
    }
    // RFC 5407 §3.1.4: its ACK was lost or overtaken, but it has our answer, or it could not offer.
    if (server?.isUnacknowledged === true && !server.isOfferless && !this.#bye.isOwed) {
      server.acknowledged(null);
    }
    const isOpen = this.#usage.server?.isUnacknowledged === true || dialog.offerBy === 'us';
    if (this.#changes.isReinviting || isOpen) {
      this.#usage.ua.answer(transaction, 491);
      return;
    }
    const verdict = this.#judgeTimer(transaction.request);
    if (verdict.kind === 'refused') this.#refuseTimer(transaction, verdict);
    else this.#offerInInvite(transaction, dialog, verdict);
  }

  receiveUpdate(transaction: ServerTransaction, dialog: Dialog): void {
    const { request, source } = transaction;
    const { ua } = this.#usage;
    let sdp: string;
    try {
      sdp = findSdp(request);
    } catch (thrown) {
      const { row } = asGatewayError(thrown);
      ua.answer(transaction, row.sip, { headers: [['Accept', 'application/sdp']] });
      return;
    }
    // §5.1: UPDATE refreshes the target, once it is accepted.
    const accepted = (agreed: TimerVerdict & { kind: 'agreed' }): HeaderField[] => {
      dialog.refresh(request);
      return [this.#usage.contact(source.local), ...this.#agreed(agreed)];
    };
    const verdict = this.#judgeTimer(request);
    if (verdict.kind === 'refused') {
      this.#refuseTimer(transaction, verdict);
    } else if (sdp === '') {
      ua.answer(transaction, 200, { headers: accepted(verdict) });
      this.#owner.onModified(dialog, null);
    } else if (dialog.offerBy === 'us') {
      ua.answer(transaction, 491);
    } else if (dialog.offerBy === 'peer' || this.#isReinvitePending) {
      this.#tooSoon(transaction);
    } else {
      this.#offerInRequest(transaction, dialog, () => accepted(verdict));
    }
  }

  /** An offer in PRACK (RFC 3262 §5). It says nothing of the timer. */
  receivePrack(transaction: ServerTransaction, dialog: Dialog): void {
    this.#offerInRequest(transaction, dialog, () => []);
  }

  /** An offer in UPDATE or PRACK, which must be answered at once. */
  #offerInRequest(
    transaction: ServerTransaction,
    dialog: Dialog,
    answerFields: () => readonly HeaderField[],
  ): void {
    const offer = new OfferInRequest({
      ua: this.#usage.ua,
      transaction,
      dialog,
      answerFields,
      onSettled: (answer) => {
        if (answer === null) this.#owner.onUnmodified();
        else this.#owner.onModified(dialog, answer);
      },
    });
    const isHeard = this.#owner.onOffer({
      sdp: offer.sdp,
      dialog: dialog.remoteTag,
      answer: (sdp) => offer.answer(sdp),
      refuse: (status, reason) => offer.refuse(status, reason),
    });
    if (!isHeard) offer.refuse(488);
  }

  #offerInInvite(
    transaction: ServerTransaction,
    dialog: Dialog,
    verdict: TimerVerdict & { kind: 'agreed' },
  ): void {
    const { request, source } = transaction;
    const sdp = sdpOf(request) ?? '';
    const server = this.serve(transaction, sdp === '');
    if (sdp !== '') dialog.offerBy = 'peer';
    const refuse = (status: number, reason?: string): void => {
      // §14.2: refused, and the session is what it was.
      if (server.isPending && dialog.offerBy === 'peer') dialog.offerBy = 'nobody';
      server.refuse(status, {
        toTag: '',
        ...refusalOf(status, reason === undefined ? {} : { reason }),
      });
      this.#owner.onUnmodified();
    };
    const isHeard = this.#owner.onOffer({
      sdp,
      dialog: dialog.remoteTag,
      answer: (answer) => {
        if (!server.isPending || !this.#owner.isConfirmed) return;
        dialog.refresh(request);
        dialog.offerBy = sdp === '' ? 'us' : 'nobody';
        const headers = [this.#usage.contact(source.local), ...this.#agreed(verdict)];
        server.accept({ toTag: '', headers, body: answer });
        this.#owner.onModified(dialog, answer);
      },
      refuse,
    });
    if (!isHeard) refuse(488);
  }

  /** The INVITE becomes the one that the session is busy with. */
  serve(transaction: ServerTransaction, isOfferless: boolean): InviteServer {
    const { ua, options: limits } = this.#usage;
    const owner = this.#owner;
    const server = new InviteServer({ ua, owner, transaction, isOfferless, limits });
    this.#usage.server = server;
    return server;
  }

  /** A former process sent this 2xx, and it goes on until its ACK comes (§13.3.1.4). */
  repeat({ head, answer, isOfferless }: Unacknowledged): void {
    const { ua, near, dialog } = this.#usage;
    const transaction = near === null ? null : acceptAgain(ua, head, near);
    if (transaction === null) return;
    if (isOfferless && dialog !== null) dialog.offerBy = 'us';
    this.serve(transaction, isOfferless).accept(answer);
  }

  get #isReinvitePending(): boolean {
    return this.#owner.isConfirmed && this.#usage.server?.isPending === true;
  }

  /** RFC 4028 §7.1: the timer begins with the 2xx to the first INVITE. */
  #judgeTimer(request: SipMessage): TimerVerdict {
    if (!this.#owner.isConfirmed) return { kind: 'agreed', agreement: null, headers: [] };
    return judgeTimer(request, this.#timer.policy, this.#timer.agreement);
  }

  #agreed({ agreement, headers }: TimerVerdict & { kind: 'agreed' }): HeaderField[] {
    if (this.#owner.isConfirmed) this.#timer.agree(agreement);
    return [...this.#usage.abilities(), ...headers];
  }

  #refuseTimer(
    transaction: ServerTransaction,
    { status, headers }: TimerVerdict & { kind: 'refused' },
  ): void {
    this.#usage.ua.answer(transaction, status, { headers });
  }

  /** §14.2, RFC 3311 §5.2: two at once. Up to 10 s, by chance, keeps both sides out of step. */
  #tooSoon(transaction: ServerTransaction): void {
    const { ua } = this.#usage;
    const seconds = String(Math.floor(ua.clock.random() * 11));
    ua.answer(transaction, 500, { headers: [['Retry-After', seconds]] });
  }
}
