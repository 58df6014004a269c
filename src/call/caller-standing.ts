/**
 * Who an INVITE comes from, as the gate finds it, in words: whoever is known by a registration
 * first, then trunks and domains. For the trace of a refusal (`inbound-gate.ts`) and for dry runs
 * (`explain.ts`); nothing is proven here, and nothing counted.
 */
import type { AuthVerdict } from '../sip/challenge.ts';
import type { SipMessage } from '../sip/message.ts';
import type { Source } from '../sip/peer.ts';
import type { Decisions } from './decision.ts';
import type { InboundQuery } from './route.ts';
import type { KnownSource, StoreRouteTable } from './route-table.ts';

/** What is looked at of an INVITE. */
export interface AskedCaller {
  readonly requestUri: string;
  readonly fromUri: string;
  readonly source: KnownSource;
}

/** `challenge`: it would be asked for a password. */
export interface SourceStanding {
  readonly standing: 'is' | 'challenge' | 'not';
  /** What it would have proven if it could prove everything that it may be asked for. */
  readonly identity: string | null;
  /** It is nobody, and asked for a password that nobody has: who is there is not told. */
  readonly isAskedInVain?: boolean;
}

/** Who is known by a registration, of theirs here or of ours there. */
export interface RegisteredParties {
  isOurs(request: SipMessage): boolean;
  /** Null: nobody of these. */
  authenticate(request: SipMessage, source: Source): AuthVerdict | null;
  /** Of who would be refused where others are asked for a proof; null: nobody is there. */
  challenge(request: SipMessage, source: Source): AuthVerdict | null;
  /** What `authenticate` would find, in words; null: nobody of these. */
  look(asked: AskedCaller, decisions: Decisions): SourceStanding | null;
  /** Whether `challenge` would ask who calls this address. */
  challenges(requestUri: string): boolean;
}

export function explainCaller(
  asked: AskedCaller & { readonly query: InboundQuery },
  among: { readonly routes: StoreRouteTable; readonly registered: RegisteredParties | null },
  decisions: Decisions,
): SourceStanding {
  const registered = among.registered?.look(asked, decisions) ?? null;
  if (registered !== null) return registered;
  const found = among.routes.explainSource(asked.query, decisions);
  if (found.standing === 'challenge') {
    decisions.ok('digest', 'the caller is asked for a name and password (401)');
  }
  if (found.standing !== 'not' || among.registered?.challenges(asked.requestUri) !== true) {
    return found;
  }
  decisions.ok('digest', 'it is asked for a password as phones are (401), and none is right');
  return { ...found, isAskedInVain: true };
}
