/**
 * The first word to an INVITE, before there is any state for it: whom we know, who has to prove
 * themselves, who is told no. What is refused here leaves its reasons in the trace by Call-ID,
 * strangers' apart from those of people we know. Who is who is the table's (`route-table.ts`).
 */
import { describe, type ErrorCode } from '../core/errors.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { parseNameAddr, type SipMessage } from '../sip/message.ts';
import type { Source } from '../sip/peer.ts';
import { Decisions } from './decision.ts';
import { partyOf } from './leg-signal.ts';
import { calledIn } from './number-format.ts';
import type { InboundQuery } from './route.ts';
import type { KnownSource, StoreRouteTable } from './route-table.ts';
import type { TraceBook } from './trace.ts';

/** Who is known by a registration, of theirs here or of ours there. */
export interface RegisteredParties {
  isOurs(request: SipMessage, source: Source): boolean;
  /** Null: nobody of these. */
  authenticate(request: SipMessage, source: Source): AuthVerdict | null;
}

export class InboundGate {
  readonly #routes: StoreRouteTable;
  readonly #trace: TraceBook;
  readonly #registered: RegisteredParties | null;

  constructor(parts: {
    routes: StoreRouteTable;
    trace: TraceBook;
    registered?: RegisteredParties;
  }) {
    this.#routes = parts.routes;
    this.#trace = parts.trace;
    this.#registered = parts.registered ?? null;
  }

  /** A code for who could prove nothing anyway. */
  admit(request: SipMessage, source: Source): ErrorCode | null {
    if (request.method !== 'INVITE' || !this.#routes.refuses(source.address)) return null;
    if (this.#registered?.isOurs(request, source)) return null;
    this.#remember(request, source, 'SIP_FORBIDDEN');
    return 'SIP_FORBIDDEN';
  }

  authenticate(request: SipMessage, source: Source): AuthVerdict {
    const registered = this.#registered?.authenticate(request, source) ?? null;
    const verdict = registered ?? this.#routes.authenticate(request, source);
    if (verdict.kind === 'refuse') this.#remember(request, source, verdict.code);
    // The first one without credentials only asks for the challenge.
    else if (verdict.kind === 'challenge' && request.header('Authorization') !== undefined) {
      this.#remember(request, source, 'SIP_AUTH_REQUIRED');
    }
    return verdict;
  }

  #remember(request: SipMessage, source: KnownSource, code: ErrorCode): void {
    const decisions = new Decisions();
    try {
      this.#routes.explainSource(queryOf(request, source), decisions);
    } catch {
      // What cannot be read is refused for that; nothing more can be said.
    }
    if (code === 'SIP_AUTH_REQUIRED') {
      const what = 'the name and password that were sent are not right';
      decisions.no('digest', what, 'the credentials that the caller sends');
    }
    const [first] = decisions.list;
    this.#trace.refuse({
      sipCallId: request.callId,
      code,
      text: describe(code, { problem: first?.what ?? '' }),
      accountSid: null,
      decisions: decisions.list,
      isStranger: !this.#routes.isKnown(source.address),
    });
  }
}

function queryOf(request: SipMessage, source: KnownSource): InboundQuery {
  const called = calledIn(request.uri);
  const from = partyOf(parseNameAddr(request.header('From') ?? '').uriText);
  const { certificateNames = [] } = source;
  const known = { headers: {}, identity: null };
  return { ...called, from, source, certificateNames, ...known };
}
