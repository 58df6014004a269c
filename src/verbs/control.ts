/**
 * `<Redirect>`, `<Hangup>`, `<Reject>`: verbs that say nothing and decide what comes next.
 */
import { method, oneOf } from './schema.ts';
import { type Outcome, type VerbRow, verb } from './verb.ts';

const REDIRECT_ATTRIBUTES = { method: method('POST', 13710) };

interface Redirect {
  /** '' is the present document, which so begins anew. */
  readonly url: string;
  readonly method: 'GET' | 'POST';
}

const REDIRECT_ROW: VerbRow<typeof REDIRECT_ATTRIBUTES, Redirect, object> = {
  name: 'Redirect',
  doc: 'goes on with another document',
  attributes: REDIRECT_ATTRIBUTES,
  children: [],
  hasText: true,
  // The next document decides whether the call is answered at all.
  needsAnswer: () => false,
  read: (values, content) => ({ url: content.text, method: values.method }),
  run(redirect, context) {
    const target = redirect.url === '' ? null : redirect.url;
    return Promise.try(() => ({
      kind: 'document',
      url: context.resolve(target),
      method: redirect.method,
      params: {},
    }));
  },
};

const HANGUP: Outcome = { kind: 'hangup', code: 'CALL_COMPLETED' };

const HANGUP_ROW: VerbRow<Record<never, never>, null, object> = {
  name: 'Hangup',
  doc: 'ends the call; one that was not answered yet is answered first',
  attributes: {},
  children: ['Parameter'],
  hasText: false,
  read: () => null,
  run: () => Promise.resolve(HANGUP),
};

const REJECT_ATTRIBUTES = {
  reason: oneOf(['rejected', 'busy'], { absent: 'rejected', number: 13810 }),
};

const REJECT_ROW: VerbRow<typeof REJECT_ATTRIBUTES, 'rejected' | 'busy', object> = {
  name: 'Reject',
  doc: 'refuses a call that was not answered yet',
  attributes: REJECT_ATTRIBUTES,
  children: ['Parameter'],
  hasText: false,
  needsAnswer: () => false,
  read: (values) => values.reason,
  run(reason, context) {
    // Once answered there is nothing left to refuse; what comes after it cannot be meant to run.
    if (context.call.answeredAtMs !== null) return Promise.resolve(HANGUP);
    return Promise.resolve({
      kind: 'hangup',
      code: reason === 'busy' ? 'CALL_BUSY' : 'CALL_REJECTED',
    });
  },
};

export const REDIRECT = verb(REDIRECT_ROW);
export const HANG_UP = verb(HANGUP_ROW);
export const REJECT = verb(REJECT_ROW);
