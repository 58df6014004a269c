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

  /** What failed of a step does not matter, for `why`; false when nothing did. */
  overrule(step: DecisionStep, why: string): boolean {
    let isDone = false;
    for (const [index, one] of this.#list.entries()) {
      if (one.step !== step || one.ok) continue;
      this.#list[index] = { step, ok: true, what: short(`${one.what}, ${why}`), fix: '' };
      isDone = true;
    }
    return isDone;
  }

  /** Once: the ways through one trunk are all judged the same. */
  #add(decision: Decision): void {
    const { step, ok, what, fix } = decision;
    const isTold = this.#list.some(
      (one) => one.step === step && one.ok === ok && one.what === what && one.fix === fix,
    );
    if (!isTold && this.#list.length < DECISIONS_MAX) this.#list.push(decision);
  }
}

/** The condition that decided a refusal; null when none failed. */
export function firstFailure(decisions: readonly Decision[]): Decision | null {
  return decisions.find(({ ok }) => !ok) ?? null;
}

/** For people: what failed, and what to change; a sid that was said is not said again. */
export function sentence({ what, fix }: Decision): string {
  if (fix === '') return `${what}.`;
  const said = fix.replaceAll(/(?:\btrunk )?\b(TK|SD)[0-9a-f]{32}\b/g, (named, kind: string) => {
    const sid = named.replace('trunk ', '');
    if (!what.includes(sid)) return named;
    return kind === 'TK' ? 'that trunk' : 'that domain';
  });
  return `${what}: change ${said}.`;
}

function short(text: string): string {
  return text.length <= TEXT_CHARS_MAX ? text : `${text.slice(0, TEXT_CHARS_MAX - 1)}…`;
}
