/**
 * A telephone for tests: SIP over UDP and PCMU over RTP, written apart from the stack it tests so
 * that the two cannot share a mistake. It plays a sound, keeps what it hears by RTP timestamp,
 * sends and reads RFC 4733 keys. Not a complete user agent: one call at a time, no retransmission.
 */
import { createSocket, type Socket } from 'node:dgram';
import type { AddressInfo } from 'node:net';
import { decodeUlaw, encodeUlaw, type Sound } from './sound.ts';

const KEYS = '0123456789*#ABCD';
const FRAME = 160;
const FRAME_MS = 20;
/** Longer than any protocol timer a test waits out (64 * T1, 32 s). */
const WAIT_MS_MAX = 60_000;
const EVENT_TYPE = 101;

export interface SipIn {
  readonly firstLine: string;
  readonly headers: Map<string, string[]>;
  readonly body: string;
  readonly port: number;
}

export interface PhoneOptions {
  /** Played in a loop as soon as the call is answered; silence when absent. */
  readonly sound?: Sound;
  readonly user?: string;
  /** What an incoming INVITE gets: `answer` at once, `ring`, 183 with audio, or a final status. */
  readonly onInvite?: 'answer' | 'ring' | 'early' | number;
  /** Of its description; plain RTP with keys as events when absent. */
  readonly media?: PhoneMedia;
  /** What a REFER gets; 202 when absent. NOTIFYs are the test's to send. */
  readonly onRefer?: number;
  /** Extra header lines of our INVITE. */
  readonly headers?: readonly string[];
}

export interface PhoneMedia {
  readonly profile?: string;
  readonly events?: boolean;
  /** More attributes; they replace `a=ptime:20`. */
  readonly lines?: readonly string[];
}

export async function startPhone(options: PhoneOptions = {}): Promise<Phone> {
  const sip = await bound();
  const rtp = await bound();
  return new Phone(sip, rtp, options);
}

function bound(): Promise<Socket> {
  const socket = createSocket('udp4');
  return new Promise((resolve) => socket.bind(0, '127.0.0.1', () => resolve(socket)));
}

