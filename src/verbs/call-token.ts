/**
 * The token by which an application proves that a call it makes goes on from one that came: who
 * gives it back with `POST /Calls` may show that call's caller as its own, and what the caller's
 * network said of him (withheld or not, who diverted) goes with it. Opaque to applications.
 *
 * A token is the call's sid, its caller and an HMAC of both under the account's token: it needs no
 * memory, outlives a restart, and is worth nothing to another account or after the account's token
 * is changed.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { CallRecord } from '../call/call-record.ts';
import type { Secret } from '../core/log.ts';
import { type CallSid, isSid } from '../core/sid.ts';

export interface CallToken {
  readonly callSid: CallSid;
  /** The caller that may be shown. */
  readonly from: string;
}

/** What makes this signature no other of ours. */
const PURPOSE = 'call-token';
const TOKEN_CHARS_MAX = 2_048;

/** Of calls that came, and of no others: there a caller was given to us. */
export function callTokenParameter(
  call: CallRecord,
  key: Secret,
): Readonly<Record<string, string>> {
  if (call.direction !== 'inbound') return {};
  return { CallToken: callToken({ callSid: call.sid, from: call.from }, key) };
}

export function callToken({ callSid, from }: CallToken, key: Secret): string {
  const body = Buffer.from(JSON.stringify([callSid, from])).toString('base64url');
  return `${body}.${signatureOf(body, key).toString('base64url')}`;
}

/** Null for what was not made with this key. */
export function readCallToken(token: string, key: Secret): CallToken | null {
  const [body = '', signature = '', ...more] = token.split('.');
  if (token.length > TOKEN_CHARS_MAX || more.length > 0) return null;
  const given = Buffer.from(signature, 'base64url');
  const right = signatureOf(body, key);
  if (given.length !== right.length || !timingSafeEqual(given, right)) return null;
  const [callSid, from] = JSON.parse(Buffer.from(body, 'base64url').toString('utf8'));
  return isSid('CA', callSid) ? { callSid, from: String(from) } : null;
}

function signatureOf(body: string, key: Secret): Buffer {
  return createHmac('sha256', key.reveal()).update(`${PURPOSE}.${body}`).digest();
}
