/**
 * A gateway for verb tests: real bus, calls, router, bridges and interpreters; legs that follow the
 * leg protocol but have no phone; an app server that is a table; time that moves only when told.
 *
 * `crashAt` drops everything above the legs at a given step, as a killed process would, and builds
 * it again from the calls' records as JSON. Legs, app server and callbacks live on. One step is one
 * turn of the event loop: that is how fine the journal's snapshots are.
 */
import { type Bus, DEFAULT_LOCAL_BUS, LocalBus } from '../../src/bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../../src/call/admission.ts';
import { type Call, DEFAULT_CALL_OPTIONS } from '../../src/call/call.ts';
import type { CallApplication, CallRecord } from '../../src/call/call-record.ts';
import { noJournal } from '../../src/call/journal.ts';
import {
  callSubject,
  type LegCommand,
  type LegEvent,
  type LegFact,
  type LegOrder,
  legIdOf,
  legSubject,
  OFFERS,
  ORDERS,
} from '../../src/call/leg.ts';
import { DEFAULT_ROUTER, Router } from '../../src/call/router.ts';
import { DEFAULT_TRACE, TraceBook } from '../../src/call/trace.ts';
import type { Clock, Timer } from '../../src/core/clock.ts';
import { ERRORS, type ErrorCode, GatewayError } from '../../src/core/errors.ts';
import { Secret, silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import type { AccountSid, CallSid } from '../../src/core/sid.ts';
import type { AppDocument, AppRequest } from '../../src/verbs/application.ts';
import { Flows } from '../../src/verbs/flows.ts';
import type { InterpreterOptions } from '../../src/verbs/interpreter-parts.ts';
import { DEFAULT_INTERPRETER_OPTIONS, type FlowReport } from '../../src/verbs/interpreter-parts.ts';
import type { Prompt, RecordingEnd } from '../../src/verbs/verb.ts';
import { trunkRoute } from './trunk.ts';

export const ACCOUNT = `AC${'0'.repeat(32)}` as AccountSid;
const START_MS = Date.UTC(2026, 10, 20, 12);

/** Time that stands still until it is moved. */
class TestClock implements Clock {
  #nowMs = 0;
  #no = 0;
  readonly #timers = new Map<number, { atMs: number; fn: () => void }>();

  nowMs(): number {
    return START_MS + this.#nowMs;
  }
  monotonicMs(): number {
    return this.#nowMs;
  }
  timer(delayMs: number, fn: () => void): Timer {
    this.#no += 1;
    const no = this.#no;
    this.#timers.set(no, { atMs: this.#nowMs + Math.max(0, delayMs), fn });
    return { cancel: () => void this.#timers.delete(no) };
  }
  random(): number {
    return 0.5;
  }
  randomHex(bytes: number): string {
    this.#no += 1;
    return this.#no.toString(16).padStart(bytes * 2, '0');
  }
  /** Fires the next timer; false when there is none before `untilMs`. */
  next(untilMs: number): boolean {
    let first: number | null = null;
    for (const [no, { atMs }] of this.#timers) {
      if (atMs > untilMs) continue;
      if (first === null || atMs < (this.#timers.get(first)?.atMs ?? 0)) first = no;
    }
    if (first === null) return false;
    const timer = this.#timers.get(first);
    this.#timers.delete(first);
    this.#nowMs = Math.max(this.#nowMs, timer?.atMs ?? 0);
    timer?.fn();
    return true;
  }
}

/** What a callee does, by the number or URI that is dialled. */
export interface Callee {
  readonly ringAfterMs?: number;
  readonly answerAfterMs?: number;
  readonly hangupAfterMs?: number;
  /** Ends without an answer. */
  readonly refuse?: {
    readonly afterMs: number;
    readonly sipStatus: number;
    readonly code: ErrorCode;
  };
  readonly digits?: readonly (readonly [atMs: number, key: string])[];
  readonly headers?: Readonly<Record<string, string>>;
}

export interface WorldOptions {
  /** By path and query: a document, a status, or what makes one of the parameters. */
  readonly app: Readonly<Record<string, Page | ((params: Params, visit: number) => Page)>>;
  readonly callees?: Readonly<Record<string, Callee>>;
  readonly application?: Partial<CallApplication>;
  readonly options?: Partial<InterpreterOptions>;
  /** How long each file plays, by path; 1 s otherwise. */
  readonly durationsMs?: Readonly<Record<string, number>>;
  /** What the recorder reports as heard; all of it otherwise. */
  readonly heardMs?: number;
  /** The caller's answer is never acknowledged. */
  readonly answerFails?: boolean;
  readonly crashAt?: number;
}

export type Page = string | number | { readonly type: string; readonly body: string };
export type Params = Readonly<Record<string, string>>;

/** One gateway process: what dies in a crash. */
interface Generation {
  isDead: boolean;
  readonly router: Router;
  readonly flows: Flows;
}

export class World {
  readonly clock = new TestClock();
  /** What legs really did, in order, repeated commands left out. */
  readonly effects: string[] = [];
  /** What the app was asked, in order: `path?` and the parameters that are not standard. */
  readonly asked: string[] = [];
  readonly told: string[] = [];
  readonly reports: FlowReport[] = [];
  /** Legs were told to stop what did not sound. */
  readonly needlessStops: string[] = [];
  readonly recordings = new Map<string, RecordingEnd | null>();
  readonly ended: CallRecord[] = [];
  readonly options: WorldOptions;
  readonly #bus: LocalBus;
  readonly #legs = new Map<string, FakeLeg>();
  readonly #visits = new Map<string, number>();
  /** Prompts that nobody has released. */
  readonly #held = new Set<{ readonly path: string }>();
  #generation: Generation;
  #pending = 0;
  /** Where in `asked` the request stands that has no answer yet. */
  #unanswered: number | null = null;
  #asking = 0;
  #crashAt: number;
  steps = 0;
  /** The crash came after a call had ended and before its app was told how. */
  lostLastWord = false;

  constructor(options: WorldOptions) {
    this.options = options;
    this.#crashAt = options.crashAt ?? -1;
    this.#bus = new LocalBus({
      ...DEFAULT_LOCAL_BUS,
      clock: this.clock,
      json: true,
      onError: (error) => {
        throw error;
      },
    });
    this.#bus.respond(ORDERS, (order) => {
      new FakeLeg(this, this.#bus, { order }).begin();
      return { legId: order.legId };
    });
    this.#generation = this.#boot(new Map());
  }

  get calls(): Call[] {
    return [...this.#generation.router.calls()];
  }

  /** A call comes in; resolves when the router has admitted it. */
  async callIn(): Promise<FakeLeg> {
    const verdict = await this.#bus.request(
      OFFERS,
      {
        source: { transport: 'udp', address: '127.0.0.1', port: 5060 },
        requestUri: 'sip:+15550001@gw.example',
        fromUri: 'sip:+15550002@carrier.example',
        toUri: 'sip:+15550001@gw.example',
        sipCallId: 'in-1',
        fields: [
          ['From', '<sip:+15550002@carrier.example>'],
          ['X-Tag', 'seven'],
        ],
        maxForwards: 70,
        identity: null,
        certificateNames: [],
        codecs: ['PCMU'],
        srtp: 'none',
        date: null,
      },
      { timeoutMs: 1000 },
    );
    if (!verdict.admitted) throw new GatewayError(verdict.code, verdict.details);
    const leg = new FakeLeg(this, this.#bus, { callSid: verdict.callSid });
    leg.begin();
    return leg;
  }

  /** REST places a call. */
  originate(target: string, application: Partial<CallApplication>, sendDigits?: string): Call {
    return this.#generation.router.originate({
      accountSid: ACCOUNT,
      from: '+15550002',
      target: { kind: 'number', number: target },
      application: { ...this.#application(), ...application },
      statusCallback: null,
      ringTimeoutMs: 30_000,
      ...(sendDigits === undefined ? {} : { sendDigits }),
    });
  }

  /** REST gives a call another application. */
  redirect(sid: CallSid, application: Partial<CallApplication>): void {
    const { router, flows } = this.#generation;
    const call = router.find(sid);
    if (call === undefined) throw new GatewayError('CALL_NOT_LIVE', { status: 'ended' });
    flows.redirect(call, { ...this.#application(), url: null, ...application });
  }

  /** At that time of the scenario, whatever has crashed by then. */
  at(ms: number, fn: () => void): void {
    this.clock.timer(ms - this.clock.monotonicMs(), fn);
  }

  leg(callSid: CallSid): FakeLeg | undefined {
    return this.#legs.get(legIdOf(callSid));
  }

  addLeg(leg: FakeLeg): void {
    this.#legs.set(leg.legId, leg);
  }

  /** Runs `fn` in a later turn, as an answer over a network would come. */
  later(fn: () => void): void {
    this.#pending += 1;
    setImmediate(() => {
      this.#pending -= 1;
      fn();
    });
  }

  /** Lets time pass until no call is left, or `untilMs`. */
  async run(untilMs = 3_600_000): Promise<this> {
    for (;;) {
      // Two quiet turns, so that what one turn set off is set off before time moves.
      if ((await this.#turn()) || this.#pending > 0) continue;
      if ((await this.#turn()) || this.#pending > 0) continue;
      const isIdle = this.calls.length === 0 && this.#generation.flows.size === 0;
      if (isIdle || !this.clock.next(untilMs)) return this;
    }
  }

  /** One turn of the event loop; true when the gateway was dropped in it. */
  async #turn(): Promise<boolean> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.steps += 1;
    if (this.steps !== this.#crashAt) return false;
    this.#crash();
    return true;
  }

  #crash(): void {
    const old = this.#generation;
    // Whoever dies before he knows the answer asks once more: that is told from doing it twice.
    if (this.#unanswered !== null) {
      for (const line of this.asked.splice(this.#unanswered)) {
        const path = line.replace(/^GET /, '').replace(/ .*/, '');
        this.#visits.set(path, (this.#visits.get(path) ?? 1) - 1);
      }
      this.#unanswered = null;
    }
    const records = new Map<string, object>();
    for (const call of old.router.calls()) {
      records.set(`call.${call.sid}`, JSON.parse(JSON.stringify(call.snapshot())) as object);
      if (this.#legs.has(call.record.legId)) records.set(`leg.${call.record.legId}`, {});
    }
    old.isDead = true;
    const running = [...old.router.calls()].filter(({ record }) => record.flow !== null);
    this.lostLastWord = old.flows.size > running.length;
    for (const call of old.router.calls()) call.detach();
    void old.flows.close();
    this.#generation = this.#boot(records);
  }

  #boot(records: ReadonlyMap<string, object>): Generation {
    const generation = { isDead: false } as { -readonly [K in keyof Generation]: Generation[K] };
    const clock: Clock = {
      nowMs: () => this.clock.nowMs(),
      monotonicMs: () => this.clock.monotonicMs(),
      random: () => this.clock.random(),
      randomHex: (bytes) => this.clock.randomHex(bytes),
      timer: (delayMs, fn) => this.clock.timer(delayMs, () => void (generation.isDead || fn())),
    };
    const bus: Bus = {
      publish: (subject, message) => {
        if (!generation.isDead) this.#bus.publish(subject, message);
      },
      subscribe: (...args) => this.#bus.subscribe(...args),
      request: (...args) => this.#bus.request(...args),
      respond: (...args) => this.#bus.respond(...args),
      close: () => Promise.resolve(),
    };
    generation.router = this.#makeRouter(clock, bus);
    generation.flows = this.#makeFlows(clock, generation);
    generation.router.on('call', (call) => generation.flows.run(call));
    generation.router.start();
    generation.router.restore(records);
    return generation;
  }

  #makeRouter(clock: Clock, bus: Bus): Router {
    return new Router({
      clock,
      log: silentLog,
      metrics: new Metrics(),
      bus,
      journal: noJournal,
      trace: new TraceBook({ ...DEFAULT_TRACE, clock }),
      admission: new BoundedAdmission({ ...DEFAULT_ADMISSION, clock }),
      routes: {
        inbound: () =>
          Promise.resolve({
            kind: 'application',
            accountSid: ACCOUNT,
            application: this.#application(),
            statusCallback: null,
            to: '+15550001',
            from: '+15550002',
            trunkSid: null,
          }),
        trunks: () =>
          Promise.resolve([
            trunkRoute({
              sid: `TK${'0'.repeat(32)}` as never,
              // '99…' is taken by no trunk
              numberPatterns: ['+*', '1*', '2*', '3*', '7*'],
              gateways: [{ uri: 'sip:carrier.example', priority: 0, weight: 1 }],
            }),
          ]),
      },
      onNotice: ({ type, call }) => {
        if (type === 'call.completed') this.ended.push(call);
      },
      call: DEFAULT_CALL_OPTIONS,
      options: { ...DEFAULT_ROUTER, fromDomain: 'gw.example' },
    });
  }

  #makeFlows(clock: Clock, generation: Generation): Flows {
    const never = new Promise<never>(() => undefined);
    const alive = <T>(work: () => Promise<T>): Promise<T> => {
      if (generation.isDead) return never;
      return work().then(
        (value) => (generation.isDead ? never : value),
        (thrown) => (generation.isDead ? never : Promise.reject(thrown as GatewayError)),
      );
    };
    return new Flows({
      clock,
      log: silentLog,
      application: {
        fetch: (request) => alive(() => this.#answer(() => this.#fetch(request, generation))),
        recover: (request, error) =>
          alive(() => this.#answer(() => this.#recover(request, error, generation))),
      },
      promptsOf: () => ({
        audio: (url) => this.#prompt(url),
        speech: ({ content }) => this.#prompt(`say:${content.join('')}`),
      }),
      recordings: {
        begin: ({ sid }) => {
          if (!this.recordings.has(sid)) this.recordings.set(sid, null);
          return { path: `/rec/${sid.slice(0, 4)}.wav`, url: `http://gw/Recordings/${sid}` };
        },
        finish: (end) => void this.recordings.set(end.sid, end),
      },
      calls: generation.router,
      accountOf: (sid) => ({ sid, authToken: new Secret('token') }),
      notify: (_callSid, _accountSid, { url, params }) => {
        if (!generation.isDead) this.told.push(`${url} ${show(params)}`);
      },
      onReport: (report) => void this.reports.push(report),
      options: { ...DEFAULT_INTERPRETER_OPTIONS, ...this.options.options },
    });
  }

  #application(): CallApplication {
    return {
      applicationSid: null,
      url: 'http://app/voice',
      method: 'POST',
      fallbackUrl: null,
      fallbackMethod: 'POST',
      document: null,
      ...this.options.application,
    };
  }

  async #prompt(path: string): Promise<Prompt> {
    await new Promise<void>((resolve) => this.later(resolve));
    if (path.includes('missing')) {
      throw new GatewayError('APP_STATUS', { url: path, status: 404 });
    }
    const hold = { path };
    this.#held.add(hold);
    const release = (): void => void this.#held.delete(hold);
    return { path, durationMs: this.durationOf(path), release };
  }

  /** How many times it was handed out and not released: it is there as long as it is held. */
  heldOf(path: string): number {
    return [...this.#held].filter((hold) => hold.path === path).length;
  }

  get held(): number {
    return this.#held.size;
  }

  durationOf(path: string): number {
    return this.options.durationsMs?.[path] ?? 1000;
  }

  async #answer(ask: () => Promise<AppDocument>): Promise<AppDocument> {
    this.#asking += 1;
    const asking = this.#asking;
    this.#unanswered = this.asked.length;
    try {
      return await ask();
    } finally {
      if (this.#asking === asking) this.#unanswered = null;
    }
  }

  async #fetch(request: AppRequest, generation: Generation): Promise<AppDocument> {
    try {
      return await this.#ask(request, null);
    } catch (thrown) {
      return await this.#recover(request, thrown as GatewayError, generation);
    }
  }

  #recover(request: AppRequest, error: GatewayError, generation: Generation): Promise<AppDocument> {
    if (generation.isDead) return new Promise<never>(() => undefined);
    if (request.fallback === undefined) return Promise.reject(error);
    const params = {
      ...request.params,
      ErrorCode: String(error.row.number),
      ErrorUrl: request.url,
    };
    return this.#ask({ ...request, ...request.fallback, params, fallback: undefined }, error);
  }

  async #ask(request: AppRequest, recoveredFrom: GatewayError | null): Promise<AppDocument> {
    const path = request.url.replace('http://app', '');
    const line = `${request.method === 'GET' ? 'GET ' : ''}${path} ${show(request.params)}`.trim();
    this.asked.push(line);
    this.#visits.set(path, (this.#visits.get(path) ?? 0) + 1);
    const page = this.options.app[path];
    const found =
      typeof page === 'function' ? page(request.params, this.#visits.get(path) ?? 1) : page;
    await new Promise<void>((resolve) => this.later(resolve));
    if (found === undefined || typeof found === 'number') {
      throw new GatewayError('APP_STATUS', { url: request.url, status: found ?? 404 });
    }
    const body = typeof found === 'string' ? `<Response>${found}</Response>` : found.body;
    return {
      url: request.url,
      method: request.method,
      contentType: typeof found === 'string' ? 'text/xml' : found.type,
      body,
      cookies: '',
      recoveredFrom,
    };
  }
}

const STANDARD =
  /^(CallSid|AccountSid|(From|To|Caller|Called)(City|State|Zip|Country)?|CallStatus|CallToken|ApiVersion|Direction|ParentCallSid|Sip[A-Z].*)$/;

/** Parameters beyond the standard ones; sids by their kind, because they differ by number only. */
function show(params: Params): string {
  return Object.entries(params)
    .filter(([name]) => !STANDARD.test(name))
    .map(([name, value]) => `${name}=${value.replace(/\b([A-Z]{2})[0-9a-f]{32}\b/g, '$1')}`)
    .join(' ');
}

interface Playing {
  readonly playId: string;
  readonly sinceMs: number;
  readonly timer: Timer | null;
}

interface Recording {
  readonly commandId: string;
  readonly recordId: string;
  readonly sinceMs: number;
  readonly timer: Timer;
}

/** A leg without a phone: does what it is told in test time, and keeps the protocol's two rules. */
export class FakeLeg {
  readonly callSid: CallSid;
  readonly legId: string;
  readonly name: string;
  isAnswered = false;
  isEnded = false;
  readonly #world: World;
  readonly #bus: LocalBus;
  readonly #order: LegOrder | null;
  readonly #kept: LegEvent[] = [];
  readonly #seen = new Map<string, LegFact | null>();
  #seq = 0;
  #playing: Playing[] = [];
  #recording: Recording | null = null;
  #isBridged = false;

  constructor(world: World, bus: LocalBus, of: { callSid: CallSid } | { order: LegOrder }) {
    this.#world = world;
    this.#bus = bus;
    this.#order = 'order' in of ? of.order : null;
    this.callSid = 'order' in of ? of.order.callSid : of.callSid;
    this.legId = legIdOf(this.callSid);
    this.name = this.#order === null ? 'in' : targetOf(this.#order);
    world.addLeg(this);
    bus.subscribe(legSubject(this.legId), (command) => this.#obey(command));
  }

  begin(): void {
    if (this.#order === null) {
      this.#tell({ kind: 'offered', earlyOffer: true });
      return;
    }
    const callee = this.#world.options.callees?.[this.name] ?? {};
    this.#effect(
      `invited from ${this.#order.groups[0]?.fromUri.replace(/@.*/, '')}${extras(this.#order)}`,
    );
    const at = (afterMs: number | undefined, fn: () => void): void => {
      if (afterMs !== undefined) this.#world.clock.timer(afterMs, () => this.isEnded || fn());
    };
    at(callee.ringAfterMs, () =>
      this.#tell({ kind: 'ringing', sipStatus: 180, earlyMedia: false, port: null }),
    );
    at(callee.answerAfterMs, () => this.#answered(callee));
    at(callee.refuse?.afterMs, () => {
      if (callee.refuse) this.#end(callee.refuse.code, 'remote', callee.refuse.sipStatus);
    });
    at(callee.hangupAfterMs, () => this.hangUp());
    at(this.#order.ringTimeoutMs, () => {
      if (!this.isAnswered) this.#end('CALL_NO_ANSWER', 'local', 487);
    });
  }

  press(keys: string): void {
    for (const key of keys) {
      this.#tell({ kind: 'digit', key, durationMs: 100, source: 'rfc4733' });
    }
  }

  /** The person at the far end has had enough. */
  hangUp(): void {
    this.#end(this.isAnswered ? 'CALL_COMPLETED' : 'CALL_CANCELED', 'remote', 200);
  }

  #obey(command: LegCommand): void {
    if (command.kind === 'attach') {
      for (const event of this.#kept) if (event.seq > command.fromSeq) this.#publish(event);
      return;
    }
    const known = this.#seen.get(command.id);
    if (known !== undefined) {
      if (known !== null) this.#tell(known);
      return;
    }
    if (this.isEnded) return;
    this.#seen.set(command.id, null);
    this.#do(command);
  }

  #do(command: Exclude<LegCommand, { kind: 'attach' }>): void {
    switch (command.kind) {
      case 'ring':
        this.#effect('ring');
        break;
      case 'answer':
        this.#effect('answer');
        if (this.#world.options.answerFails) {
          const { id } = command;
          this.#settle(id, { kind: 'commandFailed', id, code: 'CALL_NO_ACK', details: {} });
        } else this.#answered({});
        break;
      case 'hangup':
        this.#effect(`hangup ${command.code}`);
        this.#end(command.code, 'local', this.isAnswered ? 200 : ERRORS[command.code].sip);
        break;
      case 'play':
      case 'sendDigits':
        this.#play(command);
        break;
      case 'stopPlay':
        this.#stop(command.playId);
        break;
      case 'record':
        this.#record(command);
        break;
      case 'stopRecord':
        if (this.#recording !== null) this.#recordDone('stopped');
        break;
      case 'bridge':
        this.#isBridged = true;
        this.#effect('bridge');
        this.#settle(command.id, { kind: 'bridged', peerLegId: command.peerLegId });
        break;
      case 'unbridge':
        if (this.#isBridged) this.#effect('unbridge');
        this.#isBridged = false;
        this.#settle(command.id, { kind: 'unbridged', peerLegId: '' });
        break;
      default:
        throw new GatewayError('INTERNAL', { problem: command.kind });
    }
  }

  #answered(callee: Callee): void {
    this.isAnswered = true;
    this.#tell({
      kind: 'answered',
      port: { worker: 0, handle: Number.parseInt(this.callSid.slice(-6), 16) + 1 },
      sipCallId: `${this.name}-id`,
      sipHeaders: callee.headers ?? {},
    });
    for (const [atMs, key] of callee.digits ?? []) {
      this.#world.clock.timer(atMs, () => this.isEnded || this.press(key));
    }
  }

  #play(command: Extract<LegCommand, { kind: 'play' | 'sendDigits' }>): void {
    const { playId } = command;
    let lastsMs = 100;
    let what = '';
    if (command.kind === 'sendDigits') what = `digits ${command.digits}`;
    else if (command.source.kind === 'tone') {
      what = `tone ${command.source.hz.join('+')} x${command.loop}`;
      lastsMs = command.loop === 0 ? Number.POSITIVE_INFINITY : command.source.onMs;
    } else if (command.source.kind === 'file') {
      const { path } = command.source;
      const isThere = this.#world.heldOf(path) > 0;
      what = `play ${path} x${command.loop}${isThere ? '' : ', which is gone'}`;
      lastsMs = this.#world.durationOf(command.source.path) * (command.loop || 1_000_000);
    }
    this.#effect(what);
    const sinceMs = this.#world.clock.monotonicMs();
    const timer = Number.isFinite(lastsMs)
      ? this.#world.clock.timer(lastsMs, () => this.#played(playId, 'finished'))
      : null;
    this.#playing.push({ playId, sinceMs, timer });
  }

  #stop(playId: string): void {
    if (!this.#playing.some((one) => one.playId === playId)) {
      this.#world.needlessStops.push(playId);
      return;
    }
    this.#effect(`stop ${playId.replace(/^v[0-9.]*\./, '')}`);
    this.#played(playId, 'stopped');
  }

  #played(playId: string, reason: 'finished' | 'stopped'): void {
    const one = this.#playing.find((playing) => playing.playId === playId);
    if (one === undefined) return;
    one.timer?.cancel();
    this.#playing = this.#playing.filter((playing) => playing !== one);
    const playedMs = this.#world.clock.monotonicMs() - one.sinceMs;
    this.#settle(playId, { kind: 'playDone', playId, reason, playedMs });
  }

  #record(command: Extract<LegCommand, { kind: 'record' }>): void {
    const { recordId, source, channels, silenceMs, maxMs, trimSilence } = command;
    this.#effect(`record ${source} ${channels}ch silence ${silenceMs} trim ${trimSilence}`);
    const { heardMs } = this.#world.options;
    const bySilence = silenceMs > 0 && heardMs !== undefined && heardMs + silenceMs < maxMs;
    const lastsMs = bySilence ? heardMs + silenceMs : maxMs;
    const timer = this.#world.clock.timer(lastsMs, () =>
      this.#recordDone(bySilence ? 'silence' : 'maxMs'),
    );
    const sinceMs = this.#world.clock.monotonicMs();
    this.#recording = { commandId: command.id, recordId, sinceMs, timer };
  }

  #recordDone(reason: 'stopped' | 'maxMs' | 'silence' | 'portClosed'): void {
    const recording = this.#recording;
    if (recording === null) return;
    recording.timer.cancel();
    this.#recording = null;
    this.#effect(`recorded ${reason}`);
    const tookMs = this.#world.clock.monotonicMs() - recording.sinceMs;
    const durationMs = Math.min(tookMs, this.#world.options.heardMs ?? tookMs);
    const { commandId, recordId } = recording;
    this.#settle(commandId, { kind: 'recordDone', recordId, reason, durationMs });
  }

  #end(code: ErrorCode, by: 'local' | 'remote', sipStatus: number): void {
    if (this.isEnded) return;
    for (const { playId } of this.#playing) this.#played(playId, 'stopped');
    this.#recordDone('portClosed');
    this.isEnded = true;
    this.#effect(`ended ${by}`);
    const sipCallId = `${this.name}-id`;
    const reason = by;
    this.#tell({ kind: 'ended', code, by, sipStatus, reason, sipCallId, headers: {}, stats: null });
  }

  /** The outcome of a command, to be repeated when the command is. */
  #settle(id: string, fact: LegFact): void {
    this.#seen.set(id, fact);
    this.#tell(fact);
  }

  #tell(fact: LegFact): void {
    this.#seq += 1;
    const atMs = this.#world.clock.nowMs();
    const event: LegEvent = { legId: this.legId, seq: this.#seq, atMs, ...fact };
    this.#kept.push(event);
    this.#world.later(() => this.#publish(event));
  }

  #publish(event: LegEvent): void {
    this.#bus.publish(callSubject(this.callSid), event);
  }

  #effect(what: string): void {
    this.#world.effects.push(`${this.name}: ${what}`);
  }
}

function targetOf(order: LegOrder): string {
  const uri = order.groups[0]?.targets[0]?.uri ?? '';
  return uri.includes('carrier.example') ? uri.replace(/^sip:|@.*$/g, '') : uri;
}

function extras(order: LegOrder): string {
  const headers = (order.groups[0]?.headers ?? [])
    .map(([name, value]) => ` ${name}=${value}`)
    .join('');
  const credentials = order.groups[0]?.credentials ?? null;
  return credentials === null ? headers : `${headers} as ${credentials.username}`;
}
