/**
 * Callers without a fixed address: an INVITE from somewhere unknown is challenged when any trunk
 * has credentials for its own calls (RFC 3261 §22.2, RFC 8760), and the name it proves says which
 * trunk's call it is. The arithmetic is `sip/digest.ts`; which trunk has which name is the table's.
 */
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { Secret } from '../core/log.ts';
import type { TrunkSid } from '../core/sid.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { DigestServer } from '../sip/digest.ts';
import { decodeUtf8, parseNameAddr, parseUri, type SipMessage } from '../sip/message.ts';
import type { PeerAddress } from '../sip/peer.ts';
import { partyOf, unescapeUser } from './leg-signal.ts';
import type { InboundQuery } from './route.ts';

export interface InboundAccount {
  readonly trunkSid: TrunkSid;
  readonly password: Secret;
}

export interface InboundDigestOptions {
  readonly realm: string;
  /** From the proof to the question whose call it is: the edge's time to ask the router. */
  readonly provenMsMax: number;
  /** Proofs nobody has asked for yet. */
  readonly provenMax: number;
}

export const DEFAULT_INBOUND_DIGEST = {
  provenMsMax: 10_000,
  provenMax: 10_000,
} as const satisfies Partial<InboundDigestOptions>;

const NONCE_SECRET_BYTES = 32;

type Asked = Pick<InboundQuery, 'source' | 'user' | 'host' | 'from'>;

interface Proof {
  readonly trunkSid: TrunkSid;
  readonly atMs: number;
}

export class InboundDigest {
  readonly #clock: Clock;
  readonly #options: InboundDigestOptions;
  readonly #accountOf: (username: string) => InboundAccount | null;
  readonly #server: DigestServer;
  /** By what both the request and the router's question tell; oldest first. */
  readonly #proven = new Map<string, Proof>();

  constructor(o: {
    clock: Clock;
    options: InboundDigestOptions;
    accountOf: (username: string) => InboundAccount | null;
  }) {
    this.#clock = o.clock;
    this.#options = o.options;
    this.#accountOf = o.accountOf;
    this.#server = new DigestServer({
      clock: o.clock,
      realm: o.options.realm,
      nonceSecret: new Secret(o.clock.randomHex(NONCE_SECRET_BYTES)),
    });
  }

  /** Lets the request in when it proves a trunk's name, else asks for the proof. */
  authenticate(request: SipMessage, source: PeerAddress): AuthVerdict {
    const trunkSid = this.#prove(request);
    if (trunkSid === null) {
      // What was sent is judged once more there, for the words of the answer: stale or not.
      return { kind: 'challenge', server: this.#server, accountOf: this.#accountOf };
    }
    if (this.#proven.size >= this.#options.provenMax) {
      const [oldest] = this.#proven.keys();
      if (oldest !== undefined) this.#proven.delete(oldest);
    }
    const { user, host } = parseUri(request.uri);
    const from = partyOf(parseNameAddr(request.header('From') ?? '').uriText);
    const key = keyOf({ source, user: unescapeUser(user), host, from });
    this.#proven.delete(key);
    this.#proven.set(key, { trunkSid, atMs: this.#clock.monotonicMs() });
    return { kind: 'accept' };
  }

  /** The trunk whose name that call has proven; each proof is for one call. */
  take(query: Asked): TrunkSid | null {
    const key = keyOf(query);
    const proof = this.#proven.get(key);
    if (proof === undefined) return null;
    this.#proven.delete(key);
    const ageMs = this.#clock.monotonicMs() - proof.atMs;
    return ageMs <= this.#options.provenMsMax ? proof.trunkSid : null;
  }

  #prove(request: SipMessage): TrunkSid | null {
    try {
      const sent = this.#server.read(request.headers('Authorization'));
      if (sent === null) return null;
      const account = this.#accountOf(decodeUtf8(sent.username));
      const isRight = this.#server.verify(sent, request, account).ok;
      return isRight ? (account?.trunkSid ?? null) : null;
    } catch (thrown) {
      if (thrown instanceof GatewayError) return null;
      throw thrown;
    }
  }
}

function keyOf({ source, user, host, from }: Asked): string {
  const { transport, address, port } = source;
  return JSON.stringify([transport, address, port, user, host, from]);
}
