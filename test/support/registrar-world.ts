/**
 * A registrar on a simulated network, with everything that belongs to it, and phones that register
 * with it over UDP or a stream. The phones' digests are computed here, apart from the code under
 * test.
 */
import { createHash } from 'node:crypto';
import type { Test } from 'tap';
import { DEFAULT_LOCAL_BUS, LocalBus } from '../../src/bus/bus.ts';
import { Contacts } from '../../src/call/contacts.ts';
import type { JournalSource } from '../../src/call/journal.ts';
import { Location, REGISTRATIONS, type RegistrationNotice } from '../../src/call/location.ts';
import { Secret, silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import type { AccountSid, SipDomainSid } from '../../src/core/sid.ts';
import type { Endpoint, EndpointOptions } from '../../src/sip/endpoint.ts';
import { Gruu } from '../../src/sip/gruu.ts';
import type { HeaderField, SipMessage } from '../../src/sip/message.ts';
import { parseMessage } from '../../src/sip/parser.ts';
import {
  Registrar,
  type RegistrarAccounts,
  type RegistrarDomain,
} from '../../src/sip/registrar.ts';
import { DEFAULT_REGISTRAR, type RegistrarOptions } from '../../src/sip/registrar-options.ts';
import { SipWorld } from './sip-world.ts';

export const ACCOUNT = `AC${'1'.repeat(32)}` as AccountSid;
export const OTHER_ACCOUNT = `AC${'2'.repeat(32)}` as AccountSid;

export const DOMAIN: RegistrarDomain = {
  sid: `SD${'1'.repeat(32)}` as SipDomainSid,
  accountSid: ACCOUNT,
  name: 'phones.example',
  isSecure: false,
};
const SECURE: RegistrarDomain = { ...DOMAIN, name: 'secure.example', isSecure: true };

export const PASSWORD = 'Correct-Horse-9';
const USERS = new Set(['alice', 'bob', 'büro']);

/** The latest of each key, as a file would have it. */
export class KeptJournal {
  readonly #sources = new Map<string, JournalSource>();

  put(key: string, source: JournalSource): void {
    this.#sources.set(key, source);
  }

  remove(key: string): void {
    this.#sources.delete(key);
  }

  read(): Map<string, object> {
    const text = JSON.stringify([...this.#sources].map(([key, one]) => [key, one.snapshot()]));
    return new Map(JSON.parse(text));
  }
}

export interface RegistrarWorld {
  readonly world: SipWorld;
  readonly us: Endpoint;
  readonly location: Location;
  readonly registrar: Registrar;
  readonly contacts: Contacts;
  readonly gruu: Gruu;
  readonly journal: KeptJournal;
  readonly metrics: Metrics;
  readonly notices: RegistrationNotice[];
  /** `name contacts` of each event so far. */
  events(): string[];
  pass(durationMs: number): Promise<void>;
}

export interface RegistrarWorldOptions {
  registrar?: Partial<RegistrarOptions>;
  bindingsMax?: number;
  endpoint?: Partial<EndpointOptions>;
  accounts?: RegistrarAccounts;
}

export const ACCOUNTS: RegistrarAccounts = {
  domain: (name) => [DOMAIN, SECURE].find((domain) => domain.name === name) ?? null,
  find: (_domain, username) => (USERS.has(username) ? { password: new Secret(PASSWORD) } : null),
};

export async function registrarWorld(
  t: Test,
  options: RegistrarWorldOptions = {},
): Promise<RegistrarWorld> {
  const world = new SipWorld();
  const { clock } = world;
  const metrics = new Metrics();
  const journal = new KeptJournal();
  const bus = new LocalBus({ clock, ...DEFAULT_LOCAL_BUS, onError: (error) => t.error(error) });
  const location = new Location({
    ...{ clock, log: silentLog, metrics, journal, bus },
    options: { bindingsMax: options.bindingsMax ?? 1_000 },
  });
  const secret = new Secret('5'.repeat(64));
  const gruu = new Gruu({ clock, secret });
  const accounts = options.accounts ?? ACCOUNTS;
  const registrar = new Registrar({
    ...{ clock, log: silentLog, metrics, location, accounts, gruu, secret },
    options: {
      ...DEFAULT_REGISTRAR,
      perSecondMax: 1_000,
      algorithms: ['SHA-256', 'MD5'],
      ...options.registrar,
    },
  });
  const { policy, ...endpoint } = options.endpoint ?? {};
  const us = await world.endpoint('10.0.0.1', {
    ...endpoint,
    policy: { isFlow: (peer) => location.isFlow(peer), ...policy, registrar },
  });
  const isConnected = us.ua.transport.isConnected.bind(us.ua.transport);
  const contacts = new Contacts({ location, accounts, gruu, isConnected });
  const notices: RegistrationNotice[] = [];
  bus.subscribe(REGISTRATIONS, (notice) => notices.push(notice));
  t.teardown(async () => {
    location.close();
    await world.close();
    await bus.close();
  });
  return {
    ...{ world, us, location, registrar, contacts, gruu, journal, metrics, notices },
    events: () => notices.map(({ type, contacts: left }) => `${type.slice(13)} ${left}`),
    // The bus hands over in turns of the event loop.
    pass: async (durationMs) => {
      await world.clock.advance(durationMs);
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

export interface Register {
  readonly user?: string;
  readonly domain?: string;
  readonly username?: string;
  readonly password?: string;
  readonly algorithm?: 'MD5' | 'SHA-256';
  readonly contacts?: readonly string[];
  readonly headers?: readonly HeaderField[];
  /** Above the phone's own, as proxies on the way put them. */
  readonly vias?: readonly string[];
  /** False sends no credentials. */
  readonly isAnswering?: boolean;
  readonly nonce?: string;
  readonly nc?: number;
}

/** A phone. `register` goes through with the challenge; `ask` sends one request. */
export class RegPhone {
  readonly address: string;
  readonly port: number;
  readonly transport: 'UDP' | 'TCP';
  readonly received: SipMessage[] = [];
  readonly raw: string[] = [];
  callId: string;
  cseq = 0;
  isClosed = false;
  onRequest: (request: SipMessage) => void = () => {};
  readonly #world: RegistrarWorld;
  #send: (text: string) => void = () => {};
  #close: () => void = () => {};
  #branches = 0;

  private constructor(
    world: RegistrarWorld,
    options: { address: string; port: number; transport: 'UDP' | 'TCP' },
  ) {
    this.#world = world;
    this.address = options.address;
    this.port = options.port;
    this.transport = options.transport;
    this.callId = `reg-${options.address}-${options.port}`;
  }

  static async udp(world: RegistrarWorld, address: string, port = 5060): Promise<RegPhone> {
    const phone = new RegPhone(world, { address, port, transport: 'UDP' });
    const socket = await world.world.network.host(address).datagram(address, port, {
      datagram: (text) => phone.#take(text),
      failed: () => {},
    });
    phone.#send = (text) => socket.send(text, 5060, '10.0.0.1');
    return phone;
  }

  static async tcp(world: RegistrarWorld, address: string): Promise<RegPhone> {
    const socket = world.world.network.host(address).connect({ address: '10.0.0.1', port: 5060 });
    const phone = new RegPhone(world, { address, port: 5060, transport: 'TCP' });
    let buffered = '';
    socket.listen({
      opened: () => {},
      data: (chunk) => {
        buffered += chunk.toString('latin1');
        for (;;) {
          const end = buffered.indexOf('\r\n\r\n');
          if (end < 0) return;
          const length = Number(/content-length: *(\d+)/i.exec(buffered)?.[1] ?? 0);
          if (buffered.length < end + 4 + length) return;
          phone.#take(buffered.slice(0, end + 4 + length));
          buffered = buffered.slice(end + 4 + length);
        }
      },
      closed: () => {
        phone.isClosed = true;
      },
    });
    phone.#send = (text) => socket.write(text);
    phone.#close = () => socket.destroy();
    await world.pass(5);
    return phone;
  }

  close(): void {
    this.#close();
  }

  send(text: string): void {
    this.#send(text);
  }

  /** The final answer to a REGISTER with whatever its challenge asked for. */
  async register(register: Register = {}): Promise<SipMessage> {
    const first = await this.ask('REGISTER', register);
    if (first.status !== 401 || register.isAnswering === false) return first;
    return this.ask('REGISTER', register, first);
  }

  /** One request, and its answer. */
  async ask(
    method: 'REGISTER' | 'INVITE',
    register: Register = {},
    challenged?: SipMessage,
  ): Promise<SipMessage> {
    const before = this.received.length;
    this.#send(this.text(method, register, challenged));
    await this.#world.pass(20);
    const answer = this.received.slice(before).find((one) => !one.isRequest && one.status >= 200);
    if (answer === undefined) throw new Error('no answer');
    return answer;
  }

  text(method: string, register: Register, challenged?: SipMessage): string {
    const { user = 'alice', domain = DOMAIN.name, contacts, headers = [], vias = [] } = register;
    this.#branches += 1;
    this.cseq += 1;
    const uri = method === 'REGISTER' ? `sip:${domain}` : `sip:anybody@${domain}`;
    const own = `SIP/2.0/${this.transport} ${this.address}:${this.port}`;
    const lines = [
      `${method} ${uri} SIP/2.0`,
      ...vias.map((via) => `Via: ${via}`),
      `Via: ${own};branch=z9hG4bK${this.callId}${this.#branches};rport`,
      'Max-Forwards: 70',
      `From: <sip:${user}@${domain}>;tag=phone`,
      `To: <${method === 'REGISTER' ? `sip:${user}@${domain}` : uri}>`,
      `Call-ID: ${this.callId}`,
      `CSeq: ${this.cseq} ${method}`,
      ...(contacts ?? [`<sip:${user}@${this.address}:${this.port}>`]).map(
        (one) => `Contact: ${one}`,
      ),
      ...headers.map(([name, value]) => `${name}: ${value}`),
    ];
    if (challenged !== undefined) lines.push(credentials(register, challenged, method, uri));
    return `${lines.join('\r\n')}\r\nContent-Length: 0\r\n\r\n`;
  }

  #take(text: string): void {
    this.raw.push(text);
    const parsed = parseMessage(text, { stream: this.transport !== 'UDP' });
    if (!parsed.ok) return;
    this.received.push(parsed.message);
    if (parsed.message.isRequest) this.onRequest(parsed.message);
  }
}

/** RFC 7616 §3.4 */
export function credentials(
  register: Register,
  challenged: SipMessage,
  method: string,
  uri: string,
): string {
  const { user = 'alice', username = user, password = PASSWORD, algorithm = 'SHA-256' } = register;
  const challenge =
    challenged.headers('WWW-Authenticate').find((one) => one.includes(`algorithm=${algorithm},`)) ??
    '';
  const realm = /realm="([^"]*)"/.exec(challenge)?.[1] ?? '';
  const nonce = register.nonce ?? /nonce="([^"]*)"/.exec(challenge)?.[1] ?? '';
  const nc = (register.nc ?? 1).toString(16).padStart(8, '0');
  const hash = (text: string) =>
    createHash(algorithm === 'MD5' ? 'md5' : 'sha256')
      .update(text, 'latin1')
      .digest('hex');
  const response = hash(
    `${hash(`${username}:${realm}:${password}`)}:${nonce}:${nc}:0a4f:auth:${hash(`${method}:${uri}`)}`,
  );
  return (
    `Authorization: Digest username="${username}", realm="${realm}", nonce="${nonce}", ` +
    `uri="${uri}", response="${response}", algorithm=${algorithm}, qop=auth, nc=${nc}, cnonce="0a4f"`
  );
}

/** The Contact values of an answer, without what changes with time. */
export function contactsOf(answer: SipMessage): string[] {
  return answer.list('Contact').filter((value) => value !== '');
}
