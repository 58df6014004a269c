/**
 * The state-machine walker: calls between random peers through a node on simulated time, each call
 * with a seed of its own. When the last has ended nothing may be held, and every call has one
 * record. A run that fails is made smaller until one call is left, and what was said is told.
 */
import type { ContactTarget } from '../../src/call/outbound.ts';
import type { DialTarget, TrunkRoute } from '../../src/call/route.ts';
import type { CallNotice } from '../../src/call/router.ts';
import type { ErrorCode } from '../../src/core/errors.ts';
import type { Session } from '../../src/sip/session.ts';
import { ACCOUNT, APPLICATION } from './call-node.ts';
import { type Packet, SimClock, SimNetwork, seededRandom } from './sim.ts';
import { trunkRoute } from './trunk.ts';
import { WalkApp } from './walk-app.ts';
import { implausible, NODE, startWalkNode, type WalkNode } from './walk-node.ts';
import { type PeerWeather, WalkPeer } from './walk-peer.ts';
import { field, type Heard, heard, sdp } from './walk-text.ts';

export interface Walk {
  readonly dialogs: number;
  readonly calls: number;
  readonly answered: number;
  /** How calls ended: code and how often. */
  readonly codes: ReadonlyMap<string, number>;
  /** What was said, both ways: `BYE`, `491 INVITE`, and how often. */
  readonly said: ReadonlyMap<string, number>;
  readonly problems: readonly string[];
  readonly packets: readonly Packet[];
}

const CALLER = '10.0.2.1';
const GATEWAYS = ['10.0.1.1', '10.0.1.2', '10.0.1.3'] as const;
/** Nobody is there. */
const DEAD = '10.0.1.9';
const KINDS = 6;
/** New calls a second. */
const PACE = 20;
/** The longest that a call may last, with what is told after it. */
const TAIL_MS = 420_000;

const CALM: PeerWeather = { loss: 0, duplication: 0, delayMsMax: 0 };
const ROUGH: PeerWeather = { loss: 0.08, duplication: 0.1, delayMsMax: 400 };
const AWFUL: PeerWeather = { loss: 0.35, duplication: 0.3, delayMsMax: 1_500 };

function trunks(): TrunkRoute[] {
  const gateway = (host: string, priority = 1) => {
    return { uri: `sip:${host}:5060;transport=udp`, priority, weight: 1 };
  };
  const [first, second, third] = GATEWAYS;
  const several = [gateway(DEAD), gateway(first, 2), gateway(second, 3), gateway(third, 4)];
  const policies: readonly (readonly [TrunkRoute['gateways'], object])[] = [
    [[gateway(first)], {}],
    [[gateway(second)], { reliable: 'require', refer: 'accept' }],
    [[gateway(third)], { sessionTimer: { mode: 'request', expiresS: 90 }, refer: 'application' }],
    [[gateway(first), gateway(second)], { redirect: { mode: 'follow' }, refer: 'accept' }],
    [several, { failover: { statuses: ['4xx', '5xx'], noProvisionalMs: 1_500 } }],
    [[gateway(third)], { limits: { callsMax: 12 }, sessionTimer: { mode: 'require' } }],
  ];
  return policies.map(([gateways, policy], kind) => {
    const sid = `TK${String(kind).padStart(32, '0')}` as TrunkRoute['sid'];
    return trunkRoute({ sid, gateways, policy, numberPatterns: [`+1${kind}*`] });
  });
}

class WalkWorld {
  readonly clock: SimClock;
  readonly network: SimNetwork;
  readonly #seed: number;
  readonly #trunks = trunks();
  readonly #peers = new Map<string, WalkPeer>();
  #dialogs = 0;
  readonly #said = new Map<string, number>();
  readonly #sends = new Map<string, (text: string) => void>();

  constructor(seed: number, isTold: boolean) {
    this.#seed = seed;
    this.clock = new SimClock({ seed });
    this.network = new SimNetwork({ clock: this.clock, seed });
    this.network.isRecording = isTold;
  }

