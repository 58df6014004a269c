/**
 * UPDATE (RFC 3311), both ways: one that we send (§5.1), and the peer's that we answer (§5.2).
 * Unlike re-INVITE it needs no ACK and may change an early dialog, and it must be answered at
 * once. An offer in PRACK (RFC 3262 §5) is decided on in the same way and stands here too.
 */
import { Change } from './change.ts';
import type { Dialog } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Hop } from './peer.ts';
import { RequestClient, type RequestClientOwner } from './request-client.ts';
import { refusalOf, sdpOf } from './session-report.ts';
import type { ServerTransaction } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

export class Update extends Change implements RequestClientOwner {
  readonly method = 'UPDATE';

  protected send(hop: Hop): void {
    const { dialog, usage, sdp } = this;
    new RequestClient({
      ua: usage.ua,
      owner: this,
      hop,
      callId: dialog.callId,
      challenge: usage.credentials?.forDialog() ?? null,
      compose: (fields) => {
        const own = [...this.fields(hop.local), ...fields];
        return dialog.request('UPDATE', dialog.nextSequence(), own, sdp);
      },
    }).start();
  }

  protected cancel(): void {
    // Only INVITE can be taken back (RFC 3261 §9.1).
  }

  onDone(_client: RequestClient, status: number, response: SipMessage | null): void {
    if (status < 300 && response !== null) {
      this.dialog.refresh(response);
      this.accepted(response);
      return;
    }
    // §4: Allow said so, and it was not so, or something on the way does not let it through.
    if (status === 405 || status === 501) this.dialog.allowsUpdate = false;
    this.refused(status, response);
  }
}

/** UPDATE and PRACK cannot ring: who does not decide in this time is decided for. */
const DECISION_MS = 8000;

/** An offer in a request other than INVITE, until it is answered (RFC 3311 §5.2). */
export class OfferInRequest extends Deadline {
  readonly sdp: string;
  readonly #ua: UserAgent;
  readonly #transaction: ServerTransaction;
  readonly #dialog: Dialog;
  readonly #answerFields: () => readonly HeaderField[];
  readonly #onSettled: (answer: string | null) => void;
  #isSettled = false;

  constructor(options: {
    ua: UserAgent;
    transaction: ServerTransaction;
    dialog: Dialog;
    /** Of the 2xx; asked when it is sent. */
    answerFields: () => readonly HeaderField[];
    /** The answer that was sent; null when the offer was refused. */
    onSettled: (answer: string | null) => void;
  }) {
    super();
    this.#ua = options.ua;
    this.#transaction = options.transaction;
    this.#dialog = options.dialog;
    this.#answerFields = options.answerFields;
    this.#onSettled = options.onSettled;
    this.sdp = sdpOf(options.transaction.request) ?? '';
    this.#dialog.offerBy = 'peer';
    this.#ua.wheel.set(this, this.#ua.wheel.nowMs() + DECISION_MS);
  }

  answer(sdp: string): void {
    if (this.#isSettled) return;
    this.#ua.answer(this.#transaction, 200, { headers: this.#answerFields(), body: sdp });
    this.#settle(sdp);
  }

  refuse(status: number, reason?: string): void {
    if (this.#isSettled) return;
    const options = refusalOf(status, reason === undefined ? {} : { reason });
    this.#ua.answer(this.#transaction, status, options);
    this.#settle(null);
  }

  override expire(): void {
    this.refuse(504);
  }

  #settle(answer: string | null): void {
    this.#isSettled = true;
    this.#dialog.offerBy = 'nobody';
    this.#ua.wheel.clear(this);
    this.#onSettled(answer);
  }
}
