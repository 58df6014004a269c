/**
 * Proofs by digest of whoever it is, REGISTER or INVITE: wrong ones count together, so that no way
 * in is an oracle for what another protects. A nonce is good from the address alone that it was
 * issued to: with a stolen one nobody counts failures against another, whose address he writes.
 */
import type { Clock } from '../core/clock.ts';
import { type Log, redact, type Secret } from '../core/log.ts';
import { AttemptLimit } from './attempt-limit.ts';
import { type DigestAccount, DigestServer } from './digest.ts';
import { decodeUtf8, type SipMessage } from './message.ts';
import type { PeerAddress } from './peer.ts';
import type { RegistrarOptions } from './registrar-options.ts';

export type Proof<Account extends DigestAccount> =
  | { readonly kind: 'right'; readonly account: Account; readonly username: string }
  /** `none`: nothing was sent. `closed`: nothing is believed now. */
  | { readonly kind: 'none' | 'stale' | 'wrong' | 'closed' };

export type DigestProverOptions = Pick<
  RegistrarOptions,
  'algorithms' | 'nonceLifetimeMs' | 'noncesMax' | 'attempts'
>;

export class DigestProver {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #secret: Secret;
  readonly #options: DigestProverOptions;
  readonly #attempts: AttemptLimit;
  readonly #servers = new Map<string, DigestServer>();

  constructor(parts: { clock: Clock; log: Log; secret: Secret; options: DigestProverOptions }) {
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#secret = parts.secret;
    this.#options = parts.options;
    this.#attempts = new AttemptLimit(parts.options.attempts);
  }

  /** Failures and proofs that are remembered. */
  get attemptsHeld(): number {
    return this.#attempts.size;
  }

  /** That of a domain of ours: its challenges look the same whatever they are for. */
  serverOf(realm: string): DigestServer {
    const known = this.#servers.get(realm);
    if (known !== undefined) return known;
    const { algorithms, nonceLifetimeMs, noncesMax } = this.#options;
    const [clock, nonceSecret] = [this.#clock, this.#secret];
    const bounds = { nonceLifetimeMs, noncesMax };
    const server = new DigestServer({ clock, realm, nonceSecret, algorithms, ...bounds });
    this.#servers.set(realm, server);
    return server;
  }

  /**
   * The same work whatever the outcome: the delay of a guesser must not tell of the user. Throws
   * SIP_MALFORMED as the server does.
   */
  prove<Account extends DigestAccount>(
    request: SipMessage,
    source: PeerAddress,
    { server, realm }: { server: DigestServer; realm: string },
    accountsOf: (username: string) => readonly Account[],
  ): Proof<Account> {
    const sent = server.read(request.headers('Authorization'));
    if (sent === null) return { kind: 'none' };
    const { address: peer } = source;
    const username = decodeUtf8(sent.username);
    const name = `${username}@${realm}`;
    const nowMs = this.#clock.monotonicMs();
    const isOpen = this.#attempts.isOpen(peer, name, nowMs);
    const accounts = accountsOf(username);
    let isStale = false;
    // As much work for a name that nobody has.
    for (const account of accounts.length === 0 ? [null] : accounts) {
      const checked = server.verify(sent, request, isOpen ? account : null, peer);
      if (checked.ok && account !== null) {
        this.#attempts.succeeded(peer, name);
        return { kind: 'right', account, username };
      }
      if (checked.ok) continue;
      if (checked.reason === 'replayed') return { kind: 'wrong' };
      isStale ||= checked.reason === 'stale';
    }
    if (isStale) return { kind: 'stale' };
    if (!isOpen) return { kind: 'closed' };
    // A nonce of another place or time tells nothing about the password.
    if (server.isFresh(sent.nonce, peer)) {
      this.#attempts.failed(peer, name, nowMs);
      this.#log.debug({ source: redact(peer, 7), realm }, 'wrong credentials');
    }
    return { kind: 'wrong' };
  }
}
