/**
 * One request within a dialog other than INVITE (RFC 3261 §12.2.1): sends it, answers a challenge
 * once, reports how it ended. BYE is what it is for.
 */
import type { ChallengeAnswer } from './invite-client.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import { type Hop, isSamePeer, type Source } from './peer.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface RequestClientOwner {
  /** `status` is 408 when no answer came and 503 when the request could not be sent (§8.1.3.1). */
  onDone(client: RequestClient, status: number): void;
}

export class RequestClient implements ClientUser {
  readonly #ua: UserAgent;
  readonly #owner: RequestClientOwner;
  readonly #hop: Hop;
  readonly #callId: string;
  readonly #challenge: ChallengeAnswer | null;
  readonly #compose: (fields: readonly HeaderField[]) => OutgoingRequest;
  #transaction: ClientTransaction | null = null;

  constructor(options: {
    ua: UserAgent;
    owner: RequestClientOwner;
    hop: Hop;
    callId: string;
    challenge: ChallengeAnswer | null;
    /** The request of the next attempt, with a new sequence number and without Via. */
    compose: (fields: readonly HeaderField[]) => OutgoingRequest;
  }) {
    this.#ua = options.ua;
    this.#owner = options.owner;
    this.#hop = options.hop;
    this.#callId = options.callId;
    this.#challenge = options.challenge;
    this.#compose = options.compose;
  }

  start(fields: readonly HeaderField[] = []): void {
    try {
      const request = this.#compose(fields);
      this.#transaction = this.#ua.request(request, this.#hop, this, this.#callId);
    } catch {
      this.#owner.onDone(this, 503); // OVERLOADED
    }
  }

  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    const { status } = response;
    if (status < 200 || transaction !== this.#transaction) return;
    const isChallenge = status === 401 || status === 407;
    if (isChallenge && this.#challenge !== null && isSamePeer(source, transaction.peer)) {
      const field = this.#challenge.answer(response, transaction.request, source);
      if (field !== null) {
        this.start([field]);
        return;
      }
    }
    this.#owner.onDone(this, status);
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    this.#owner.onDone(this, code === 'SIP_TIMEOUT' ? 408 : 503);
  }
}
