/**
 * The torture messages (RFC 4475, RFC 5118 and this project's own), what each must get, and whether
 * it got that.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Test } from 'tap';

export interface Verdict {
  readonly name: string;
  readonly file: string;
  readonly expect: 'accept' | 'reject' | 'error';
  readonly status?: number;
  readonly alsoAllowed?: readonly (number | string)[];
  readonly kind: 'request' | 'response' | 'garbage';
  readonly onStream?: string;
  /** null: the headers never end. */
  readonly bodyBytes: number | null;
}

const DATA = new URL('../../../shared/data/torture/', import.meta.url);
/** The first final status of each transaction, in order; provisional ones and repeats left out. */
export function finals(replies: readonly string[]): number[] {
  const seen = new Set<string>();
  const statuses: number[] = [];
  for (const reply of replies) {
    const status = Number(/^SIP\/2\.0 (\d{3}) /.exec(reply)?.[1] ?? 0);
    const key = /^cseq:.*$/im.exec(reply)?.[0] ?? '';
    if (status < 200 || seen.has(key)) continue;
    seen.add(key);
    statuses.push(status);
  }
  return statuses;
}

/** What a well-formed request gets when the verdict names no status. */
function acceptedStatuses(text: string): number[] {
  const method = /^\s*(\S+) /.exec(text)?.[1];
  // It claims a dialog that is not there: well formed, and nobody's.
  if (/^(?:to|t)\s*:[^\r]*(?:\r\n[ \t][^\r]*)*;\s*tag\s*=/im.test(text)) return [481];
  if (method === 'OPTIONS') return [200];
  if (method !== 'INVITE') return [401, 403, 405];
  // RFC 5737 and RFC 3849: no media is sent to addresses of documentation.
  return /^[co]=.* IN IP[46] (?:192\.0\.2\.|2001:db8:|::ffff:192\.0\.2\.)/im.test(text)
    ? [200, 488]
    : [200];
}

interface Allowed {
  readonly statuses: ReadonlySet<number>;
  readonly silence: boolean;
}

export function allowedBy(verdict: Verdict, text: string): Allowed {
  const statuses = new Set<number>();
  let silence = verdict.kind === 'response';
  if (verdict.status !== undefined) statuses.add(verdict.status);
  else if (verdict.expect !== 'accept') silence = true;
  else if (verdict.kind === 'request') for (const s of acceptedStatuses(text)) statuses.add(s);
  for (const also of verdict.alsoAllowed ?? []) {
    const status = Number.parseInt(String(also), 10);
    if (status > 0) statuses.add(status);
    else if (String(also).startsWith('drop')) silence = true;
    else if (String(also).startsWith('accept')) {
      for (const accepted of acceptedStatuses(text)) statuses.add(accepted);
    }
  }
  return { statuses, silence };
}

export function judge(
  t: Test,
  verdict: Verdict,
  allowed: Allowed,
  statuses: readonly number[],
): void {
  const [status] = statuses;
  const expected = [...allowed.statuses, ...(allowed.silence ? ['silence'] : [])].join(' or ');
  const isRight = status === undefined ? allowed.silence : allowed.statuses.has(status);
  t.ok(isRight, `${verdict.name}: ${status ?? 'silence'}, expected ${expected}`);
  t.ok(statuses.length <= 1, `${verdict.name}: one answer`);
}

export function bytesOf(verdict: Verdict): Buffer {
  return readFileSync(new URL(verdict.file, DATA));
}

/** Null where the messages are not at hand. */
export function readVerdicts(): readonly Verdict[] | null {
  const index = new URL('index.json', DATA);
  if (!existsSync(index)) return null;
  return JSON.parse(readFileSync(index, 'utf8')) as readonly Verdict[];
}
