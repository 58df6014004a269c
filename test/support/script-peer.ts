/**
 * A SIP peer that does exactly what a test says and nothing by itself: no retransmission, no
 * answer, no ACK. What it was sent is kept in order.
 */
import {
  type HeaderField,
  type OutgoingRequest,
  type ResponseOptions,
  responseTo,
  type SipMessage,
  serializeRequest,
  serializeResponse,
} from '../../src/sip/message.ts';
import { parseMessage } from '../../src/sip/parser.ts';
import type { DatagramSocket } from '../../src/sip/sockets.ts';
import type { SimNetwork } from './sim.ts';

export const SDP = 'v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nt=0 0\r\n';

export interface ScriptedRequest {
  method: string;
  uri?: string;
  callId?: string;
  cseq?: number;
  branch?: string;
  fromTag?: string;
  toTag?: string;
  headers?: HeaderField[];
  body?: string;
}

export class ScriptPeer {
  readonly address: string;
  readonly port: number;
  readonly received: SipMessage[] = [];
  /** Everything as it came, what no parser would read included. */
  readonly texts: string[] = [];
  /** When each was received. */
  readonly atMs: number[] = [];
  /** Called for each message; a scripted reaction. */
  onMessage: (message: SipMessage) => void = () => {};
  readonly #socket: DatagramSocket;
  #branches = 0;

  static async create(network: SimNetwork, address: string, port = 5060): Promise<ScriptPeer> {
    let peer: ScriptPeer | null = null;
    const socket = await network.host(address).datagram(address, port, {
      datagram: (text) => peer?.take(text, network.clock.monotonicMs()),
      failed: () => {},
    });
    peer = new ScriptPeer({ socket, address, port });
    return peer;
  }

  constructor(options: { socket: DatagramSocket; address: string; port: number }) {
    this.#socket = options.socket;
    this.address = options.address;
    this.port = options.port;
  }

  take(text: string, atMs: number): void {
    this.texts.push(text);
    const result = parseMessage(text, { stream: false });
    if (!result.ok) return;
    this.received.push(result.message);
    this.atMs.push(atMs);
    this.onMessage(result.message);
  }

  /** Statuses and methods received, in order. */
  get heard(): string[] {
    return this.received.map((message) =>
      message.isRequest ? message.method : `${message.status} ${message.cseqMethod}`,
    );
  }

  /** How often something was heard. */
  count(what: string): number {
    return this.heard.filter((heard) => heard === what).length;
  }

  /** The last message of that kind; fails when there is none. */
  last(what: string): SipMessage {
    const index = this.heard.lastIndexOf(what);
    const message = this.received[index];
    if (message === undefined)
      throw new Error(`nothing like "${what}" in ${this.heard.join(', ')}`);
    return message;
  }

  clear(): void {
    this.received.length = 0;
    this.texts.length = 0;
    this.atMs.length = 0;
  }

  raw(text: string, to = '10.0.0.1', port = 5060): void {
    this.#socket.send(text, port, to);
  }

  request(options: ScriptedRequest): string {
    this.#branches += 1;
    const { method, callId = 'call-1', cseq = 1, fromTag = 'peer', toTag, body = '' } = options;
    const branch = options.branch ?? `z9hG4bK-script-${this.#branches}`;
    const headers: HeaderField[] = [
      ['Via', `SIP/2.0/UDP ${this.address}:${this.port};branch=${branch}`],
      ['Max-Forwards', '70'],
      ['From', `<sip:peer@${this.address}>;tag=${fromTag}`],
      ['To', `<sip:us@10.0.0.1>${toTag === undefined ? '' : `;tag=${toTag}`}`],
      ['Call-ID', callId],
      ['CSeq', `${cseq} ${method}`],
      ...this.#withContact(options.headers),
    ];
    const isTyped = headers.some(([name]) => name === 'Content-Type');
    if (body !== '' && !isTyped) headers.push(['Content-Type', 'application/sdp']);
    const request: OutgoingRequest = {
      method,
      uri: options.uri ?? 'sip:us@10.0.0.1',
      headers,
      body,
    };
    const text = serializeRequest(request);
    this.raw(text);
    return text;
  }

  respond(request: SipMessage, status: number, options: ResponseOptions = {}): string {
    const headers = this.#withContact(options.headers);
    const text = serializeResponse(
      responseTo(request, status, { toTag: 'script', ...options, headers }),
    );
    this.raw(text);
    return text;
  }

  /** Our address as Contact, unless the test gives another. */
  #withContact(headers: readonly HeaderField[] = []): HeaderField[] {
    if (headers.some(([name]) => name === 'Contact')) return [...headers];
    return [['Contact', `<sip:peer@${this.address}:${this.port}>`], ...headers];
  }
}
