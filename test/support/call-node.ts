/**
 * One node's worth of call machinery for tests, with everything real: endpoint, media worker, bus,
 * journal, edge and router; only the rows of the route table are given by the test. A node can be
 * dropped as a killed process would drop it, and another started on what it left behind.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_LOCAL_BUS, LocalBus } from '../../src/bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../../src/call/admission.ts';
import { type Call, DEFAULT_CALL_OPTIONS } from '../../src/call/call.ts';
import type { CallApplication } from '../../src/call/call-record.ts';
import { DEFAULT_EDGE, Edge } from '../../src/call/edge.ts';
import { DEFAULT_EGRESS, Egress } from '../../src/call/egress.ts';
import { DEFAULT_JOURNAL, FileJournal } from '../../src/call/journal.ts';
import type { LegEvent } from '../../src/call/leg.ts';
import { DEFAULT_LEG_MEDIA } from '../../src/call/media-terms.ts';
import type { InboundRoute, RouteTable, TrunkRoute } from '../../src/call/route.ts';
import { type CallNotice, DEFAULT_ROUTER, Router, type RouterDeps } from '../../src/call/router.ts';
import { DEFAULT_LEG_OPTIONS, type LegRecord } from '../../src/call/sip-leg.ts';
import { DEFAULT_TRACE, TraceBook } from '../../src/call/trace.ts';
import { type ReferQuestion, Transfers } from '../../src/call/transfer.ts';
import { AddressGuard } from '../../src/core/address.ts';
import { realClock } from '../../src/core/clock.ts';
import type { GatewayError } from '../../src/core/errors.ts';
import { type Log, silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import type { AccountSid } from '../../src/core/sid.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine } from '../../src/media/engine.ts';
import { DEFAULT_SUPERVISOR_OPTIONS, Supervisor } from '../../src/media/supervisor.ts';
import { Endpoint } from '../../src/sip/endpoint.ts';

export const ACCOUNT = `AC${'0'.repeat(32)}` as AccountSid;

export const APPLICATION: CallApplication = {
  applicationSid: null,
  url: 'http://app.example/voice',
  method: 'POST',
  fallbackUrl: null,
  fallbackMethod: 'POST',
  document: null,
};

export interface NodeOptions {
  readonly json?: boolean;
  readonly directory?: string;
  readonly sipPort?: number;
  readonly mediaPorts?: readonly [number, number];
  /** SIP on ::1 too, on a port of its own. */
  readonly ipv6?: boolean;
  /** SIP over TCP too, on a port of its own. */
  readonly tcp?: boolean;
  /** `media.address6` */
  readonly address6?: string;
  readonly workers?: number;
  readonly log?: Log;
  readonly trunks?: readonly TrunkRoute[];
  readonly contactsOf?: NonNullable<RouterDeps['contactsOf']>;
  readonly inbound?: (user: string) => InboundRoute | null;
  readonly router?: Partial<RouterDeps['options']>;
  readonly call?: Partial<RouterDeps['call']>;
  /** Of transfers that an application decides. */
  readonly ask?: (question: ReferQuestion) => boolean;
  readonly admission?: Partial<typeof DEFAULT_ADMISSION>;
}

export interface CallNode {
  readonly sipPort: number;
  readonly sipPort6: number;
  readonly directory: string;
  readonly bus: LocalBus;
  readonly endpoint: Endpoint;
  readonly engine: MediaEngine;
  readonly journal: FileJournal;
  readonly trace: TraceBook;
  readonly edge: Edge;
  readonly router: Router;
  readonly routerDeps: RouterDeps;
  readonly notices: CallNotice[];
  readonly busErrors: GatewayError[];
  /** Calls that were given to an application and not taken by `nextCall` yet. */
  nextCall(): Promise<Call>;
  /** As if the process were killed: nothing is said to anybody, workers live on. */
  die(): Promise<void>;
  close(): Promise<void>;
}

export async function startNode(options: NodeOptions = {}): Promise<CallNode> {
  const directory = options.directory ?? (await mkdtemp(join(tmpdir(), 'tandem-call-')));
  const clock = realClock;
  const log = options.log ?? silentLog;
  const metrics = new Metrics();
  // Nothing of a node keeps the process alive: in the gateway the HTTP server does.
  const alive = setInterval(() => undefined, 1_000);
  const busErrors: GatewayError[] = [];
  const bus = new LocalBus({
    ...DEFAULT_LOCAL_BUS,
    clock,
    json: options.json ?? false,
    onError: (error) => busErrors.push(error),
  });
  const engine = makeEngine(directory, options, metrics);
  const endpoint = new Endpoint({
    clock,
    log,
    metrics,
    listen: [
      { transport: 'udp', address: '127.0.0.1', port: options.sipPort ?? 0 },
      ...(options.ipv6 === true ? [{ transport: 'udp', address: '::1', port: 0 } as const] : []),
      ...(options.tcp ? [{ transport: 'tcp', address: '127.0.0.1', port: 0 } as const] : []),
    ],
    userAgent: 'tandem-test',
    policy: { trusts: () => true },
  });
  const journal = new FileJournal({
    ...DEFAULT_JOURNAL,
    clock,
    log,
    directory: join(directory, 'journal'),
    batchMs: 5,
  });
  const trace = new TraceBook({ ...DEFAULT_TRACE, clock });
  endpoint.on('trace', (message) => trace.sip(message));
  const notices: CallNotice[] = [];
  const taken = (notice: CallNotice): void => transfers.take(notice);
  const routerDeps = makeRouterDeps(options, { bus, journal, trace, metrics, notices, taken });
  const router = new Router(routerDeps);
  const transfers = new Transfers({
    bus,
    log,
    table: router,
    ask: (question) => options.ask?.(question) ?? false,
    ringTimeoutMs: 30_000,
  });
  const edge = new Edge({
    clock,
    log,
    bus,
    journal,
    trace,
    endpoint,
    engine,
    media: { ...DEFAULT_LEG_MEDIA, address6: options.address6 ?? null },
    legs: DEFAULT_LEG_OPTIONS,
    options: DEFAULT_EDGE,
    egress: new Egress({
      guard: new AddressGuard({ allow: ['127.0.0.1', '::1'] }),
      isRegistered: () => false,
      ...DEFAULT_EGRESS,
    }),
    resolve: (uri) => endpoint.ua.resolver.resolve(uri),
  });
  const nextCall = callQueue(router);
  const records = await journal.start();
  await engine.start();
  await endpoint.start();
  await edge.restore(legRecords(records));
  router.restore(records);
  router.start();
  transfers.start();
  edge.start();
  const sipPort = endpoint.locals[0]?.port ?? 0;
  return {
    sipPort,
    sipPort6: endpoint.locals[1]?.port ?? 0,
    directory,
    bus,
    endpoint,
    engine,
    journal,
    trace,
    edge,
    router,
    routerDeps,
    notices,
    busErrors,
    nextCall,
    async die() {
      await journal.close();
      await bus.close();
      await endpoint.close();
      await engine.close({ leaveWorkers: true });
      clearInterval(alive);
    },
    async close() {
      await router.close({ graceMs: 0 });
      await edge.close();
      await endpoint.close();
      await engine.close();
      await journal.close();
      await bus.close();
      await rm(directory, { recursive: true, force: true });
      clearInterval(alive);
    },
  };
}

