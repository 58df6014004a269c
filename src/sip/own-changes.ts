/**
 * The changes to a session that we ask for, one at a time: new offers (RFC 3261 §14.1, RFC 3311
 * §5.1) and the refreshes of its timer (RFC 4028 §7.4, §10). One request of them is `change.ts`;
 * here is which may be asked, by which method, and what its outcome means to the session.
 */
import type { ErrorCode, GatewayError } from '../core/errors.ts';
import type { Change, ChangeOwner, ChangeParts } from './change.ts';
import type { Dialog } from './dialog.ts';
import type { SipMessage } from './message.ts';
import { Reinvite } from './reinvite.ts';
import { type Reoffered, type ReofferFailed, sdpOf } from './session-report.ts';
import { SessionTimer, type SessionTimerOwner } from './session-timer.ts';
import { Update } from './update.ts';
import type { DialogUsage } from './usage.ts';

export interface OwnChangesOwner {
  readonly isConfirmed: boolean;
  /** A description of ours in a provisional response has no PRACK yet. */
  readonly isPrackWaiting: boolean;
  onReoffered(dialog: Dialog, change: Reoffered): void;
  onReofferFailed(failed: ReofferFailed): void;
  /** A request of ours was answered, whatever it was. */
  onChangeSettled(): void;
  /** The peer has forgotten the dialog, does not answer, or let the session expire. */
  onSessionLost(code: ErrorCode, status: number, reason: string): void;
}

export class OwnChanges implements ChangeOwner, SessionTimerOwner {
  readonly timer: SessionTimer;
  readonly #usage: DialogUsage;
  readonly #owner: OwnChangesOwner;
  #open: Change | null = null;

  constructor(options: { usage: DialogUsage; owner: OwnChangesOwner }) {
    const { usage } = options;
    const { ua, policy } = usage;
    this.#usage = usage;
    this.#owner = options.owner;
    this.timer = new SessionTimer({
      policy: policy.sessionTimer,
      wheel: ua.wheel,
      owner: this,
      wallClock: () => ua.clock.nowMs(),
    });
  }

  /** A re-INVITE of ours is out. */
  get isReinviting(): boolean {
    return this.#open?.isAsking === true && this.#open.method === 'INVITE';
  }

  get isInviteWaiting(): boolean {
    if (!this.#owner.isConfirmed) return this.#owner.isPrackWaiting;
    return this.#usage.server?.isPending === true;
  }

  /** `dialog` is where: undefined when there is none. */
  reoffer(sdp: string, dialog: Dialog | undefined, method: 'INVITE' | 'UPDATE'): void {
    const isEarly = !this.#owner.isConfirmed;
    let code: ErrorCode | null = null;
    if (dialog === undefined) code = 'SIP_NO_DIALOG';
    else if (this.#open !== null) code = 'SIP_GLARE';
    else if (isEarly && (method === 'INVITE' || !dialog.allowsUpdate)) code = 'SIP_METHOD_REFUSED';
    if (code !== null) this.#owner.onReofferFailed({ status: 0, code });
    else if (dialog !== undefined) this.#ask(method, dialog, sdp, false);
  }

  /** The session has ended, with that code. */
  end(code: ErrorCode): void {
    this.timer.stop();
    this.#open?.abandon(code);
  }

  onChanged({ dialog, sdp: offer, isRefresh }: Change, response: SipMessage): void {
    this.#open = null;
    if (this.#owner.isConfirmed) this.timer.answered(response);
    if (offer !== '') {
      const sdp = sdpOf(response) ?? '';
      this.#usage.localSdp = offer;
      this.#owner.onReoffered(dialog, { sdp, offer, isRefresh });
    }
    this.#owner.onChangeSettled();
  }

  onChangeFailed(change: Change, error: GatewayError, isFatal: boolean, status: number): void {
    this.#open = null;
    const { code, message, row } = error;
    if (!change.isRefresh) this.#owner.onReofferFailed({ status, code });
    this.#owner.onChangeSettled();
    if (!this.#owner.isConfirmed) return;
    if (isFatal) {
      this.#owner.onSessionLost(code, row.sip, message);
    } else if (change.isRefresh) {
      // RFC 4028 §7.4: UPDATE was refused as a method, so re-INVITE has to do.
      if (change.method === 'UPDATE' && !change.dialog.allowsUpdate) this.onRefreshDue();
      else this.timer.postpone();
    }
  }

  onRefreshDue(): void {
    const { dialog, localSdp } = this.#usage;
    if (!this.#owner.isConfirmed || dialog === null) return;
    const isBusy = this.#open !== null || this.isInviteWaiting || dialog.offerBy !== 'nobody';
    if (isBusy) this.timer.postpone();
    else if (dialog.allowsUpdate || localSdp === '') this.#ask('UPDATE', dialog, '', true);
    else this.#ask('INVITE', dialog, localSdp, true);
  }

  onSessionExpired(): void {
    this.#owner.onSessionLost('SIP_SESSION_EXPIRED', 408, '');
  }

  #ask(method: 'INVITE' | 'UPDATE', dialog: Dialog, sdp: string, isRefresh: boolean): void {
    const parts: ChangeParts = { usage: this.#usage, owner: this, dialog, sdp, isRefresh };
    const change = method === 'INVITE' ? new Reinvite(parts) : new Update(parts);
    this.#open = change;
    change.start();
  }
}