  async walk(calls: readonly number[]): Promise<Walk> {
    const node = await this.#start();
    calls.forEach((n, index) => {
      this.clock.timer((index * 1000) / PACE, () => this.#begin(node, n));
    });
    await this.clock.advance((calls.length * 1000) / PACE + TAIL_MS);
    for (const peer of this.#peers.values()) peer.stop();
    // What the last peers left unanswered has its own time (RFC 3261 §17.1.4).
    await this.clock.advance(120_000);
    const problems = this.#problems(node);
    // Who waits for a call that is stuck would wait for ever: time stands still now.
    if (problems.length === 0) await node.close();
    return { ...this.#figures(node), problems, packets: this.network.packets };
  }

  async #start(): Promise<WalkNode> {
    const { clock, network } = this;
    for (const host of [CALLER, ...GATEWAYS]) {
      const socket = await network.host(host).datagram(host, 5060, {
        datagram: (text) => this.#take(host, text),
        failed: () => undefined,
      });
      this.#sends.set(host, (text) => {
        this.#count(heard(text));
        socket.send(text, 5060, NODE);
      });
    }
    const byKind = (user: string): TrunkRoute | null => this.#trunks[Number(user[2])] ?? null;
    const node = await startWalkNode({
      ...{ clock, network, seed: this.#seed },
      rows: {
        trunks: this.#trunks,
        trunkOf: byKind,
        contactsOf: (uri) => contactsOf(uri),
      },
      callOf: (user) => (user[2] === '9' ? REFUSED : null),
    });
    node.endpoint.on('invite', (session) => {
      this.#dialogs += 1;
      this.#reoffer(session);
    });
    node.router.on('call', (call) => {
      const n = numberOf(call.record.to);
      const random = this.#randomOf(n, 1);
      const { router } = node;
      new WalkApp({ clock, random, router, call, target: () => targetOf(n, random) }).start();
    });
    return node;
  }

  /** Now and then we are the one who changes the call, so that offers cross. */
  #reoffer(session: Session): void {
    const random = this.#randomOf(numberOf(session.request?.header('To') ?? ''), 4);
    if (random() < 0.7) return;
    session.once('acknowledged', () => {
      this.clock.timer(random() * 25_000, () => {
        const method = random() < 0.4 ? 'UPDATE' : 'INVITE';
        if (session.state === 'confirmed') session.reoffer(sdp(NODE, 'plain', 90), { method });
      });
    });
  }

  #count({ isRequest, method, status, of }: Heard): void {
    const what = isRequest ? method : `${status} ${of}`;
    this.#said.set(what, (this.#said.get(what) ?? 0) + 1);
  }

  #begin(node: WalkNode, n: number): void {
    const random = this.#randomOf(n, 2);
    if (random() < 0.1) {
      node.router.originate({
        accountSid: ACCOUNT,
        from: '+15550100',
        application: APPLICATION,
        target: targetOf(n, random),
        ringTimeoutMs: 2_000 + random() * 30_000,
        statusCallback: null,
      });
      return;
    }
    const peer = this.#peer(`w${n}`, CALLER, random);
    this.#peers.set(`w${n}@${CALLER}`, peer);
    const kind = random() < 0.02 ? 9 : Math.floor(random() * KINDS);
    peer.call(userOf(kind, n));
  }

  #take(host: string, text: string): void {
    const message = heard(text);
    this.#count(message);
    const callId = field(message, 'call-id');
    const key = host === CALLER ? callId : `${callId} ${host}`;
    let peer = this.#peers.get(key);
    if (peer === undefined) {
      if (message.method !== 'INVITE') return;
      this.#dialogs += 1;
      const n = numberOf(field(message, 'to'));
      peer = this.#peer(`g${this.#dialogs}`, host, this.#randomOf(n, 3));
      this.#peers.set(key, peer);
    }
    peer.take(text);
  }

  #peer(name: string, address: string, random: () => number): WalkPeer {
    const roll = random();
    const weather = roll < 0.5 ? CALM : roll < 0.9 ? ROUGH : AWFUL;
    const transmit = this.#sends.get(address) ?? (() => undefined);
    const isJudge = weather === CALM;
    return new WalkPeer({ clock: this.clock, random, weather, name, address, transmit, isJudge });
  }

  #randomOf(n: number, part: number): () => number {
    return seededRandom((this.#seed ^ Math.imul(n, 0x9e3779b1)) + part * 7_919);
  }

  #problems(node: WalkNode): string[] {
    const problems = [...node.faults];
    for (const [what, count] of Object.entries(node.held())) {
      if (count !== 0) problems.push(`${count} ${what} left`);
    }
    problems.push(...recordProblems(node.notices));
    for (const [callId, peer] of this.#peers) {
      for (const complaint of peer.complaints) problems.push(`${callId}: ${complaint}`);
    }
    return problems;
  }

  #figures(node: WalkNode): Omit<Walk, 'problems' | 'packets'> {
    const ends = node.notices.filter(({ type }) => type === 'call.completed');
    const codes = new Map<string, number>();
    for (const { call } of ends) {
      const code = call.end?.code ?? 'none';
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    const answered = ends.filter(({ call }) => call.answeredAtMs !== null).length;
    return { dialogs: this.#dialogs, calls: ends.length, answered, codes, said: this.#said };
  }
}

