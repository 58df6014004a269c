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

export interface Credentials {
  readonly username: string;
  readonly password: Secret;
  /** Answer only this realm; of whoever the request was sent to when absent. */
  readonly realm?: string;
}

/** The credentials of one request: each new request begins a new one. */
export class CredentialAnswer implements ChallengeAnswer {
  readonly #client: DigestClient;

  constructor(options: { clock: Clock; credentials: Credentials }) {
    const { username, password, realm } = options.credentials;
    const pinned = realm === undefined ? {} : { realm };
    this.#client = new DigestClient({ clock: options.clock, username, password, ...pinned });
  }

  answer(response: SipMessage, request: OutgoingRequest): HeaderField | null {
    const isProxy = response.status === 407;
    const challenges = response.headers(isProxy ? 'Proxy-Authenticate' : 'WWW-Authenticate');
    const value = this.#client.answer(challenges, request);
    return value === null ? null : [isProxy ? 'Proxy-Authorization' : 'Authorization', value];
  }
}

/** What the policy says about a request of others. */
export type AuthVerdict =
  | { readonly kind: 'accept' }
  | { readonly kind: 'refuse'; readonly code: ErrorCode }
  | {
      readonly kind: 'challenge';
      /** Makes and checks the nonces of the realm. */
      readonly server: DigestServer;
      readonly accountOf: (username: string) => DigestAccount | null;
    };

export type AuthResult =
  | { readonly kind: 'accepted' }
  | { readonly kind: 'refused'; readonly error: GatewayError | null; readonly code: ErrorCode }
  | { readonly kind: 'challenged'; readonly headers: HeaderField[] };

/** Carries the verdict out: looks for credentials where they are asked for. Makes no state. */
export function authenticate(request: SipMessage, verdict: AuthVerdict): AuthResult {
  if (verdict.kind === 'accept') return { kind: 'accepted' };
  if (verdict.kind === 'refuse') return { kind: 'refused', error: null, code: verdict.code };
  const { server, accountOf } = verdict;
  let isStale = false;
  try {
    const sent = server.read(request.headers('Authorization'));
    if (sent !== null) {
      const account = accountOf(decodeUtf8(sent.username));
      const checked = server.verify(sent, request, account);
      if (checked.ok) return { kind: 'accepted' };
      isStale = checked.reason === 'stale';
    }
  } catch (thrown) {
    const error = asGatewayError(thrown);
    return { kind: 'refused', error, code: error.code };
  }
  const headers = server
    .challenge(isStale)
    .map((value): HeaderField => ['WWW-Authenticate', value]);
  return { kind: 'challenged', headers };
}
