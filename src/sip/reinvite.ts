/**
 * One re-INVITE that we send (RFC 3261 §14.1): the INVITE client and the ACKs of a change, which
 * is otherwise `change.ts`.
 */
import { type ErrorCode, GatewayError } from '../core/errors.ts';
import { Change } from './change.ts';
import { InviteClient, type InviteClientOwner } from './invite-client.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import type { Hop } from './peer.ts';

export class Reinvite extends Change implements InviteClientOwner {
  readonly method = 'INVITE';
  #client: InviteClient | null = null;

  protected send(hop: Hop): void {
    const { ua, credentials, options } = this.usage;
    this.#client = new InviteClient({
      ua,
      owner: this,
      hops: [hop],
      callId: this.dialog.callId,
      challenge: credentials?.forDialog() ?? null,
      answerTimeoutMs: options.reinviteTimeoutMs,
    });
    this.#client.start();
  }

  protected cancel(): void {
    this.#client?.cancel([]);
  }

  compose(
    fields: readonly HeaderField[],
    isRepeated: boolean,
  ): { request: OutgoingRequest; sequence: number } {
    const client = this.#client;
    const isSame = isRepeated && client !== null;
    const sequence = isSame ? client.sequence : this.dialog.nextSequence();
    const own = client === null ? [] : this.fields(client.hop.local);
    own.push(...fields);
    return { request: this.dialog.request('INVITE', sequence, own, this.sdp), sequence };
  }

  onProvisional(): void {
    // Nothing rings within a call.
  }

  onAnswered(client: InviteClient, response: SipMessage): void {
    this.dialog.refresh(response);
    this.#acknowledge(client, response);
    this.accepted(response);
  }

  onSurplus(client: InviteClient, response: SipMessage): void {
    this.#acknowledge(client, response);
  }

  onRefused(_client: InviteClient, response: SipMessage): void {
    this.refused(response.status, response);
  }

  onUnanswered(client: InviteClient): void {
    client.cancel([]);
    this.fail(new GatewayError('SIP_TIMEOUT', { peer: this.dialog.remoteTarget }), true, 408);
  }

  onFailed(_client: InviteClient, code: ErrorCode): void {
    const { remoteTarget } = this.dialog;
    const details = { peer: remoteTarget, problem: 'the request could not be sent' };
    this.fail(new GatewayError(code, details), code === 'SIP_TIMEOUT', 0);
  }

  /** An ACK goes to the target of the moment, which the 2xx may have moved. */
  #acknowledge(client: InviteClient, response: SipMessage): void {
    const request = this.dialog.request('ACK', client.sequence);
    const { toTag } = response;
    this.usage.ua.reach(this.dialog, this.usage.near, {
      onHop: (hop) => client.acknowledge(toTag, request, hop),
      onNoHop: () => {},
    });
  }
}