const REFUSED: { kind: 'refused'; code: ErrorCode } = { kind: 'refused', code: 'NO_ROUTE' };

/** Each call has its one record, after everything else, and a true one. */
function recordProblems(notices: readonly CallNotice[]): string[] {
  const problems: string[] = [];
  const told = new Map<string, string[]>();
  for (const { type, call } of notices) {
    const before = told.get(call.sid) ?? [];
    told.set(call.sid, [...before, type]);
    if (type === 'call.completed') {
      const why = implausible(call);
      if (why !== '') problems.push(`${call.direction} ${call.to}: ${why}`);
    }
  }
  for (const [sid, types] of told) {
    const records = types.filter((type) => type === 'call.completed').length;
    const isWhole = types[0] === 'call.created' && types.at(-1) === 'call.completed';
    if (records !== 1 || !isWhole) problems.push(`${sid}: ${types.join(', ')}`);
  }
  return problems;
}

function userOf(kind: number, n: number): string {
  return `+1${kind}${String(n).padStart(8, '0')}`;
}

function numberOf(party: string): number {
  return Number(/\+1\d(\d{8})/.exec(party)?.[1] ?? 0);
}

function targetOf(n: number, random: () => number): DialTarget {
  const user = userOf(Math.floor(random() * KINDS), n);
  if (random() < 0.75) return { kind: 'number', number: user };
  const host = random() < 0.5 ? 'phones.test' : '10.0.1.2';
  return { kind: 'sip', uri: `sip:${user}@${host}`, credentials: null, headers: [] };
}

/** An address with three phones: two at once, one after them. */
function contactsOf(uri: string): readonly ContactTarget[] | null {
  const user = /^sip:(.*)@phones\.test$/.exec(uri)?.[1];
  if (user === undefined) return null;
  return GATEWAYS.map((host, index) => {
    const target = { uri: `sip:${user}@${host}:5060;transport=udp`, peer: null, trusted: true };
    return { target, q: index < 2 ? 1 : 0.5 };
  });
}

export function walk(seed: number, calls: readonly number[], isTold = false): Promise<Walk> {
  return new WalkWorld(seed, isTold).walk(calls);
}

/** Fewer calls that still go wrong: one, as a rule. */
export async function shrink(seed: number, calls: readonly number[]): Promise<Walk> {
  let rest = calls;
  for (let parts = 2; rest.length > 1 && parts <= 2 * rest.length; ) {
    const size = Math.ceil(rest.length / parts);
    let smaller: readonly number[] | null = null;
    for (let at = 0; at < rest.length && smaller === null; at += size) {
      const some = rest.slice(at, at + size);
      if ((await walk(seed, some)).problems.length > 0) smaller = some;
    }
    if (smaller === null) parts *= 2;
    else {
      rest = smaller;
      parts = 2;
    }
    if (size === 1 && smaller === null) break;
  }
  return walk(seed, rest, true);
}

/** What was said, one message a line. */
export function told({ packets }: Walk, linesMax = 120): string {
  const lines = packets.map(({ atMs, from, to, text }) => {
    const message = heard(text);
    const what = message.isRequest ? message.method : `${message.status} ${message.of}`;
    const tags = [field(message, 'from'), field(message, 'to')]
      .map((party) => /;tag=([^;]+)/.exec(party)?.[1]?.slice(0, 8) ?? '-')
      .join(' ');
    const side = from.startsWith(NODE) ? `→ ${to}` : `← ${from}`;
    const callId = field(message, 'call-id').slice(0, 8);
    return `${(atMs / 1000).toFixed(3)} ${side} ${what} ${message.cseq} [${callId} ${tags}]`;
  });
  const rest = lines.length - linesMax;
  return [...lines.slice(0, linesMax), ...(rest > 0 ? [`… ${rest} more`] : [])].join('\n');
}