export class Phone {
  readonly received: SipIn[] = [];
  readonly keysHeard: string[] = [];
  /** How much speech was in each packet, ms. */
  readonly packetMs = new Set<number>();
  readonly sipPort: number;
  onInvite: NonNullable<PhoneOptions['onInvite']>;
  sound: Sound | null;
  readonly #sip: Socket;
  readonly #rtp: Socket;
  readonly #options: PhoneOptions;
  readonly #waiters: { match: (message: SipIn) => boolean; resolve: (message: SipIn) => void }[] =
    [];
  readonly #heard = new Map<number, Float64Array>();
  #dialog: {
    target: string;
    port: number;
    from: string;
    to: string;
    callId: string;
    route: string[];
  } | null = null;
  #invite: { branch: string; uri: string; port: number } | null = null;
  #incoming: SipIn | null = null;
  #cseq = Math.floor(Math.random() * 1000) + 1;
  #media: { port: number; sequence: number; timestamp: number; ssrc: number } | null = null;
  #sender: NodeJS.Timeout | null = null;
  #position = 0;
  #paused = false;
  #lastEvent = '';

  constructor(sip: Socket, rtp: Socket, options: PhoneOptions) {
    this.#sip = sip;
    this.#rtp = rtp;
    this.#options = options;
    this.onInvite = options.onInvite ?? 'answer';
    this.sound = options.sound ?? null;
    this.sipPort = (sip.address() as AddressInfo).port;
    sip.on('message', (data, peer) => this.#onSip(data.toString('latin1'), peer.port));
    rtp.on('message', (data) => this.#onRtp(data));
  }

  get uri(): string {
    return `sip:${this.#options.user ?? 'phone'}@127.0.0.1:${this.sipPort}`;
  }

  /** Sends INVITE; resolves with the final response after ACK. */
  async call(uri: string, port: number): Promise<SipIn> {
    const callId = `${Math.random().toString(36).slice(2)}@phone`;
    const tag = Math.random().toString(36).slice(2);
    const branch = `z9hG4bK${Math.random().toString(36).slice(2)}`;
    this.#invite = { branch, uri, port };
    const from = `<sip:${this.#options.user ?? 'phone'}@127.0.0.1>;tag=${tag}`;
    this.#dialog = { target: uri, port, from, to: `<${uri}>`, callId, route: [] };
    this.#send(
      port,
      [
        `INVITE ${uri} SIP/2.0`,
        `Via: SIP/2.0/UDP 127.0.0.1:${this.sipPort};branch=${branch};rport`,
        'Max-Forwards: 70',
        `From: ${from}`,
        `To: <${uri}>`,
        `Call-ID: ${callId}`,
        `CSeq: ${this.#cseq} INVITE`,
        `Contact: <${this.uri}>`,
        ...(this.#options.headers ?? []),
        'Content-Type: application/sdp',
      ],
      this.#sdp(),
    );
    const final = await this.waitFor(
      (message) => /^SIP\/2\.0 [2-6]/.test(message.firstLine) && cseqMethod(message) === 'INVITE',
    );
    this.#acknowledge(final);
    return final;
  }

  /** CANCELs the INVITE that is ringing. */
  cancel(): void {
    if (!this.#invite || !this.#dialog) return;
    const { branch, uri, port } = this.#invite;
    const { from, callId } = this.#dialog;
    this.#send(port, [
      `CANCEL ${uri} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:${this.sipPort};branch=${branch};rport`,
      'Max-Forwards: 70',
      `From: ${from}`,
      `To: <${uri}>`,
      `Call-ID: ${callId}`,
      `CSeq: ${this.#cseq} CANCEL`,
    ]);
  }

  hangup(): void {
    if (!this.#dialog) return;
    this.#request('BYE');
    this.#stopMedia();
  }

  /** Answers the INVITE that `onInvite: 'ring'` left ringing. */
  answer(): void {
    if (!this.#incoming) return;
    this.#respond(this.#incoming, 200, 'OK', this.#sdp());
    this.#startMedia(this.#incoming.body);
    this.#incoming = null;
  }

  /** Refuses the INVITE that is ringing. */
  refuse(status: number): void {
    if (this.#incoming) this.#respond(this.#incoming, status, 'No');
    this.#incoming = null;
    this.#stopMedia();
  }

  /** Asks the other end to call somebody instead (RFC 3515); its answer. */
  refer(referTo: string, ...more: string[]): Promise<SipIn> {
    this.#request('REFER', [`Refer-To: ${referTo}`, ...more]);
    const cseq = String(this.#cseq);
    return this.waitFor((message) => {
      return message.firstLine.startsWith('SIP/') && header(message, 'cseq') === `${cseq} REFER`;
    });
  }

  /** Tells how the call goes that we were asked to make. */
  notify(statusLine: string, state: string): void {
    const fields = [
      'Event: refer',
      `Subscription-State: ${state}`,
      'Content-Type: message/sipfrag',
    ];
    this.#request('NOTIFY', fields, `${statusLine}\r\n`);
  }

  /** What NOTIFYs said so far: the status lines of their bodies. */
  get notified(): string[] {
    return this.received
      .filter(({ firstLine }) => firstLine.startsWith('NOTIFY'))
      .map(({ body }) => body.trim());
  }

  /** A Replaces that names this call to its other end (RFC 3891). */
  get replaces(): string {
    const { from = '', to = '', callId = '' } = this.#dialog ?? {};
    const tag = (party: string): string => /;tag=([^;>]+)/.exec(party)?.[1] ?? '';
    return `${callId};to-tag=${tag(to)};from-tag=${tag(from)}`;
  }

  /** Presses keys, each 100 ms with 60 ms between, as RFC 4733 events. */
  async press(keys: string): Promise<void> {
    for (const key of keys) {
      await this.#pressOne(KEYS.indexOf(key));
      await delay(60);
    }
  }

  /** Everything heard so far, in timestamp order; holes are silence. */
  heard(): Sound {
    const stamps = [...this.#heard.keys()].sort((a, b) => a - b);
    const [first = 0] = stamps;
    const last = stamps.at(-1) ?? first;
    const samples = new Float64Array(stamps.length === 0 ? 0 : last - first + FRAME);
    for (const stamp of stamps) {
      const frame = this.#heard.get(stamp) as Float64Array;
      samples.set(frame.subarray(0, samples.length - (stamp - first)), stamp - first);
    }
    return { rateHz: 8000, samples };
  }

  forget(): void {
    this.#heard.clear();
    this.keysHeard.length = 0;
  }

  /** Rejects after `WAIT_MS_MAX`, with what came instead. */
  waitFor(match: (message: SipIn) => boolean): Promise<SipIn> {
    const known = this.received.find(match);
    if (known) return Promise.resolve(known);
    const waiting = new Promise<SipIn>((resolve, reject) => {
      const late = setTimeout(() => {
        const seen = this.received.map(({ firstLine }) => firstLine).join(' | ');
        reject(new Error(`what was waited for does not come; came: ${seen || 'nothing'}`));
      }, WAIT_MS_MAX);
      late.unref();
      const settle = (message: SipIn): void => {
        clearTimeout(late);
        resolve(message);
      };
      this.#waiters.push({ match, resolve: settle });
    });
    // Who does not ask for the outcome any more is not told.
    waiting.catch(() => {});
    return waiting;
  }

  async close(): Promise<void> {
    this.#stopMedia();
    await Promise.all([
      new Promise<void>((resolve) => this.#sip.close(() => resolve())),
      new Promise<void>((resolve) => this.#rtp.close(() => resolve())),
    ]);
  }

  #onSip(text: string, port: number): void {
    const message = parse(text, port);
    if (!message) return;
    this.received.push(message);
    if (!message.firstLine.startsWith('SIP/')) this.#onRequest(message);
    for (const waiter of [...this.#waiters]) {
      if (!waiter.match(message)) continue;
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
      waiter.resolve(message);
    }
  }

  #onRequest(message: SipIn): void {
    const method = message.firstLine.split(' ')[0];
    if (method === 'INVITE') this.#onInviteIn(message);
    else if (method === 'BYE') {
      this.#respond(message, 200, 'OK');
      this.#stopMedia();
      this.#dialog = null;
    } else if (method === 'CANCEL') {
      this.#respond(message, 200, 'OK');
      if (this.#incoming) this.refuse(487);
    } else if (method === 'REFER') this.#respond(message, this.#options.onRefer ?? 202, 'So');
    else if (method !== 'ACK') this.#respond(message, 200, 'OK');
  }

  #onInviteIn(message: SipIn): void {
    const contact = /<([^>]+)>/.exec(header(message, 'contact'))?.[1] ?? '';
    const isReinvite = /;tag=/.test(header(message, 'to'));
    if (!isReinvite) {
      this.#dialog = {
        target: contact,
        port: message.port,
        from: `${header(message, 'to')};tag=phone${this.sipPort}`,
        to: header(message, 'from'),
        callId: header(message, 'call-id'),
        route: message.headers.get('record-route') ?? [],
      };
    }
    this.#incoming = message;
    if (typeof this.onInvite === 'number') {
      this.#respond(message, this.onInvite, 'No');
      this.#incoming = null;
      return;
    }
    if (this.onInvite === 'early') {
      this.#respond(message, 183, 'Session Progress', this.#sdp());
      this.#startMedia(message.body);
      return;
    }
    this.#respond(message, 180, 'Ringing');
    if (this.onInvite === 'answer') this.answer();
  }

  #acknowledge(final: SipIn): void {
    const isOk = final.firstLine.startsWith('SIP/2.0 2');
    const dialog = this.#dialog;
    const invite = this.#invite;
    if (!dialog || !invite) return;
    dialog.to = header(final, 'to');
    if (isOk) {
      dialog.target = /<([^>]+)>/.exec(header(final, 'contact'))?.[1] ?? dialog.target;
      // RFC 3261 §12.1.2: in reverse order.
      dialog.route = [...(final.headers.get('record-route') ?? [])].reverse();
      this.#startMedia(final.body);
    }
    const branch = isOk ? `z9hG4bK${Math.random().toString(36).slice(2)}` : invite.branch;
    this.#send(invite.port, [
      `ACK ${isOk ? dialog.target : invite.uri} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:${this.sipPort};branch=${branch};rport`,
      'Max-Forwards: 70',
      ...dialog.route.map((value) => `Route: ${value}`),
      `From: ${dialog.from}`,
      `To: ${dialog.to}`,
      `Call-ID: ${dialog.callId}`,
      `CSeq: ${this.#cseq} ACK`,
    ]);
  }

  #request(method: string, fields: string[] = [], body = ''): void {
    const dialog = this.#dialog;
    if (!dialog) return;
    this.#cseq += 1;
    const lines = [
      `${method} ${dialog.target} SIP/2.0`,
      `Via: SIP/2.0/UDP 127.0.0.1:${this.sipPort};branch=z9hG4bK${Math.random().toString(36).slice(2)};rport`,
      'Max-Forwards: 70',
      ...dialog.route.map((value) => `Route: ${value}`),
      `From: ${dialog.from}`,
      `To: ${dialog.to}`,
      `Call-ID: ${dialog.callId}`,
      `CSeq: ${this.#cseq} ${method}`,
      `Contact: <${this.uri}>`,
      ...fields,
    ];
    this.#send(dialog.port, lines, body);
  }

  #respond(request: SipIn, status: number, reason: string, sdp = ''): void {
    const to = header(request, 'to');
    const tagged = status === 100 || /;tag=/.test(to) ? to : `${to};tag=phone${this.sipPort}`;
    this.#send(
      request.port,
      [
        `SIP/2.0 ${status} ${reason}`,
        ...(request.headers.get('via') ?? []).map((value) => `Via: ${value}`),
        ...(request.headers.get('record-route') ?? []).map((value) => `Record-Route: ${value}`),
        `From: ${header(request, 'from')}`,
        `To: ${tagged}`,
        `Call-ID: ${header(request, 'call-id')}`,
        `CSeq: ${header(request, 'cseq')}`,
        `Contact: <${this.uri}>`,
        ...(sdp === '' ? [] : ['Content-Type: application/sdp']),
      ],
      sdp,
    );
  }

  #send(port: number, lines: string[], body = ''): void {
    const text = [...lines, `Content-Length: ${body.length}`, '', body].join('\r\n');
    this.#sip.send(text, port, '127.0.0.1');
  }

  #sdp(): string {
    const { port } = this.#rtp.address() as AddressInfo;
    const {
      profile = 'RTP/AVP',
      events = true,
      lines = ['a=ptime:20'],
    } = this.#options.media ?? {};
    const keys = [`a=rtpmap:${EVENT_TYPE} telephone-event/8000`, `a=fmtp:${EVENT_TYPE} 0-15`];
    return [
      'v=0',
      'o=- 1 1 IN IP4 127.0.0.1',
      's=-',
      'c=IN IP4 127.0.0.1',
      't=0 0',
      `m=audio ${port} ${profile} 0${events ? ` ${EVENT_TYPE}` : ''}`,
      'a=rtpmap:0 PCMU/8000',
      ...(events ? keys : []),
      ...lines,
      '',
    ].join('\r\n');
  }

  #startMedia(sdp: string): void {
    const port = Number(/^m=audio (\d+)/m.exec(sdp)?.[1] ?? 0);
    if (port === 0) return;
    const ssrc = Math.floor(Math.random() * 2 ** 32);
    this.#media = { port, sequence: 1, timestamp: 8000, ssrc };
    if (this.#sender) return;
    let due = performance.now();
    const step = (): void => {
      // Catches up after a late timer, so that the sound keeps its speed.
      while (due <= performance.now()) {
        this.#tick();
        due += FRAME_MS;
      }
      this.#sender = setTimeout(step, Math.max(1, due - performance.now()));
    };
    step();
  }

  #stopMedia(): void {
    if (this.#sender) clearTimeout(this.#sender);
    this.#sender = null;
    this.#media = null;
  }

  #tick(): void {
    const { sound } = this;
    const frame = new Float64Array(FRAME);
    if (sound && sound.samples.length > 0) {
      for (let index = 0; index < FRAME; index++) {
        frame[index] = sound.samples[(this.#position + index) % sound.samples.length] ?? 0;
      }
      this.#position += FRAME;
    }
    if (!this.#media) return;
    this.#media.timestamp += FRAME;
    if (!this.#paused) this.#sendRtp(0, encodeUlaw(frame), this.#media.timestamp, false);
  }

  async #pressOne(event: number): Promise<void> {
    if (!this.#media) return;
    this.#paused = true;
    const started = this.#media.timestamp + FRAME;
    for (let frame = 1; frame <= 8; frame++) {
      const isEnd = frame > 5;
      const duration = Math.min(frame, 6) * FRAME;
      const payload = Uint8Array.of(event, (isEnd ? 0x80 : 0) | 10, duration >> 8, duration & 255);
      this.#sendRtp(EVENT_TYPE, payload, started, frame === 1);
      if (frame < 6) await delay(FRAME_MS);
    }
    this.#paused = false;
  }

  #sendRtp(type: number, payload: Uint8Array, timestamp: number, marker: boolean): void {
    const media = this.#media;
    if (!media) return;
    const packet = Buffer.alloc(12 + payload.length);
    packet[0] = 0x80;
    packet[1] = (marker ? 0x80 : 0) | type;
    packet.writeUInt16BE(media.sequence & 0xffff, 2);
    packet.writeUInt32BE(timestamp >>> 0, 4);
    packet.writeUInt32BE(media.ssrc, 8);
    packet.set(payload, 12);
    media.sequence += 1;
    this.#rtp.send(packet, media.port, '127.0.0.1');
  }

  /** In pieces of 20 ms, however long its packets are. */
  #hear(timestamp: number, samples: Float64Array): void {
    this.packetMs.add((samples.length * FRAME_MS) / FRAME);
    for (let at = 0; at < samples.length; at += FRAME) {
      const frame = new Float64Array(FRAME);
      frame.set(samples.subarray(at, at + FRAME));
      this.#heard.set(timestamp + at, frame);
    }
  }

  #onRtp(data: Buffer): void {
    if (data.length < 12 || (data[0] ?? 0) >> 6 !== 2) return;
    const type = (data[1] ?? 0) & 0x7f;
    const timestamp = data.readUInt32BE(4);
    if (type === 0) this.#hear(timestamp, decodeUlaw(data.subarray(12)));
    else if (type === EVENT_TYPE && data.length >= 16) {
      const id = `${timestamp}`;
      if (id === this.#lastEvent) return;
      this.#lastEvent = id;
      this.keysHeard.push(KEYS[data[12] ?? 0] ?? '?');
    }
  }
}

export function header(message: SipIn, name: string): string {
  return message.headers.get(name)?.[0] ?? '';
}

function cseqMethod(message: SipIn): string {
  return header(message, 'cseq').split(' ')[1] ?? '';
}

function parse(text: string, port: number): SipIn | null {
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return null;
  const [firstLine = '', ...lines] = text.slice(0, end).split('\r\n');
  const headers = new Map<string, string[]>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon).trim().toLowerCase();
    const values = headers.get(name) ?? [];
    values.push(line.slice(colon + 1).trim());
    headers.set(name, values);
  }
  return { firstLine, headers, body: text.slice(end + 4), port };
}

export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
