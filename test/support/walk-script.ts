/**
 * What a walking peer answers to an INVITE, drawn at random: provisional responses of several
 * dialogs, reliable or not, then no end, one end, or several that contradict each other.
 */
import type { Field } from './walk-text.ts';

export interface Step {
  /** After the step before. */
  readonly afterMs: number;
  readonly status: number;
  /** Which of its dialogs says it. */
  readonly tag: number;
  /** A kind of `walk-text.ts`; '' has no body. */
  readonly sdp: string;
  readonly isReliable: boolean;
  readonly more: readonly Field[];
}

const REFUSALS = [403, 404, 408, 480, 484, 486, 488, 500, 502, 503, 504, 600, 603] as const;
const PROVISIONAL = [100, 180, 180, 181, 182, 183, 183, 199] as const;
const PLAIN = { tag: 0, sdp: '', isReliable: false, more: [] } as const;

export function stepsFor(
  random: () => number,
  asked: { readonly isAgain: boolean; readonly hasReliable: boolean; readonly hasTimer: string },
): { steps: Step[]; isIllegal: boolean } {
  const { isAgain, hasReliable, hasTimer } = asked;
  const of = <T>(list: readonly [T, ...T[]]): T =>
    list[Math.floor(random() * list.length)] ?? list[0];
  const forks = !isAgain && random() < 0.2 ? 3 : 1;
  const tag = (): number => Math.floor(random() * forks);
  const wait = (): number => random() * (random() < 0.1 ? 30_000 : 2_000);
  const steps: Step[] = [];
  const rings = Math.floor(random() * (isAgain ? 1.3 : 4));
  for (let i = 0; i < rings; i += 1) {
    const status = of(PROVISIONAL);
    const isReliable = status > 100 && hasReliable && random() < 0.5;
    const sdp = status > 100 && random() < 0.4 ? 'plain' : '';
    steps.push({ afterMs: wait(), status, tag: tag(), sdp, isReliable, more: [] });
  }
  const more: Field[] =
    hasTimer !== '' && random() < 0.7
      ? [
          [
            'Session-Expires',
            hasTimer.includes('refresher') ? hasTimer : `${hasTimer};refresher=uas`,
          ],
          ['Require', 'timer'],
        ]
      : [];
  const answer = (): Step => {
    const kinds = ['plain', 'plain', 'plain', 'plain', 'held', 'moved', 'unknown', 'broken', ''];
    const sdp = random() < 0.7 ? 'plain' : of(kinds as [string, ...string[]]);
    return { ...PLAIN, afterMs: wait(), status: 200, tag: tag(), sdp, more };
  };
  const refusal = (): Step => {
    const status = of(REFUSALS);
    const after: Field[] = status === 503 || status === 500 ? [['Retry-After', '1']] : [];
    return { ...PLAIN, afterMs: wait(), status, tag: tag(), more: after };
  };
  const roll = random();
  if (isAgain && roll < 0.15) {
    return { steps: [...steps, { ...PLAIN, afterMs: wait(), status: 491 }], isIllegal: false };
  }
  if (roll < 0.55) return { steps: [...steps, answer()], isIllegal: false };
  if (roll < 0.78) return { steps: [...steps, refusal()], isIllegal: false };
  if (roll < 0.83) return { steps, isIllegal: true };
  if (roll < 0.9 && !isAgain) {
    // A fork behind the peer: each branch has its own answer.
    const copies = [0, 1, 2].slice(0, 2 + Math.floor(random() * 2));
    const answers = copies.map((one) => ({ ...answer(), tag: one, afterMs: random() * 400 }));
    return { steps: [...steps, ...answers], isIllegal: false };
  }
  if (roll < 0.94) return { steps: [...steps, ...elsewhere(random)], isIllegal: false };
  if (roll < 0.96) return { steps: [...steps, refusal(), answer()], isIllegal: true };
  if (roll < 0.98) return { steps: [...steps, answer(), refusal()], isIllegal: true };
  const late: Step = { ...PLAIN, afterMs: wait(), status: 180 };
  return { steps: [...steps, answer(), late], isIllegal: true };
}

/** A redirection, or a challenge nobody can meet. */
function elsewhere(random: () => number): Step[] {
  const afterMs = random() * 1_000;
  if (random() < 0.5) {
    const host = random() < 0.5 ? '10.0.1.2' : '10.0.9.9';
    return [{ ...PLAIN, afterMs, status: 302, more: [['Contact', `<sip:x@${host}>`]] }];
  }
  const challenge: Field = ['WWW-Authenticate', 'Digest realm="a", nonce="1", algorithm=MD5'];
  return [{ ...PLAIN, afterMs, status: 401, more: [challenge] }];
}
