/**
 * The topmost Via: where a request came from and which transaction it is, and the mark of its true
 * source on it. Not the other Vias: they are copied into responses, never read.
 *
 * RFC 3261 §18.2.1, §20.42; RFC 3581 (rport); RFC 5118 §4.5.
 */
import { GatewayError } from '../core/errors.ts';
import { CHAR, CLASS, scan, scanHostPort, scanParams, skipSpace } from './grammar.ts';
import { splitOutside } from './header.ts';
import type { SipLimits } from './limits.ts';

/** The branch prefix of RFC 3261 §8.1.1.7: without it a request is of an RFC 2543 client. */
export const MAGIC_COOKIE = 'z9hG4bK';

export interface Via {
  readonly protocol: string;
  readonly transport: string;
  /** Without brackets around IPv6. */
  readonly host: string;
  readonly port: number | undefined;
  /** '' when absent (RFC 2543). */
  readonly branch: string;
  readonly params: ReadonlyMap<string, string | undefined>;
  /** RFC 3581: answers go to the port that the request came from. */
  readonly hasRport: boolean;
  readonly text: string;
}

/** The topmost Via. `text` and `params` change when the true source is stamped on it. */
export class TopVia implements Via {
  readonly protocol = 'SIP/2.0';
  readonly transport: string;
  readonly host: string;
  readonly port: number | undefined;
  readonly branch: string;
  /** How much of its field line this value takes, to replace it there. */
  readonly lengthInLine: number;
  readonly #head: string;
  readonly #tail: string;
  #stamp: string | null = null;
  #hasRport: boolean | null = null;

  /** `head` is the value up to its parameters, `tail` the parameters with their ';'. */
  constructor(parts: {
    transport: string;
    host: string;
    port: number | undefined;
    branch: string;
    head: string;
    tail: string;
  }) {
    this.transport = parts.transport;
    this.host = parts.host;
    this.port = parts.port;
    this.branch = parts.branch;
    this.#head = parts.head;
    this.#tail = parts.tail;
    this.lengthInLine = parts.head.length + parts.tail.length;
  }

  get isStamped(): boolean {
    return this.#stamp !== null;
  }

  get text(): string {
    return this.#head + (this.#stamp ?? this.#tail);
  }

  get params(): ReadonlyMap<string, string | undefined> {
    const params = new Map<string, string | undefined>();
    const tail = this.#stamp ?? this.#tail;
    scanParams(tail, 0, tail.length, false, params);
    return params;
  }

  get hasRport(): boolean {
    this.#hasRport ??= this.params.has('rport');
    return this.#hasRport;
  }

  stamp(address: string, port: number): void {
    let tail = this.#tail;
    let hasRport = false;
    if (CLAIM.test(tail)) {
      tail = '';
      for (const part of splitOutside(this.#tail, ';', [])) {
        const name = paramName(part);
        if (name === 'rport') hasRport = true;
        if (name !== 'rport' && name !== 'received' && part !== '') tail += `;${part}`;
      }
    }
    if (hasRport) tail += `;rport=${port}`;
    if (hasRport || this.host.toLowerCase() !== address) tail += `;received=${address}`;
    this.#hasRport = hasRport;
    this.#stamp = tail;
  }
}

/** What a sender may have written there that is ours to write. */
const CLAIM = /r(?:port|eceived)/i;

/** Of a message in which none was found. */
export const NO_VIA = new TopVia({
  transport: '',
  host: '',
  port: undefined,
  branch: '',
  head: '',
  tail: '',
});

function paramName(part: string): string {
  const equals = part.indexOf('=');
  return (equals < 0 ? part : part.slice(0, equals)).trim().toLowerCase();
}

function malformed(problem: string): GatewayError {
  return new GatewayError('SIP_MALFORMED', { problem });
}

/** `SIP/2.0/UDP host:port;params`, spaces allowed around the slashes (RFC 3261 §20.42). */
export function readVia(text: string, start: number, end: number, limits: SipLimits): TopVia {
  const transport = afterProtocol(text, start, end);
  let p = transport;
  while (p < end && ((CLASS[text.charCodeAt(p)] as number) & CHAR.TOKEN) !== 0) p += 1;
  const transportEnd = p;
  p = skipSpace(text, p, end);
  if (transportEnd === transport || p === transportEnd) throw malformed('bad Via transport');
  const tail = scanHostPort(text, p, end);
  if (tail < 0) throw malformed('bad Via host or port');
  const problem = scanParams(text, tail, end, true, null);
  if (problem !== '') throw malformed(`Via: ${problem}`);
  const { hostStart, hostEnd, port, branchStart, branchEnd, maddrStart } = scan;
  const branch = branchStart < 0 ? '' : text.slice(branchStart, branchEnd);
  if (branch.length > limits.branchBytesMax) throw malformed('Via: long branch');
  // RFC 4475 §3.2.1: the cookie alone identifies nothing.
  if (branch === MAGIC_COOKIE) throw malformed('Via: empty branch');
  if (maddrStart >= 0 && /^(22[4-9]|23\d|\[?ff)/i.test(text.slice(maddrStart, maddrStart + 4))) {
    throw malformed('Via: multicast maddr');
  }
  const bracket = text.charCodeAt(hostStart) === 91 ? 1 : 0;
  return new TopVia({
    transport: text.slice(transport, transportEnd),
    host: text.slice(hostStart + bracket, hostEnd - bracket),
    port: port === 0 ? undefined : port,
    branch,
    head: text.slice(start, tail),
    tail: text.slice(tail, scan.next),
  });
}

function afterProtocol(text: string, start: number, end: number): number {
  if (text.startsWith('SIP/2.0/', start)) return start + 8;
  const match = /^SIP[ \t]*\/[ \t]*2\.0[ \t]*\/[ \t]*/i.exec(text.slice(start, end));
  if (match === null) throw malformed('bad Via protocol');
  return start + match[0].length;
}
