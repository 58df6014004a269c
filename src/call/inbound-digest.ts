/**
 * Callers who prove whose they are: an INVITE is challenged for the names of the trunks and domains
 * it may belong to (RFC 3261 §22.2, RFC 8760), and what it proves travels with its session from
 * then on. The arithmetic is `sip/digest.ts`, how often one may try `sip/digest-prover.ts`; who has
 * which names is the table's.
 */
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { DigestServer } from '../sip/digest.ts';
import type { DigestProver } from '../sip/digest-prover.ts';
import type { SipMessage } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';

/** One of the names that a claim knows: its own sid, and the password that proves the name. */
export interface InboundAccount {
  readonly sid: string;
  readonly password: Secret;
}

export type AccountsOf = (username: string) => readonly InboundAccount[];

const NONCE_SECRET_BYTES = 32;

export class InboundDigest {
  readonly #prover: DigestProver;
  readonly #realm: string;
  readonly #server: DigestServer;

  constructor({ clock, realm, prover }: { clock: Clock; realm: string; prover: DigestProver }) {
    const nonceSecret = new Secret(clock.randomHex(NONCE_SECRET_BYTES));
    this.#prover = prover;
    this.#realm = realm;
    this.#server = new DigestServer({ clock, realm, nonceSecret });
  }

  /**
   * Lets the request in, with the sids it has proven, or asks for the proof. `domain`: the one of
   * ours that is called, whose realm it is then; null: a trunk's call.
   */
  authenticate(
    request: SipMessage,
    source: PeerAddress,
    domain: string | null,
    accountsOf: AccountsOf,
  ): AuthVerdict {
    const server = domain === null ? this.#server : this.#prover.serverOf(domain);
    const asked = { server, realm: domain ?? this.#realm };
    let isStale = false;
    try {
      const proof = this.#prover.prove(request, source, asked, accountsOf);
      if (proof.kind === 'right') {
        // A nonce serves once, so others with this very name and password are not asked again.
        const password = proof.account.password.reveal();
        const proven = accountsOf(proof.username).filter(
          (one) => one.password.reveal() === password,
        );
        return { kind: 'accept', identity: proven.map(({ sid }) => sid).join(' ') };
      }
      isStale = proof.kind === 'stale';
    } catch (thrown) {
      if (!(thrown instanceof GatewayError)) throw thrown;
    }
    // What was sent is judged once more there, for the words of the answer: stale or not.
    const accountOf = (username: string): InboundAccount | null =>
      isStale ? (accountsOf(username)[0] ?? null) : null;
    return { kind: 'challenge', server, peer: source.address, accountOf };
  }
}
