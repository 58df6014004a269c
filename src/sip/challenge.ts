/**
 * Digest authentication at work (RFC 3261 §22): our credentials for a challenge to our own request,
 * and the policy's verdict on a request of others made into a challenge or an acceptance. The
 * arithmetic is `digest.ts`; who has which password is the policy's to know.
 */
import type { Clock } from '../core/clock.ts';
import { asGatewayError, type ErrorCode, type GatewayError } from '../core/errors.ts';
import type { Secret } from '../core/log.ts';
import { type DigestAccount, DigestClient, type DigestServer } from './digest.ts';
import type { ChallengeAnswer } from './invite-client.ts';
import { decodeUtf8, type HeaderField, type OutgoingRequest, type SipMessage } from './message.ts';
import type { Hop, PeerAddress } from './peer.ts';

export interface Credentials {
  readonly username: string;
  readonly password: Secret;
  /** Answer only this realm; the first that the INVITE is challenged with when absent. */
  readonly realm?: string;
}

/** Who may ask for the credentials of a call, as plain data. */
export interface CredentialScope {
  /** The addresses that its first INVITE was resolved to. */
  readonly hosts: readonly string[];
  /** Configured, or of the first challenge that was answered; null before that. */
  readonly realm: string | null;
}

/**
 * The credentials of one call, and who may see them used. They belong to whoever the call was sent
 * to. The callee chooses with its Contact where later requests go, so what challenges those is
 * answered only if the first INVITE went there too, and only for the realm that the INVITE was
 * challenged with: a digest given to a stranger can be searched for its password at leisure.
 */
export class CallCredentials {
  readonly #clock: Clock;
  readonly #credentials: Credentials;
  #hosts: ReadonlySet<string>;
  #realm: string | null;

  constructor(options: { clock: Clock; credentials: Credentials; scope?: CredentialScope }) {
    this.#clock = options.clock;
    this.#credentials = options.credentials;
    this.#hosts = new Set(options.scope?.hosts);
    this.#realm = options.credentials.realm ?? options.scope?.realm ?? null;
  }

  get scope(): CredentialScope {
    return { hosts: [...this.#hosts], realm: this.#realm };
  }

  /** For the INVITE that begins the call: the first realm that is answered becomes the call's. */
  forInvite(hops: readonly Hop[]): ChallengeAnswer {
    this.#hosts = new Set(hops.map(({ peer }) => peer.address));
    const client = this.#client();
    return {
      answer: (response, request, from) => {
        const field = this.#answer(client, response, request, from);
        if (field !== null) this.#realm ??= client.answeredRealm ?? null;
        return field;
      },
    };
  }

  /** For one request within the dialog; null when no challenge to it may be answered. */
  forDialog(): ChallengeAnswer | null {
    if (this.#realm === null) return null;
    const client = this.#client();
    return {
      answer: (response, request, from) => this.#answer(client, response, request, from),
    };
  }

  #client(): DigestClient {
    const { username, password } = this.#credentials;
    const realm = this.#realm === null ? {} : { realm: this.#realm };
    return new DigestClient({ clock: this.#clock, username, password, ...realm });
  }

  #answer(
    client: DigestClient,
    response: SipMessage,
    request: OutgoingRequest,
    from: PeerAddress,
  ): HeaderField | null {
    if (!this.#hosts.has(from.address)) return null;
    const isProxy = response.status === 407;
    const challenges = response.headers(isProxy ? 'Proxy-Authenticate' : 'WWW-Authenticate');
    const value = client.answer(challenges, request);
    return value === null ? null : [isProxy ? 'Proxy-Authorization' : 'Authorization', value];
  }
}

/** What the policy says about a request of others. */
export type AuthVerdict =
  /** `identity`: who the policy knows it to be by what was proven; the session carries it on. */
  | { readonly kind: 'accept'; readonly identity?: string }
  | { readonly kind: 'refuse'; readonly code: ErrorCode }
  | {
      readonly kind: 'challenge';
      /** Makes and checks the nonces of the realm. */
      readonly server: DigestServer;
      /** To whose address nonces are issued, and from where alone they are good. */
      readonly peer: string;
      readonly accountOf: (username: string) => DigestAccount | null;
    };

export type AuthResult =
  | { readonly kind: 'accepted'; readonly identity: string | null }
  | { readonly kind: 'refused'; readonly error: GatewayError | null; readonly code: ErrorCode }
  | { readonly kind: 'challenged'; readonly headers: HeaderField[] };

/** Carries the verdict out: looks for credentials where they are asked for. Makes no state. */
export function authenticate(request: SipMessage, verdict: AuthVerdict): AuthResult {
  if (verdict.kind === 'accept') return { kind: 'accepted', identity: verdict.identity ?? null };
  if (verdict.kind === 'refuse') return { kind: 'refused', error: null, code: verdict.code };
  const { server, peer, accountOf } = verdict;
  let isStale = false;
  try {
    const sent = server.read(request.headers('Authorization'));
    if (sent !== null) {
      const account = accountOf(decodeUtf8(sent.username));
      const checked = server.verify(sent, request, account, peer);
      if (checked.ok) return { kind: 'accepted', identity: null };
      isStale = checked.reason === 'stale';
    }
  } catch (thrown) {
    const error = asGatewayError(thrown);
    return { kind: 'refused', error, code: error.code };
  }
  const headers = server
    .challenge(isStale, peer)
    .map((value): HeaderField => ['WWW-Authenticate', value]);
  return { kind: 'challenged', headers };
}
