/**
 * An explanation as text for people: the verdict, what would be used, and every condition that was
 * looked at, in order. The data is `POST Explain`; words of strangers in it steer no terminal.
 */
export interface ExplainedCall {
  readonly direction: string;
  readonly outcome: string;
  readonly verdict: string;
  readonly code: string | null;
  readonly sip_status: number;
  readonly trunk_sid: string | null;
  readonly application: string | null;
  readonly targets: readonly string[];
  readonly decisions: readonly {
    readonly step: string;
    readonly ok: boolean;
    readonly what: string;
    readonly fix: string;
  }[];
}

const STEP_COLUMNS = 10;

export function formatExplanation(call: ExplainedCall): string {
  const { direction, outcome, code, sip_status: status, trunk_sid: trunk } = call;
  const answer = status === 0 ? '' : ` ${status}${code === null ? '' : ` ${code}`}`;
  const facts = [
    ['call', `${direction}, ${outcome}${answer}`],
    ['trunk', trunk ?? ''],
    ['asks', call.application ?? ''],
    ...call.targets.map((target, index) => [index === 0 ? 'calls' : '', target]),
  ];
  const lines = facts
    .filter(([, value]) => value !== '')
    .map(([name = '', value = '']) => `${name.padEnd(STEP_COLUMNS)}${plain(value)}\n`);
  const steps = call.decisions.map(({ step, ok, what, fix }) => {
    const change = fix === '' ? '' : `\n${' '.repeat(STEP_COLUMNS + 5)}change ${plain(fix)}`;
    return `${ok ? 'ok ' : 'NO '}  ${plain(step).padEnd(STEP_COLUMNS)}${plain(what)}${change}\n`;
  });
  return `${lines.join('')}\n${steps.join('')}\n${plain(call.verdict)}\n`;
}

/** Control characters and invisible ones that reorder text, replaced one by one. */
export function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '�');
}
