/**
 * INFO within a call (RFC 2976): the one use that phones make of it, a DTMF key. Other bodies get
 * 415; info packages (RFC 6086) are not offered.
 */
import { mediaType } from './multipart.ts';
import type { ServerTransaction } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface InfoDigit {
  readonly key: string;
  readonly durationMs: number;
}

export interface InfoListener {
  emit(event: 'digit', digit: InfoDigit): boolean;
}

/** Bodies of INFO that carry a key. */
const DTMF_TYPES: ReadonlySet<string> = new Set(['application/dtmf-relay', 'application/dtmf']);

/** Answers the request and reports the key that it brought, if any. */
export function answerInfo(ua: UserAgent, transaction: ServerTransaction, to: InfoListener): void {
  const { request } = transaction;
  const { type } = mediaType(request.header('Content-Type') ?? '');
  if (request.body !== '' && !DTMF_TYPES.has(type)) {
    ua.answer(transaction, 415, { headers: [['Accept', [...DTMF_TYPES].join(', ')]] });
    return;
  }
  ua.answer(transaction, 200);
  const digit = readDigit(type, request.body);
  if (digit !== null) to.emit('digit', digit);
}

/** `Signal=5`, `Duration=160`, or the key alone: what phones send in INFO. */
function readDigit(type: string, body: string): InfoDigit | null {
  const isRelay = type === 'application/dtmf-relay';
  const key = isRelay ? /^\s*signal\s*=\s*([0-9*#a-d])\s*$/im.exec(body)?.[1] : body.trim();
  if (key === undefined || !/^[0-9*#a-d]$/i.test(key)) return null;
  const durationMs = Number(/^\s*duration\s*=\s*(\d{1,5})\s*$/im.exec(body)?.[1] ?? 160);
  return { key: key.toUpperCase(), durationMs };
}
