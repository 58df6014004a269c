/**
 * The end of a dialog (RFC 3261 §15.1.1): finds the way, acknowledges a 2xx first where one is
 * owed, sends BYE, and reports when no more is to come. For the session's own dialog, and for
 * those that a fork made and nobody wants.
 */
import type { Dialog } from './dialog.ts';
import type { ChallengeAnswer } from './invite-client.ts';
import type { HeaderField } from './message.ts';
import type { Hop, Source } from './peer.ts';
import { RequestClient, type RequestClientOwner } from './request-client.ts';
import type { DialogUsage } from './usage.ts';
import type { HopUser, UserAgent } from './user-agent.ts';

export interface ByeOwner {
  /** Before the BYE, when the way is known: the place to send an ACK that is owed. */
  onByeHop?(bye: Bye, hop: Hop): void;
  onByeDone(bye: Bye): void;
}

export class Bye implements HopUser, RequestClientOwner {
  readonly dialog: Dialog;
  readonly #ua: UserAgent;
  readonly #owner: ByeOwner;
  readonly #fields: readonly HeaderField[];
  readonly #challenge: ChallengeAnswer | null;

  constructor(options: {
    ua: UserAgent;
    owner: ByeOwner;
    dialog: Dialog;
    fields: readonly HeaderField[];
    challenge: ChallengeAnswer | null;
  }) {
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.dialog = options.dialog;
    this.#fields = options.fields;
    this.#challenge = options.challenge;
  }

  send(near: Source | null): void {
    this.#ua.reach(this.dialog, near, this);
  }

  onHop(hop: Hop): void {
    this.#owner.onByeHop?.(this, hop);
    const { dialog } = this;
    new RequestClient({
      ua: this.#ua,
      owner: this,
      hop,
      callId: dialog.callId,
      challenge: this.#challenge,
      compose: (fields) =>
        dialog.request('BYE', dialog.nextSequence(), [...this.#fields, ...fields]),
    }).start();
  }

  onNoHop(): void {
    this.#owner.onByeDone(this);
  }

  onDone(): void {
    this.#owner.onByeDone(this);
  }
}

/** The BYE of a session's own dialog, and when it may go. */
export class OwnBye implements ByeOwner {
  readonly #usage: DialogUsage;
  readonly #onSettled: () => void;
  /** It is owed, but the peer has not acknowledged our 2xx yet (§15). */
  #owed: readonly HeaderField[] | null = null;
  #sent = 0;

  constructor(options: { usage: DialogUsage; onSettled: () => void }) {
    this.#usage = options.usage;
    this.#onSettled = options.onSettled;
  }

  get isOwed(): boolean {
    return this.#owed !== null;
  }

  /** Nothing is owed, and what was sent is answered. */
  get isSettled(): boolean {
    return this.#owed === null && this.#sent === 0;
  }

  /** §15: the callee may not send BYE before the ACK of its 2xx, or before it has given it up. */
  say(fields: readonly HeaderField[]): void {
    if (this.#usage.server?.isUnacknowledged === true) this.#owed = fields;
    else this.#send(fields);
  }

  /** The ACK came: what is owed goes out. */
  pay(): void {
    const owed = this.#owed;
    this.#owed = null;
    if (owed !== null) this.#send(owed);
  }

  /** The ACK will not come any more (§13.3.1.4). */
  sayAnyway(): void {
    const owed = this.#owed ?? [];
    this.#owed = null;
    this.#send(owed);
  }

  /** The peer was faster. */
  forget(): void {
    this.#owed = null;
  }

  onByeDone(): void {
    this.#sent -= 1;
    this.#onSettled();
  }

  #send(fields: readonly HeaderField[]): void {
    const { ua, dialog, credentials, near } = this.#usage;
    if (dialog === null) return;
    this.#sent += 1;
    const challenge = credentials?.forDialog() ?? null;
    new Bye({ ua, owner: this, dialog, fields, challenge }).send(near);
  }
}
