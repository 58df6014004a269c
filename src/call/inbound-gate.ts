/**
 * The first word to an INVITE, before there is any state for it: whom we know, who has to prove
 * themselves, who is told no. What is refused here leaves its reasons in the trace by Call-ID,
 * strangers' apart from those of people we know. Who is who is the table's (`route-table.ts`).
 */
import { describe, type ErrorCode } from '../core/errors.ts';
import type { AuthVerdict } from '../sip/challenge.ts';
import { parseNameAddr, type SipMessage } from '../sip/message.ts';
import type { Source } from '../sip/peer.ts';
import { explainCaller, type RegisteredParties } from './caller-standing.ts';
import { Decisions, firstFailure } from './decision.ts';
import { partyOf } from './leg-signal.ts';
import { calledIn } from './number-format.ts';
import type { InboundQuery } from './route.ts';
import type { KnownSource, StoreRouteTable } from './route-table.ts';
import type { TraceBook } from './trace.ts';

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
    if (this.#registered?.isOurs(request)) return null;
    this.#remember(request, source, 'SIP_FORBIDDEN');
    return 'SIP_FORBIDDEN';
  }

  authenticate(request: SipMessage, source: Source): AuthVerdict {
    const registered = this.#registered?.authenticate(request, source) ?? null;
    const known = registered ?? this.#routes.authenticate(request, source);
    const isRefused = registered === null && known.kind === 'refuse';
    const verdict = (isRefused && this.#registered?.challenge(request, source)) || known;
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
      const among = { routes: this.#routes, registered: this.#registered };
      explainCaller(askedOf(request, source), among, decisions);
    } catch {
      // What cannot be read is refused for that; nothing more can be said.
    }
    if (code === 'SIP_AUTH_REQUIRED') {
      const what = 'the name and password that were sent are not right';
      decisions.no('digest', what, 'the credentials that the caller sends');
    }
    const problem = firstFailure(decisions.list)?.what ?? '';
    this.#trace.refuse({
      sipCallId: request.callId,
      code,
      text: describe(code, { problem }),
      accountSid: null,
      decisions: decisions.list,
      isStranger: !this.#routes.isKnown(source.address),
    });
  }
}

function askedOf(request: SipMessage, source: KnownSource) {
  const { uri: requestUri } = request;
  const { uriText: fromUri } = parseNameAddr(request.header('From') ?? '');
  const { certificateNames = [] } = source;
  const known = { headers: {}, identity: null };
  const from = partyOf(fromUri);
  const query: InboundQuery = { ...calledIn(requestUri), from, source, certificateNames, ...known };
  return { requestUri, fromUri, source, query };
}
