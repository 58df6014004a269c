/**
 * Callers who prove whose they are: an INVITE is challenged for the names of the trunks and domains
 * it may belong to (RFC 3261 §22.2, RFC 8760), and what it proves travels with its session from
 * then on. The arithmetic is `sip/digest.ts`; who has which names is the table's.
 */
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { DigestServer } from '../sip/digest.ts';
import { decodeUtf8, type SipMessage } from '../sip/message.ts';

/** One of the names that a claim knows: its own sid, and the password that proves the name. */
export interface InboundAccount {
  readonly sid: string;
  readonly password: Secret;
}

export type AccountsOf = (username: string) => readonly InboundAccount[];

const NONCE_SECRET_BYTES = 32;

export class InboundDigest {
  readonly #server: DigestServer;

  constructor({ clock, realm }: { clock: Clock; realm: string }) {
    const nonceSecret = new Secret(clock.randomHex(NONCE_SECRET_BYTES));
    this.#server = new DigestServer({ clock, realm, nonceSecret });
  }

  /** Lets the request in, with the sids it has proven, or asks for the proof. */
  authenticate(request: SipMessage, accountsOf: AccountsOf): AuthVerdict {
    const proven = this.#prove(request, accountsOf);
    if (proven.length > 0) return { kind: 'accept', identity: proven.join(' ') };
    // What was sent is judged once more there, for the words of the answer: stale or not.
    const accountOf = (username: string): InboundAccount | null => accountsOf(username)[0] ?? null;
    return { kind: 'challenge', server: this.#server, accountOf };
  }

  #prove(request: SipMessage, accountsOf: AccountsOf): readonly string[] {
    try {
      const sent = this.#server.read(request.headers('Authorization'));
      if (sent === null) return [];
      const accounts = accountsOf(decodeUtf8(sent.username));
      // As much work for a name that nobody has.
      if (accounts.length === 0) this.#server.verify(sent, request, null);
      const right = accounts.find((account) => this.#server.verify(sent, request, account).ok);
      if (right === undefined) return [];
      // A nonce serves once, so others with this very name and password are not asked again.
      const password = right.password.reveal();
      return accounts.filter((one) => one.password.reveal() === password).map(({ sid }) => sid);
    } catch (thrown) {
      if (thrown instanceof GatewayError) return [];
      throw thrown;
    }
  }
}
