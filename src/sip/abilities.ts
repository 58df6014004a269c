/**
 * What a session says that it can: Allow, Supported, Recv-Info, Allow-Events (RFC 3261 §20.5,
 * §20.37; RFC 6086 §5.2.3; RFC 6665 §8.2.2). Each is true for the policy it is made of, so that a
 * peer never asks for what it would be refused.
 */
import { receivedInfo } from './info.ts';
import type { HeaderField } from './message.ts';
import type { SessionOptions, SessionPolicy } from './session-report.ts';
import { ALLOW_EVENTS_FIELD } from './side-report.ts';

/**
 * Methods that are carried out. Others that are known get 405, and 501 is for the rest. NOTIFY is
 * among them as any session of ours may send REFER (RFC 3515 §2.4.4).
 */
const METHODS = 'INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, PRACK, UPDATE, NOTIFY';

/**
 * `first`: on the INVITE that begins a call. `standing`: on requests within the dialog and on 2xx.
 * `described`: the answer to OPTIONS (RFC 3261 §11.2), what an INVITE would be told.
 */
type Occasion = 'first' | 'standing' | 'described';

function mayRefer({ refer = 'refuse' }: SessionPolicy): boolean {
  return refer !== 'refuse';
}

function allowField(policy: SessionPolicy, hasRegistrar: boolean): HeaderField {
  const refers = mayRefer(policy) ? ', REFER, SUBSCRIBE' : '';
  return ['Allow', `${METHODS}${refers}${hasRegistrar ? ', REGISTER' : ''}`];
}

function supported(occasion: Occasion, policy: SessionPolicy): string {
  const { reliable, sessionTimer } = policy;
  const tags: string[] = [];
  if (occasion !== 'standing' && reliable !== 'off') tags.push('100rel');
  // RFC 6228 §4: who reads 199 may be told that a branch of a fork is over.
  if (occasion === 'first') tags.push('199');
  if (sessionTimer.mode !== 'off') tags.push('timer');
  if (mayRefer(policy)) tags.push('replaces', 'norefersub');
  return tags.join(', ');
}

/** `hasRegistrar`: outside of dialogs, where phones may register with us. */
export function abilities(
  occasion: Occasion,
  policy: SessionPolicy,
  options: SessionOptions,
  hasRegistrar = false,
): HeaderField[] {
  const fields: HeaderField[] = [allowField(policy, hasRegistrar)];
  if (occasion === 'described') fields.push(...ACCEPTED);
  const tags = supported(occasion, policy);
  if (tags !== '') fields.push(['Supported', tags]);
  if (mayRefer(policy)) fields.push(ALLOW_EVENTS_FIELD);
  fields.push(...receivedInfo(options));
  if (occasion === 'first' && policy.reliable === 'require') fields.push(['Require', '100rel']);
  return fields;
}

/** What an INVITE may carry. */
const ACCEPTED: readonly HeaderField[] = [
  ['Accept', 'application/sdp'],
  ['Accept-Encoding', 'identity'],
  ['Accept-Language', 'en'],
];
