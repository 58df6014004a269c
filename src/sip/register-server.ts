/**
 * A REGISTER from its arrival to its answer: judged without state, and only what has proven whose
 * it is gets a transaction, so that its repetitions find the answer again (RFC 3261 §17.2.2).
 */
import type { ErrorCode } from '../core/errors.ts';
import type { HeaderField, SipMessage } from './message.ts';
import type { Source } from './peer.ts';
import type { Registrar } from './registrar.ts';
import { isBared } from './screening.ts';
import type { TransactionTable } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

/** What the endpoint lends. */
export interface RegisterDesk {
  readonly ua: UserAgent;
  readonly transactions: TransactionTable;
  readonly isDraining: boolean;
  readonly toTag: string;
  /** Answers and keeps nothing. */
  refuse(code: ErrorCode, headers?: readonly HeaderField[]): void;
}

export function serveRegister(
  registrar: Registrar,
  request: SipMessage,
  source: Source,
  desk: RegisterDesk,
): void {
  // Phones that come go to another node then. For those that are here nothing is drained.
  if (desk.isDraining) {
    desk.refuse('DRAINING');
    return;
  }
  if (isBared(request, source)) {
    desk.refuse('SIP_FORBIDDEN');
    return;
  }
  if (desk.transactions.isMerged(request)) {
    desk.refuse('SIP_LOOP');
    return;
  }
  const judged = registrar.judge(request, source);
  if ('code' in judged) {
    desk.refuse(judged.code, judged.headers);
    return;
  }
  const transaction = desk.transactions.accept(request, source, null);
  if (transaction === null) {
    desk.refuse('OVERLOADED');
    return;
  }
  source.connection?.welcome();
  desk.ua.transport.proved(source);
  const { status, headers } = registrar.bind(judged, request, source);
  desk.ua.answer(transaction, status, { toTag: desk.toTag, headers });
}
