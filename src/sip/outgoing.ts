/**
 * The first INVITE of a call that we make (RFC 3261 §13.2): writes it, makes the dialog of the
 * answer we take, and ends the dialogs of answers we do not: of other branches of a fork, or come
 * after CANCEL.
 */
import type { ErrorCode, GatewayError } from '../core/errors.ts';
import { Bye, type ByeOwner } from './bye.ts';
import { type Dialog, dialogOfResponse } from './dialog.ts';
import { type ChallengeAnswer, InviteClient, type InviteClientOwner } from './invite-client.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import type { Hop, Source } from './peer.ts';
import { ALLOW, type UserAgent } from './user-agent.ts';

export interface OutgoingOwner {
  onProvisional(response: SipMessage): void;
  /** A 2xx came and its ACK went out. */
  onAnswered(dialog: Dialog, response: SipMessage, source: Source): void;
  /** A 2xx came that no ACK can be sent for: nothing leads to its Contact. */
  onUnreachable(error: GatewayError): void;
  onRefused(response: SipMessage): void;
  onUnanswered(): void;
  onFailed(code: ErrorCode): void;
  /** Nothing more is under way. */
  onSettled(): void;
}

export interface OutgoingParts {
  readonly uri: string;
  readonly callId: string;
  readonly localTag: string;
  /** From and To without tags. */
  readonly localParty: string;
  readonly remoteParty: string;
  readonly headers: readonly HeaderField[];
  readonly sdp: string;
  readonly hops: readonly Hop[];
  readonly answerTimeoutMs: number;
  /** Hops that the INVITE may still take (RFC 3261 §8.1.1.6). */
  readonly maxForwards: number;
}

export class Outgoing implements InviteClientOwner, ByeOwner {
  readonly #ua: UserAgent;
  readonly #owner: OutgoingOwner;
  readonly #parts: OutgoingParts;
  readonly #client: InviteClient;
  readonly #dialogChallenge: () => ChallengeAnswer | null;
  #sequence = 0;
  #hasFinal = false;
  /** Dialogs that are being ended. */
  #byes = 0;

  constructor(options: {
    ua: UserAgent;
    owner: OutgoingOwner;
    parts: OutgoingParts;
    challenge: ChallengeAnswer | null;
    /** For the BYE of an answer that is not wanted. */
    dialogChallenge: () => ChallengeAnswer | null;
  }) {
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.#parts = options.parts;
    this.#dialogChallenge = options.dialogChallenge;
    this.#client = new InviteClient({
      ua: options.ua,
      owner: this,
      hops: options.parts.hops,
      callId: options.parts.callId,
      challenge: options.challenge,
      answerTimeoutMs: options.parts.answerTimeoutMs,
    });
  }

  get isSettled(): boolean {
    return this.#hasFinal && this.#byes === 0;
  }

  /** Throws `OVERLOADED`, and SIP_MALFORMED when a part of the request cannot be sent. */
  start(): void {
    this.#client.start();
  }

  cancel(fields: readonly HeaderField[]): void {
    this.#client.cancel(fields);
  }

  compose(fields: readonly HeaderField[]): { request: OutgoingRequest; sequence: number } {
    const { uri, callId, localTag, localParty, remoteParty, headers, sdp, maxForwards } =
      this.#parts;
    this.#sequence += 1;
    const all: HeaderField[] = [
      ['Max-Forwards', String(maxForwards)],
      ['From', `${localParty};tag=${localTag}`],
      ['To', remoteParty],
      ['Call-ID', callId],
      ['CSeq', `${this.#sequence} INVITE`],
      ['Contact', this.#ua.contact(this.#client.hop.local)],
      ['Allow', ALLOW],
      ...headers,
      ...fields,
    ];
    if (sdp !== '') all.push(['Content-Type', 'application/sdp']);
    const request = { method: 'INVITE', uri, headers: all, body: sdp };
    return { request, sequence: this.#sequence };
  }

  onProvisional(_client: InviteClient, response: SipMessage): void {
    this.#owner.onProvisional(response);
  }

  onAnswered(client: InviteClient, response: SipMessage, source: Source): void {
    this.#hasFinal = true;
    const dialog = this.#dialogOf(client, response);
    const { toTag } = response;
    this.#ua.reach(dialog, source, {
      onHop: (hop) => {
        client.acknowledge(toTag, dialog.request('ACK', client.sequence), hop);
        this.#owner.onAnswered(dialog, response, source);
      },
      onNoHop: (error) => this.#owner.onUnreachable(error),
    });
  }

  onSurplus(client: InviteClient, response: SipMessage, source: Source): void {
    this.#hasFinal = true;
    this.#byes += 1;
    const dialog = this.#dialogOf(client, response);
    const challenge = this.#dialogChallenge();
    new Bye({ ua: this.#ua, owner: this, dialog, fields: [], challenge }).send(source);
  }

  onRefused(_client: InviteClient, response: SipMessage): void {
    this.#hasFinal = true;
    this.#owner.onRefused(response);
    this.#checkSettled();
  }

  onUnanswered(): void {
    this.#owner.onUnanswered();
  }

  onFailed(_client: InviteClient, code: ErrorCode): void {
    this.#hasFinal = true;
    this.#owner.onFailed(code);
    this.#checkSettled();
  }

  onByeHop(bye: Bye, hop: Hop): void {
    const { dialog } = bye;
    this.#client.acknowledge(dialog.remoteTag, dialog.request('ACK', this.#client.sequence), hop);
  }

  onByeDone(): void {
    this.#byes -= 1;
    this.#checkSettled();
  }

  #dialogOf(client: InviteClient, response: SipMessage): Dialog {
    const { localParty, localTag, uri } = this.#parts;
    return dialogOfResponse(response, { localParty, localTag, uri, sequence: client.sequence });
  }

  #checkSettled(): void {
    if (this.isSettled) this.#owner.onSettled();
  }
}
