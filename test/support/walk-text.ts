/**
 * SIP and SDP as the walker's peers read and write them: just enough, written apart from the stack
 * they walk against, and without scruples.
 */

export interface Heard {
  readonly isRequest: boolean;
  readonly method: string;
  readonly status: number;
  readonly cseq: number;
  /** Of the CSeq: of a response the request's. */
  readonly of: string;
  readonly fields: ReadonlyMap<string, readonly string[]>;
  readonly body: string;
}

export type Field = readonly [name: string, value: string];

export function heard(text: string): Heard {
  const [head = '', body = ''] = split(text, '\r\n\r\n');
  const [first = '', ...lines] = head.split('\r\n');
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const [name = '', value = ''] = split(line, ':');
    const key = name.trim().toLowerCase();
    const known = fields.get(key);
    if (known === undefined) fields.set(key, [value.trim()]);
    else known.push(value.trim());
  }
  const isRequest = !first.startsWith('SIP/2.0 ');
  const [number = '', of = ''] = (fields.get('cseq')?.[0] ?? '').split(/\s+/);
  return {
    isRequest,
    method: isRequest ? (first.split(' ')[0] ?? '') : '',
    status: isRequest ? 0 : Number(first.slice(8, 11)),
    cseq: Number(number),
    of,
    fields,
    body,
  };
}

export function field(message: Heard, name: string): string {
  return message.fields.get(name)?.[0] ?? '';
}

export function has(message: Heard, name: string, token: string): boolean {
  return (message.fields.get(name) ?? []).some((value) => value.includes(token));
}

export function tagOf(party: string): string {
  return /;tag=([^;\s>]+)/.exec(party)?.[1] ?? '';
}

export function uriOf(contact: string): string {
  return /<([^>]+)>/.exec(contact)?.[1] ?? contact;
}

export function branchOf(message: Heard): string {
  return /;branch=([^;\s]+)/.exec(field(message, 'via'))?.[1] ?? '';
}

export function written(first: string, fields: readonly Field[], body: string): string {
  const lines = fields.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  return `${first}\r\n${lines}Content-Length: ${body.length}\r\n\r\n${body}`;
}

function split(text: string, by: string): [string, string] {
  const at = text.indexOf(by);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + by.length)];
}

export const SDP_KINDS = ['plain', 'held', 'inactive', 'zero', 'two', 'other', 'moved'] as const;

/** A description of `address`; what is wrong with some is the point of them. */
export function sdp(address: string, kind: string, version: number): string {
  if (kind === 'broken') return 'v=0\r\nthis is no description\r\n';
  const at = kind === 'zero' ? '0.0.0.0' : address;
  const port = kind === 'moved' ? 41_000 + (version % 500) * 2 : 40_000;
  const codec =
    kind === 'unknown' ? 'RTP/AVP 96' : kind === 'other' ? 'RTP/AVP 8' : 'RTP/AVP 0 101';
  const direction = kind === 'held' ? 'sendonly' : kind === 'inactive' ? 'inactive' : 'sendrecv';
  return [
    'v=0',
    `o=- 7 ${version} IN IP4 ${address}`,
    's=-',
    `c=IN IP4 ${at}`,
    't=0 0',
    `m=audio ${port} ${codec}`,
    ...(kind === 'unknown' ? ['a=rtpmap:96 FOO/8000'] : []),
    ...(codec.endsWith('101') ? ['a=rtpmap:101 telephone-event/8000'] : []),
    `a=${direction}`,
    ...(kind === 'two' ? ['m=video 42000 RTP/AVP 97', 'a=rtpmap:97 H264/90000'] : []),
    '',
  ].join('\r\n');
}
