/**
 * One request within a dialog that makes no dialog and changes no session (RFC 3261 §12.2.1):
 * NOTIFY, REFER, INFO, SUBSCRIBE. Finds the way, answers a challenge, tells how it ended, once.
 * Requests that do more have their own files: BYE, PRACK, UPDATE, re-INVITE.
 */
import type { Dialog } from './dialog.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Hop } from './peer.ts';
import { RequestClient, type RequestClientOwner } from './request-client.ts';
import type { DialogUsage } from './usage.ts';
import type { HopUser } from './user-agent.ts';

export interface DialogRequestParts {
  readonly usage: DialogUsage;
  readonly dialog: Dialog;
  readonly method: 'NOTIFY' | 'REFER' | 'INFO' | 'SUBSCRIBE';
  readonly fields: readonly HeaderField[];
  readonly body?: string;
  /** `status` is 408 when nothing was answered and 503 when there is no way (§8.1.3.1). */
  readonly onDone: (status: number, response: SipMessage | null) => void;
}

export class DialogRequest implements HopUser, RequestClientOwner {
  readonly #parts: DialogRequestParts;
  /** CSeq of the last attempt: what an answered REFER's subscription is named by. */
  sequence = 0;

  constructor(parts: DialogRequestParts) {
    this.#parts = parts;
  }

  send(): void {
    const { usage, dialog } = this.#parts;
    usage.ua.reach(dialog, usage.near, this);
  }

  onHop(hop: Hop): void {
    const { usage, dialog, method, fields, body = '' } = this.#parts;
    const contact = usage.contact(hop.local);
    new RequestClient({
      ua: usage.ua,
      owner: this,
      hop,
      callId: dialog.callId,
      challenge: usage.credentials?.forDialog() ?? null,
      compose: (proof) => {
        this.sequence = dialog.nextSequence();
        const all = method === 'INFO' ? [...fields, ...proof] : [contact, ...fields, ...proof];
        return dialog.request(method, this.sequence, all, body);
      },
    }).start();
  }

  onNoHop(): void {
    this.#parts.onDone(503, null);
  }

  onDone(_client: RequestClient, status: number, response: SipMessage | null): void {
    this.#parts.onDone(status, response);
  }
}
