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
