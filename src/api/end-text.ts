/**
 * How a call ended, as text for people: what was said with which status, whose fault it is, and
 * what was looked at in vain before it. The data is `Calls/{sid}` and its `Trace`; words of peers
 * in it steer no terminal.
 */
import { ERRORS } from '../core/errors.ts';
import { plain } from './explain-text.ts';
import type { TraceLine } from './trace-text.ts';

export interface EndedCall {
  readonly end_code: string | null;
  readonly end_fault: string | null;
  readonly sip_status: number | null;
}

/** '' for a call that was answered and hung up, of which there is nothing to say. */
export function formatEnd(call: EndedCall, trace: readonly TraceLine[]): string {
  const { end_code: code, end_fault: fault, sip_status: status } = call;
  if (code === null || code === 'CALL_COMPLETED') return '';
  const refused = trace.filter(({ kind, data }) => kind === 'decision' && /^no /.test(data.text));
  const why = refused.map(({ data: { text, detail } }) => {
    const change = detail === '' ? '' : `; change ${detail}`;
    return `  ${plain(`${text.slice(3)}${change}`)}\n`;
  });
  const answer = status === null || status === 0 ? '' : `SIP ${status} `;
  const reason = reasonOf(code, trace);
  const said = plain(`${answer}${code}${reason === '' ? '' : `: ${reason}`}`);
  return `${said}\n${why.join('')}fault: ${plain(fault ?? 'nobody knows')}\n`;
}

/** In the words of who ended it; else in ours, where they need no filling in. */
function reasonOf(code: string, trace: readonly TraceLine[]): string {
  const end = trace.findLast(({ kind, data }) => kind === 'leg' && data.text === 'ended');
  const said = /^\S+ \d+ (.+)$/.exec(end?.data.detail ?? '')?.[1] ?? '';
  if (said !== '') return said;
  const text = Object.hasOwn(ERRORS, code) ? ERRORS[code as keyof typeof ERRORS].text : '';
  return text.includes('%') ? '' : text;
}
