/**
 * One re-INVITE that we send (RFC 3261 §14.1): an offer within a dialog, its answer, and the
 * patience that glare asks for (491). The session goes on as it was unless the peer has forgotten
 * the dialog or does not answer at all.
 */
import { type ErrorCode, GatewayError } from '../core/errors.ts';
import type { Dialog } from './dialog.ts';
import { type ChallengeAnswer, InviteClient, type InviteClientOwner } from './invite-client.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import type { Hop, Source } from './peer.ts';
import { sdpOf } from './session-report.ts';
import { ALLOW, type HopUser, type UserAgent } from './user-agent.ts';
import { Deadline } from './wheel.ts';

export interface ReinviteOwner {
  onReinvited(): void;
  /** `isFatal`: the dialog is gone (§12.2.1.2, §14.1). */
  onReinviteFailed(error: GatewayError, isFatal: boolean): void;
  /** An INVITE of the peer is being decided on: ours has to wait (§14.1). */
  readonly isInviteWaiting: boolean;
}

export class Reinvite extends Deadline implements InviteClientOwner, HopUser {
  readonly #ua: UserAgent;
  readonly #owner: ReinviteOwner;
  readonly #dialog: Dialog;
  readonly #near: Source | null;
  readonly #body: string;
  readonly #challenge: () => ChallengeAnswer | null;
  /** We made the Call-ID, so we wait the longer time (§14.1). */
  readonly #ownsCallId: boolean;
  readonly #answerTimeoutMs: number;
  readonly #waiter = Promise.withResolvers<{ sdp: string }>();
  #attemptsLeft: number;
  #hop: Hop | null = null;
  #client: InviteClient | null = null;
  #isAsking = false;
  #isSettled = false;

  constructor(options: {
    ua: UserAgent;
    owner: ReinviteOwner;
    dialog: Dialog;
    near: Source | null;
    body: string;
    challenge: () => ChallengeAnswer | null;
    ownsCallId: boolean;
    answerTimeoutMs: number;
    attemptsMax: number;
  }) {
    super();
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.#dialog = options.dialog;
    this.#near = options.near;
    this.#body = options.body;
    this.#challenge = options.challenge;
    this.#ownsCallId = options.ownsCallId;
    this.#answerTimeoutMs = options.answerTimeoutMs;
    this.#attemptsLeft = options.attemptsMax;
  }

  /** The peer's answer; rejects when there will be none. */
  get answer(): Promise<{ sdp: string }> {
    return this.#waiter.promise;
  }

  /** Our INVITE is out and has no final response: one of the peer's gets 491 (§14.2). */
  get isAsking(): boolean {
    return this.#isAsking;
  }

  start(): void {
    if (this.#owner.isInviteWaiting) this.#waitOutGlare();
    else this.#ua.reach(this.#dialog, this.#near, this);
  }

  /** The session ended. A 2xx that still comes is acknowledged. */
  abandon(code: ErrorCode): void {
    this.#client?.cancel([]);
    this.#fail(new GatewayError(code), false);
  }

  onHop(hop: Hop): void {
    if (this.#isSettled) return;
    this.#hop = hop;
    this.#attemptsLeft -= 1;
    this.#client = new InviteClient({
      ua: this.#ua,
      owner: this,
      hops: [hop],
      callId: this.#dialog.callId,
      challenge: this.#challenge(),
      answerTimeoutMs: this.#answerTimeoutMs,
    });
    try {
      this.#isAsking = true;
      this.#client.start();
    } catch {
      this.#fail(new GatewayError('OVERLOADED', { limit: 'client transactions' }), false);
    }
  }

  onNoHop(error: GatewayError): void {
    this.#fail(error, false);
  }

  compose(fields: readonly HeaderField[]): { request: OutgoingRequest; sequence: number } {
    const sequence = this.#dialog.nextSequence();
    const local = this.#hop?.local;
    const contact: HeaderField[] =
      local === undefined ? [] : [['Contact', this.#ua.contact(local)]];
    const own: HeaderField[] = [
      ...contact,
      ['Allow', ALLOW],
      ['Content-Type', 'application/sdp'],
      ...fields,
    ];
    return { request: this.#dialog.request('INVITE', sequence, own, this.#body), sequence };
  }

  onProvisional(): void {
    // Nothing rings within a call.
  }

  onAnswered(client: InviteClient, response: SipMessage): void {
    this.#dialog.refresh(response);
    this.#acknowledge(client, response);
    this.#settle();
    this.#waiter.resolve({ sdp: sdpOf(response) ?? '' });
    this.#owner.onReinvited();
  }

  onSurplus(client: InviteClient, response: SipMessage): void {
    this.#acknowledge(client, response);
  }

  onRefused(_client: InviteClient, response: SipMessage): void {
    const { status, reason } = response;
    this.#isAsking = false;
    if (this.#isSettled) return;
    if (status === 491 && this.#attemptsLeft > 0) {
      this.#waitOutGlare();
      return;
    }
    const isGone = status === 481 || status === 408;
    const code = isGone ? 'SIP_NO_DIALOG' : status === 491 ? 'SIP_GLARE' : 'SIP_REFUSED';
    this.#fail(new GatewayError(code, { status, reason }), isGone);
  }

  onUnanswered(client: InviteClient): void {
    client.cancel([]);
    this.#fail(new GatewayError('SIP_TIMEOUT', { peer: this.#dialog.remoteTarget }), true);
  }

  onFailed(_client: InviteClient, code: ErrorCode): void {
    const { remoteTarget } = this.#dialog;
    const details = { peer: remoteTarget, problem: 'the request could not be sent' };
    this.#fail(new GatewayError(code, details), code === 'SIP_TIMEOUT');
  }

  override expire(): void {
    if (!this.#isSettled) this.start();
  }

  /** §14.1: 2.1 to 4 s for who made the Call-ID, 0 to 2 s for the other, in steps of 10 ms. */
  #waitOutGlare(): void {
    const steps = this.#ownsCallId ? 210 + this.#random(190) : this.#random(200);
    this.#ua.wheel.set(this, this.#ua.wheel.nowMs() + steps * 10);
  }

  #random(below: number): number {
    return Math.floor(this.#ua.clock.random() * (below + 1));
  }

  /** An ACK goes to the target of the moment, which the 2xx may have moved. */
  #acknowledge(client: InviteClient, response: SipMessage): void {
    const request = this.#dialog.request('ACK', client.sequence);
    const { toTag } = response;
    this.#ua.reach(this.#dialog, this.#near, {
      onHop: (hop) => client.acknowledge(toTag, request, hop),
      onNoHop: () => {},
    });
  }

  #settle(): void {
    this.#isSettled = true;
    this.#isAsking = false;
    this.#ua.wheel.clear(this);
  }

  #fail(error: GatewayError, isFatal: boolean): void {
    if (this.#isSettled) return;
    this.#settle();
    this.#waiter.reject(error);
    this.#owner.onReinviteFailed(error, isFatal);
  }
}
