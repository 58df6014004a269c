/**
 * What a session says that it can: Allow, Supported, Recv-Info, Allow-Events (RFC 3261 §20.5,
 * §20.37; RFC 6086 §5.2.3; RFC 6665 §8.2.2). Each is true for the policy it is made of, so that a
 * peer never asks for what it would be refused.
 */
import { receivedInfo } from './info.ts';
import type { HeaderField } from './message.ts';
import type { SessionOptions, SessionPolicy } from './session-report.ts';
import { ALLOW_EVENTS_FIELD } from './side-report.ts';
import { ALLOW_FIELD } from './user-agent.ts';

const WITH_REFER: HeaderField = ['Allow', `${ALLOW_FIELD[1]}, REFER, SUBSCRIBE`];

function mayRefer({ refer = 'refuse' }: SessionPolicy): boolean {
  return refer !== 'refuse';
}

/** On requests within the dialog and on 2xx. */
export function standing(policy: SessionPolicy, options: SessionOptions): HeaderField[] {
  const refers = mayRefer(policy);
  const supported: string[] = [];
  if (policy.sessionTimer.mode !== 'off') supported.push('timer');
  if (refers) supported.push('replaces', 'norefersub');
  const fields = [refers ? WITH_REFER : ALLOW_FIELD];
  if (supported.length > 0) fields.push(['Supported', supported.join(', ')]);
  if (refers) fields.push(ALLOW_EVENTS_FIELD);
  return [...fields, ...receivedInfo(options)];
}

/** On the first INVITE, with what policy asks of the peer there. */
export function first(policy: SessionPolicy, options: SessionOptions): HeaderField[] {
  const { reliable, sessionTimer } = policy;
  const refers = mayRefer(policy);
  // RFC 6228 §4: who reads 199 may be told that a branch of a fork is over.
  const supported = ['199'];
  if (reliable !== 'off') supported.unshift('100rel');
  if (sessionTimer.mode !== 'off') supported.push('timer');
  if (refers) supported.push('replaces', 'norefersub');
  const fields: HeaderField[] = [
    refers ? WITH_REFER : ALLOW_FIELD,
    ['Supported', supported.join(', ')],
    ...receivedInfo(options),
  ];
  if (refers) fields.push(ALLOW_EVENTS_FIELD);
  if (reliable === 'require') fields.push(['Require', '100rel']);
  return fields;
}

/** The answer to OPTIONS (RFC 3261 §11.2): what an INVITE would be told, and what it may carry. */
export function described(policy: SessionPolicy, options: SessionOptions): HeaderField[] {
  const supported = [];
  if (policy.reliable !== 'off') supported.push('100rel');
  if (policy.sessionTimer.mode !== 'off') supported.push('timer');
  const refers = mayRefer(policy);
  if (refers) supported.push('replaces', 'norefersub');
  const fields: HeaderField[] = [
    refers ? WITH_REFER : ALLOW_FIELD,
    ['Accept', 'application/sdp'],
    ['Accept-Encoding', 'identity'],
    ['Accept-Language', 'en'],
  ];
  if (supported.length > 0) fields.push(['Supported', supported.join(', ')]);
  if (refers) fields.push(ALLOW_EVENTS_FIELD);
  return [...fields, ...receivedInfo(options)];
}
