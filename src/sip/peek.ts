/**
 * A look at a message that nobody has parsed, for the few words that decide whether it is worth
 * that. Nothing here is believed: a field that is written in an odd way is not found, and then
 * treated as if it were not there. What passes is parsed in earnest by `parser.ts`.
 */
const TO_TAG = /\n(?:to|t)[ \t]*:[^\r\n]*;[ \t]*tag[ \t]*=[ \t]*([^\s;,>]+)/i;
const FROM_TAG = /\n(?:from|f)[ \t]*:[^\r\n]*;[ \t]*tag[ \t]*=[ \t]*([^\s;,>]+)/i;
const BRANCH = /\n(?:via|v)[ \t]*:[^\r\n,]*;[ \t]*branch[ \t]*=[ \t]*([^\s;,]+)/i;
const CSEQ_METHOD = /\ncseq[ \t]*:[ \t]*\d+[ \t]+([A-Z]+)/i;
const CALL_ID = /\n(?:call-id|i)[ \t]*:[ \t]*([^\s]+)/i;
const CREDENTIALS = /\n(?:proxy-)?authorization[ \t]*:/i;
const USER_AGENT = /\n(?:user-agent|server)[ \t]*:[ \t]*([^\r\n]*)/i;
/** Further down there is a body, or an attempt to make us read. */
const CHARS_MAX = 4096;

function head(text: string): string {
  return text.length > CHARS_MAX ? text.slice(0, CHARS_MAX) : text;
}

export function isResponse(text: string): boolean {
  return text.startsWith('SIP/2.0 ');
}

export function isAck(text: string): boolean {
  return text.startsWith('ACK ');
}

/**
 * Whether it answers a transaction of ours or is within a dialog: a request's To tag and a
 * response's From tag are the id of the session then.
 */
export function isOfOurs(
  text: string,
  sessions: { has(id: string): boolean; readonly size: number },
  transactions: { hasClient(key: string): boolean },
): boolean {
  if (!isResponse(text)) return sessions.size > 0 && sessions.has(tagOf(TO_TAG, text));
  return transactions.hasClient(transactionOf(text)) || sessions.has(tagOf(FROM_TAG, text));
}

function tagOf(field: RegExp, text: string): string {
  return field.exec(head(text))?.[1] ?? '';
}

/** Of the topmost Via and CSeq, as client transactions are named; '' when there is none. */
function transactionOf(text: string): string {
  const start = head(text);
  const branch = BRANCH.exec(start)?.[1];
  const method = CSEQ_METHOD.exec(start)?.[1];
  return branch === undefined || method === undefined ? '' : `${branch}|${method}`;
}

/** Whether it has credentials, with a nonce that we gave; '' is none. */
export function answersChallenge(text: string, nonce: string): boolean {
  const start = head(text);
  return nonce !== '' && CREDENTIALS.test(start) && start.includes(nonce);
}

/** A small number that is the same of a request and its repetitions, and hardly of another. */
export function requestPrint(text: string): number {
  const start = head(text);
  const branch = BRANCH.exec(start)?.[1] ?? '';
  const callId = CALL_ID.exec(start)?.[1] ?? '';
  let print = 0x811c9dc5; // FNV-1a
  for (const char of `${branch} ${callId}`) {
    print = Math.imul(print ^ char.charCodeAt(0), 0x01000193);
  }
  return print;
}

export function peekUserAgent(text: string): string {
  return USER_AGENT.exec(head(text))?.[1] ?? '';
}
