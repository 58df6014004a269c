/**
 * INFO within a call: a key of a phone, in both spellings that phones use (RFC 2976 left them to
 * the maker), and what passes through to the other leg: info packages (RFC 6086) and bodies of the
 * old kind that policy names. 469 and 415 say what is taken here.
 */
import type { HeaderField } from './message.ts';
import { mediaType } from './multipart.ts';
import type { InfoMessage } from './side-report.ts';
import type { ServerTransaction } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface InfoDigit {
  readonly key: string;
  readonly durationMs: number;
}

export interface InfoListener {
  emit(event: 'digit', digit: InfoDigit): boolean;
  emit(event: 'info', info: InfoMessage): boolean;
}

/** Bodies of INFO that carry a key. */
const DTMF_TYPES: readonly string[] = ['application/dtmf-relay', 'application/dtmf'];

/** What may pass through; a name with a slash is a body type, any other an info package. */
export interface InfoPolicy {
  readonly infoPass: readonly string[];
  readonly infoBytesMax: number;
}

/** Recv-Info: the packages we take (RFC 6086 §5.2.3); nothing where there is none. */
export function receivedInfo({ infoPass }: InfoPolicy): HeaderField[] {
  const packages = infoPass.filter((name) => !name.includes('/'));
  return packages.length === 0 ? [] : [['Recv-Info', packages.join(', ')]];
}

export function infoFields(info: InfoMessage): HeaderField[] {
  const fields: HeaderField[] = [];
  if (info.package !== '') {
    fields.push(['Info-Package', info.package], ['Content-Disposition', 'Info-Package']);
  }
  if (info.contentType !== '') fields.push(['Content-Type', info.contentType]);
  return fields;
}

/** Answers the request and reports the key or the message that it brought, if any. */
export function answerInfo(
  { ua, options }: { readonly ua: UserAgent; readonly options: InfoPolicy },
  transaction: ServerTransaction,
  to: InfoListener,
): void {
  const { request } = transaction;
  const { infoPass, infoBytesMax } = options;
  const contentType = request.header('Content-Type') ?? '';
  const { type } = mediaType(contentType);
  const name = (request.header('Info-Package') ?? '').split(';')[0]?.trim() ?? '';
  if (name !== '' && !isNamed(name, infoPass)) {
    // RFC 6086 §4.2.1: the field is there even where it names none.
    const [field = ['Recv-Info', '']] = receivedInfo(options);
    ua.answer(transaction, 469, { headers: [field] });
    return;
  }
  const isKey = name === '' && (request.body === '' || DTMF_TYPES.includes(type));
  const isPassed = name !== '' || (!isKey && isNamed(type, infoPass));
  if (!isKey && !isPassed) {
    const types = [...DTMF_TYPES, ...infoPass.filter((one) => one.includes('/'))];
    ua.answer(transaction, 415, { headers: [['Accept', types.join(', ')]] });
    return;
  }
  if (isPassed && request.body.length > infoBytesMax) {
    ua.answer(transaction, 413);
    return;
  }
  ua.answer(transaction, 200);
  if (isPassed) {
    to.emit('info', { package: name, contentType, body: request.body });
    return;
  }
  const digit = readDigit(type, request.body);
  if (digit !== null) to.emit('digit', digit);
}

/** RFC 6086 §6.3: names are compared without regard to case. */
function isNamed(name: string, among: readonly string[]): boolean {
  return among.some((one) => one.toLowerCase() === name.toLowerCase());
}

/** `Signal=5`, `Duration=160`, or the key alone: what phones send in INFO. */
function readDigit(type: string, body: string): InfoDigit | null {
  const isRelay = type === 'application/dtmf-relay';
  const key = isRelay ? /^\s*signal\s*=\s*([0-9*#a-d])\s*$/im.exec(body)?.[1] : body.trim();
  if (key === undefined || !/^[0-9*#a-d]$/i.test(key)) return null;
  const durationMs = Number(/^\s*duration\s*=\s*(\d{1,5})\s*$/im.exec(body)?.[1] ?? 160);
  return { key: key.toUpperCase(), durationMs };
}
