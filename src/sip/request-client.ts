/**
 * One request within a dialog other than INVITE (RFC 3261 §12.2.1): sends it, answers a challenge
 * once, goes on to the next server of the name when one fails (RFC 3263 §4.3), reports how it
 * ended. BYE, PRACK and UPDATE are what it is for.
 */
import type { ChallengeAnswer } from './invite-client.ts';
import type { HeaderField, OutgoingRequest, SipMessage } from './message.ts';
import { type Hop, isSamePeer, type Local, type Source } from './peer.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface RequestClientOwner {
  /** `status` is 408 when no answer came and 503 when the request could not be sent (§8.1.3.1). */
  onDone(client: RequestClient, status: number, response: SipMessage | null): void;
}

/** A server that is silent takes 32 s (timer F): so many are asked, whatever the name leads to. */
const HOPS_MAX = 3;

export class RequestClient implements ClientUser {
  readonly #ua: UserAgent;
  readonly #owner: RequestClientOwner;
  #hop: Hop;
  #hopsLeft = HOPS_MAX;
  readonly #callId: string;
  readonly #challenge: ChallengeAnswer | null;
  readonly #compose: (fields: readonly HeaderField[]) => OutgoingRequest;
  #transaction: ClientTransaction | null = null;
  /** The last attempt, without its Via; null while there is no other way to send it. */
  #request: OutgoingRequest | null = null;

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
      this.#send(this.#compose(fields));
    } catch {
      this.#owner.onDone(this, 503, null); // OVERLOADED
    }
  }

  #send(request: OutgoingRequest): void {
    this.#hopsLeft -= 1;
    this.#request = this.#hop.next === undefined ? null : request;
    this.#transaction = this.#ua.request(request, this.#hop, this, this.#callId);
  }

  /** RFC 3263 §4.3: the same request, with the same number, on a branch of its own. */
  #tryNext(): boolean {
    const { local, next } = this.#hop;
    const request = this.#request;
    if (next === undefined || request === null || this.#hopsLeft <= 0) return false;
    this.#hop = next;
    try {
      this.#send(local === next.local ? request : this.#moved(request, local));
      return true;
    } catch {
      return false; // OVERLOADED: the failure stands
    }
  }

  /** Our address there is another one. */
  #moved(request: OutgoingRequest, from: Local): OutgoingRequest {
    const headers = request.headers.map((field): HeaderField => {
      if (field[0] !== 'Contact') return field;
      const isSips = field[1] === this.#ua.contact(from, true);
      const isOurs = isSips || field[1] === this.#ua.contact(from);
      return isOurs ? ['Contact', this.#ua.contact(this.#hop.local, isSips)] : field;
    });
    return { ...request, headers };
  }

  onResponse(transaction: ClientTransaction, response: SipMessage, source: Source): void {
    const { status } = response;
    if (status < 200 || transaction !== this.#transaction) return;
    this.#ua.heard(transaction.peer, response);
    const isChallenge = status === 401 || status === 407;
    if (isChallenge && this.#challenge !== null && isSamePeer(source, transaction.peer)) {
      const field = this.#challenge.answer(response, transaction.request, source);
      if (field !== null) {
        this.start([field]);
        return;
      }
    }
    if (status === 503 && this.#tryNext()) return;
    this.#owner.onDone(this, status, response);
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    this.#ua.unheard(transaction.peer);
    if (this.#tryNext()) return;
    this.#owner.onDone(this, code === 'SIP_TIMEOUT' ? 408 : 503, null);
  }
}
