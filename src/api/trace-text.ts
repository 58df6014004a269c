/**
 * A call's trace as text for people: one line an entry, times from the first, a ladder of SIP
 * messages on the left, what the gateway did on the right. The data is `Calls/{sid}/Trace`; in it
 * are words of strangers, so nothing that could steer the terminal it is shown on is let through.
 */

export interface TraceLine {
  readonly seq: number;
  /** ISO 8601. */
  readonly at: string;
  readonly kind: string;
  readonly data: { readonly text: string; readonly detail: string };
}

const LADDER_COLUMNS = 46;

export function formatTrace(lines: readonly TraceLine[]): string {
  const [first] = lines;
  if (!first) return 'nothing is known of this call\n';
  const startMs = Date.parse(first.at);
  const head = `${first.at}\n\n${'ms'.padStart(8)}  ${'peer'.padEnd(LADDER_COLUMNS - 8)}tandem\n`;
  return head + lines.map((line) => format(line, startMs)).join('');
}

/** Control characters (C0, C1) and invisible ones that reorder text, replaced one by one. */
function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd');
}

function format(line: TraceLine, startMs: number): string {
  const at = String(Date.parse(line.at) - startMs).padStart(8);
  const text = plain(line.data.text);
  const detail = plain(line.data.detail);
  if (line.kind !== 'sip') {
    const indent = ' '.repeat(LADDER_COLUMNS);
    return `${at}  ${indent}| ${plain(line.kind)}: ${text}${detail === '' ? '' : ` (${detail})`}\n`;
  }
  // `<- INVITE …` came in: its arrow points to the right, to tandem.
  const isIn = text.startsWith('<-');
  const message = text
    .slice(3)
    .replace(/ SIP\/2\.0$/, '')
    .replace(/^SIP\/2\.0 /, '');
  const room = LADDER_COLUMNS - 6;
  const shown = ` ${message.length > room ? `${message.slice(0, room - 1)}…` : message} `;
  const shaft = shown.padEnd(LADDER_COLUMNS - 2, '-');
  return `${at}  ${isIn ? `-${shaft}>` : `<${shaft}-`}|   ${detail}\n`;
}
