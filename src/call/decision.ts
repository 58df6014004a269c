/**
 * Why a call was admitted or refused, and went where it went: each condition that was looked at,
 * in order, as plain data. Collected while the decision is made, never afterwards, so that what is
 * told is what was done. Not a log: it is kept with the call's trace and told by `explain.ts`.
 */

export type DecisionStep =
  | 'source'
  | 'trunk'
  | 'number'
  | 'route'
  | 'limit'
  | 'codec'
  | 'header'
  | 'identity'
  | 'gateway'
  | 'admission'
  | 'digest';

export interface Decision {
  readonly step: DecisionStep;
  readonly ok: boolean;
  /** What was compared with what. */
  readonly what: string;
  /** The key or resource field to change; '' where nothing of ours would help. */
  readonly fix: string;
}

/** Conditions kept of one decision; what comes after them is not told. */
const DECISIONS_MAX = 64;
const TEXT_CHARS_MAX = 240;

/** Where conditions are written down as they are judged. */
export class Decisions {
  readonly #list: Decision[] = [];

  get list(): readonly Decision[] {
    return this.#list;
  }

  ok(step: DecisionStep, what: string): void {
    this.#add({ step, ok: true, what: short(what), fix: '' });
  }

  no(step: DecisionStep, what: string, fix: string): void {
    this.#add({ step, ok: false, what: short(what), fix: short(fix) });
  }

  add(decisions: Iterable<Decision>): void {
    for (const decision of decisions) this.#add(decision);
  }

  #add(decision: Decision): void {
    if (this.#list.length < DECISIONS_MAX) this.#list.push(decision);
  }
}

/** The condition that decided a refusal; null when none failed. */
export function firstFailure(decisions: readonly Decision[]): Decision | null {
  return decisions.find(({ ok }) => !ok) ?? null;
}

/** For people: what failed, and what to change. */
export function sentence({ what, fix }: Decision): string {
  return fix === '' ? `${what}.` : `${what}: change ${fix}.`;
}

function short(text: string): string {
  return text.length <= TEXT_CHARS_MAX ? text : `${text.slice(0, TEXT_CHARS_MAX - 1)}…`;
}