function makeEngine(dataDir: string, given: NodeOptions, metrics: Metrics): MediaEngine {
  const clock = realClock;
  const [portMin, portMax] = given.mediaPorts ?? [23_000, 23_399];
  const log = silentLog;
  const supervisor = new Supervisor({
    clock,
    log,
    dataDir,
    options: {
      ...DEFAULT_SUPERVISOR_OPTIONS,
      workers: given.workers ?? 1,
      portMin,
      portMax,
      quarantineMs: 100,
      realtimePriority: 0,
      outlive: true,
      orphanMs: 5_000,
    },
  });
  const options = DEFAULT_MEDIA_ENGINE_OPTIONS;
  return new MediaEngine({ clock, log, metrics, supervisor, address: '127.0.0.1', options });
}

function makeRouterDeps(
  options: NodeOptions,
  parts: Pick<RouterDeps, 'bus' | 'journal' | 'trace' | 'metrics'> & {
    notices: CallNotice[];
    taken: (notice: CallNotice) => void;
  },
): RouterDeps {
  const { bus, journal, trace, metrics, notices } = parts;
  const clock = realClock;
  const routes: RouteTable = {
    inbound: (query) => Promise.resolve(options.inbound?.(query.user) ?? null),
    trunks: () => Promise.resolve(options.trunks ?? []),
  };
  return {
    clock,
    log: silentLog,
    metrics,
    bus,
    journal,
    trace,
    routes,
    admission: new BoundedAdmission({ ...DEFAULT_ADMISSION, clock, ...options.admission }),
    onNotice: (notice) => {
      notices.push({ ...notice, call: { ...notice.call } });
      parts.taken(notice);
    },
    ...(options.contactsOf === undefined ? {} : { contactsOf: options.contactsOf }),
    call: { ...DEFAULT_CALL_OPTIONS, ...options.call },
    options: {
      ...DEFAULT_ROUTER,
      fromDomain: 'tandem.test',
      defaultRoute: { accountSid: ACCOUNT, application: APPLICATION, statusCallback: null },
      ...options.router,
    },
  };
}

function* legRecords(records: ReadonlyMap<string, object>): Generator<LegRecord> {
  for (const [key, record] of records) if (key.startsWith('leg.')) yield record as LegRecord;
}

function callQueue(router: Router): () => Promise<Call> {
  const waiting: Call[] = [];
  const takers: ((call: Call) => void)[] = [];
  router.on('call', (call) => {
    const taker = takers.shift();
    if (taker === undefined) waiting.push(call);
    else taker(call);
  });
  return () => {
    const call = waiting.shift();
    if (call !== undefined) return Promise.resolve(call);
    return new Promise((resolve) => takers.push(resolve));
  };
}

/** Everything a call's leg says, with a way to wait for a kind of event. */
export class Listener {
  readonly events: LegEvent[] = [];
  readonly #waiters: { kind: LegEvent['kind']; resolve: (event: LegEvent) => void }[] = [];

  constructor(call: Call) {
    call.on('leg', (event) => {
      this.events.push(event);
      for (const waiter of this.#waiters.filter(({ kind }) => kind === event.kind)) {
        waiter.resolve(event);
      }
    });
  }

  /** The first event of that kind, past or future. */
  async event<K extends LegEvent['kind']>(kind: K): Promise<LegEvent & { kind: K }> {
    const known = this.events.find((event) => event.kind === kind);
    const event =
      known ??
      (await new Promise<LegEvent>((resolve) => {
        this.#waiters.push({ kind, resolve });
      }));
    return event as LegEvent & { kind: K };
  }

  digits(): string {
    return this.events.map((event) => (event.kind === 'digit' ? event.key : '')).join('');
  }
}

export function ended(call: Call): Promise<NonNullable<Call['record']['end']>> {
  const { end } = call.record;
  if (end !== null) return Promise.resolve(end);
  return new Promise((resolve) => call.once('ended', resolve));
}
