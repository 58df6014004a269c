/**
 * What the caller of a `<Dial>` hears until somebody has answered: the early media of the callee
 * who has any (RFC 3960), else a ringing tone, else nothing but a 180, at which his phone rings by
 * itself. A caller who is not answered yet hears early media in a 183 of his own.
 */
import type { CallSid } from '../core/sid.ts';
import { type Attempt, change, type DialContext, stateOf } from './dial-state.ts';
import { playIdOf, stop } from './output.ts';
import type { RingingTone } from './tones.ts';

const RINGING_LEVEL_DB = -19;

export class Hearing {
  readonly #tone: RingingTone;
  readonly #context: DialContext;
  /** The caller was told that it rings, and asked to hear; each is said once. */
  #isRingSaid = false;
  #isEarlySaid = false;
  #isSomething = false;

  constructor(tone: RingingTone, context: DialContext) {
    this.#tone = tone;
    this.#context = context;
  }

  /** Makes the caller hear what there is now. True when it is something for the first time. */
  review(open: readonly Attempt[]): boolean {
    const context = this.#context;
    const { earlyFrom } = stateOf(context);
    if (earlyFrom !== null && !open.some(({ sid }) => sid === earlyFrom)) endEarlyMedia(context);
    const sid = stateOf(context).earlyFrom ?? this.#withMedia(open);
    const isHeard = sid === null ? this.#ring() : this.#hear(sid);
    const isFirst = isHeard && !this.#isSomething;
    this.#isSomething ||= isHeard;
    return isFirst;
  }

  /** One voice at a time: of several the first that has any. */
  #withMedia(open: readonly Attempt[]): CallSid | null {
    const { children } = this.#context;
    const found = open.find(({ sid }) => {
      const call = children.record(sid);
      return call !== null && call.port !== null && call.answeredAtMs === null;
    });
    return found?.sid ?? null;
  }

  #hear(sid: CallSid): boolean {
    const context = this.#context;
    stopRinging(context);
    if (context.call.port === null) {
      // The 183 comes back as an event; where it cannot be had, his phone goes on ringing.
      if (!this.#isEarlySaid) context.send('early', { kind: 'ring', earlyMedia: true });
      this.#isEarlySaid = true;
      this.#isRingSaid = true;
      return false;
    }
    if (stateOf(context).earlyFrom !== sid) change(context, { earlyFrom: sid });
    context.children.bridgeEarly(sid);
    return true;
  }

  #ring(): boolean {
    const context = this.#context;
    if (context.call.port !== null) return startRinging(this.#tone, context);
    if (!this.#isRingSaid) context.send('ring', { kind: 'ring', earlyMedia: false });
    this.#isRingSaid = true;
    return true;
  }
}

/** True when a tone is heard: where nobody rings there is none. */
export function startRinging(tone: RingingTone, context: DialContext): boolean {
  const { isRinging, hasRingback, ringbacks } = stateOf(context);
  if (!isRinging) return false;
  const step = stepOf(ringbacks);
  const source = { kind: 'tone' as const, ...tone, levelDb: RINGING_LEVEL_DB, count: 1 };
  if (!hasRingback) change(context, { hasRingback: true });
  context.send(step, { kind: 'play', playId: playIdOf(context, step), source, loop: 0 });
  return true;
}

/** Only where there was one: a caller who hears the callee's own ringing, or none, has nothing. */
export function stopRinging(context: DialContext): void {
  const { hasRingback, ringbacks } = stateOf(context);
  if (!hasRingback) return;
  change(context, { hasRingback: false, ringbacks: ringbacks + 1 });
  stop(context, stepOf(ringbacks));
}

/** Who was heard before the answer is heard no more. */
export function endEarlyMedia(context: DialContext): void {
  const { earlyFrom } = stateOf(context);
  if (earlyFrom === null) return;
  change(context, { earlyFrom: null });
  context.children.part(earlyFrom, `${context.id}.early.${earlyFrom}`);
}

function stepOf(ringbacks: number): string {
  return ringbacks === 0 ? 'ringback' : `ringback${ringbacks + 1}`;
}
