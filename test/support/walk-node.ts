/**
 * A node on simulated time: endpoint, edge, router, calls, transfers, bus and media engine are the
 * real ones; the media worker, the journal and the rows are stand-ins that count what is in use.
 * Nothing here waits for the kernel, so a day of calls is minutes of CPU.
 */
import { EventEmitter } from 'node:events';
import { DEFAULT_LOCAL_BUS, LocalBus } from '../../src/bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from '../../src/call/admission.ts';
import { DEFAULT_CALL_OPTIONS } from '../../src/call/call.ts';
import type { CallRecord } from '../../src/call/call-record.ts';
import { DEFAULT_EDGE, Edge } from '../../src/call/edge.ts';
import { DEFAULT_EGRESS, Egress } from '../../src/call/egress.ts';
import type { Journal } from '../../src/call/journal.ts';
import { DEFAULT_LEG_MEDIA } from '../../src/call/media-terms.ts';
import type { ContactTarget } from '../../src/call/outbound.ts';
import type { InboundRoute, TrunkRoute } from '../../src/call/route.ts';
import { type CallNotice, DEFAULT_ROUTER, Router } from '../../src/call/router.ts';
import { DEFAULT_LEG_OPTIONS } from '../../src/call/sip-leg.ts';
import { DEFAULT_TRACE, TraceBook } from '../../src/call/trace.ts';
import { Transfers } from '../../src/call/transfer.ts';
import { AddressGuard } from '../../src/core/address.ts';
import { type ErrorCode, GatewayError } from '../../src/core/errors.ts';
import { type Log, type LogFields, silentLog } from '../../src/core/log.ts';
import { Metrics } from '../../src/core/metrics.ts';
import type { Handle } from '../../src/media/binding.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine } from '../../src/media/engine.ts';
import type { Args, ControlVerb } from '../../src/media/protocol.ts';
import type { ControlClient } from '../../src/media/socket.ts';
import type { LiveWorker, Supervisor } from '../../src/media/supervisor.ts';
import { Endpoint } from '../../src/sip/endpoint.ts';
import { ACCOUNT, APPLICATION } from './call-node.ts';
import { type SimClock, type SimNetwork, seededRandom } from './sim.ts';

export const NODE = '10.0.0.1';

/** A worker that only keeps count; now and then it has no port left, or is slow. */
class FakeWorker extends EventEmitter {
  readonly isClosed = false;
  readonly ports = new Set<Handle>();
  readonly #clock: SimClock;
  readonly #random: () => number;
  #made = 0;

  constructor(clock: SimClock, seed: number) {
    super();
    this.#clock = clock;
    this.#random = seededRandom(seed ^ 0x11aa77);
  }

  request(verb: ControlVerb, args: Args<ControlVerb>): Promise<object> {
    // Closing is not held up: what it must not leave behind is counted at once.
    const delayMs = this.#random() < 0.05 ? this.#random() * 300 : this.#random() * 2;
    return new Promise((resolve, reject) => {
      this.#clock.timer(delayMs, () => {
        try {
          resolve(this.#do(verb, args));
        } catch (thrown) {
          reject(thrown as GatewayError);
        }
      });
    });
  }

  #do(verb: ControlVerb, args: Args<ControlVerb>): object {
    if (verb === 'createPort') {
      if (this.#random() < 0.003) throw new GatewayError('PORTS_EXHAUSTED', { range: 'all' });
      this.#made += 1;
      this.ports.add(this.#made);
      const rtpPort = 20_000 + ((2 * this.#made) % 40_000);
      return { handle: this.#made, rtpPort, rtcpPort: rtpPort + 1 };
    }
    const { port } = args as { port: Handle };
    if (verb === 'closePort') {
      if (!this.ports.delete(port)) throw refused(verb, 'closed before');
      return { stats: null };
    }
    if (!this.ports.has(port)) throw refused(verb, 'no such port');
    if (verb === 'play') {
      const { playId } = (args as Args<'play'>).play;
      this.#clock.timer(this.#random() * 4_000, () => {
        const event = { kind: 'playDone', playId, reason: 'finished', playedMs: 1 };
        this.emit('events', [{ port, event }]);
      });
      return { outcome: null, clipMs: 1_000 };
    }
    return verb === 'record' ? { outcome: null } : {};
  }
}

function refused(op: string, problem: string): GatewayError {
  return new GatewayError('MEDIA_COMMAND', { op, problem });
}

class MemoryJournal implements Journal {
  readonly keys = new Set<string>();

  put(key: string): void {
    this.keys.add(key);
  }

  remove(key: string): void {
    this.keys.delete(key);
  }
}

/** Our own faults, as the log of the node tells them. */
class FaultLog implements Log {
  readonly faults: string[] = [];

  debug(): void {}
  info(): void {}
  warn(): void {}

  error(fields: LogFields, message: string): void {
    // No port left is what the worker said.
    if (fields.code === 'PORTS_EXHAUSTED') return;
    const { code, problem, err, stack } = fields as Record<string, string | Error | undefined>;
    const told = [message, code, problem, err instanceof Error ? err.stack : '', stack];
    this.faults.push(told.filter((part) => part !== undefined && part !== '').join(' '));
  }

  child(): Log {
    return this;
  }
}

export interface WalkRows {
  readonly trunks: readonly TrunkRoute[];
  /** Of the trunk that a number of ours belongs to. */
  trunkOf(user: string): TrunkRoute | null;
  contactsOf(uri: string): readonly ContactTarget[] | null;
}

export interface WalkNode {
  readonly endpoint: Endpoint;
  readonly router: Router;
  readonly notices: CallNotice[];
  readonly faults: readonly string[];
  readonly ports: ReadonlySet<Handle>;
  /** What is held now; all zero when nothing is going on. */
  held(): Record<string, number>;
  close(): Promise<void>;
}

export async function startWalkNode(parts: {
  clock: SimClock;
  network: SimNetwork;
  seed: number;
  rows: WalkRows;
  callOf: (user: string) => { kind: 'refused'; code: ErrorCode } | null;
}): Promise<WalkNode> {
  const { clock, network, seed } = parts;
  const log = new FaultLog();
  const metrics = new Metrics();
  const journal = new MemoryJournal();
  const bus = new LocalBus({
    ...DEFAULT_LOCAL_BUS,
    clock,
    onError: (error, subject) => log.error({ err: error }, `bus ${subject}`),
  });
  const worker = new FakeWorker(clock, seed);
  const engine = makeEngine(clock, metrics, worker);
  const endpoint = new Endpoint({
    clock,
    log,
    metrics,
    listen: [{ transport: 'udp', address: NODE, port: 5060 }],
    userAgent: 'tandem',
    sockets: network.host(NODE),
    policy: { trusts: () => true },
  });
  const trace = new TraceBook({ ...DEFAULT_TRACE, clock });
  const admission = new BoundedAdmission({
    ...DEFAULT_ADMISSION,
    clock,
    callsPerSecondMax: 100_000,
    callsPerSecondPerAccountMax: 100_000,
  });
  const notices: CallNotice[] = [];
  const router = new Router({
    ...{ clock, log, metrics, bus, journal, trace, admission },
    routes: { inbound: ({ user }) => routeOf(user, parts), trunks: () => parts.rows.trunks },
    contactsOf: (uri) => parts.rows.contactsOf(uri),
    onNotice: (notice) => {
      notices.push({ ...notice, call: { ...notice.call } });
      transfers.take(notice);
    },
    call: { ...DEFAULT_CALL_OPTIONS, durationMsMax: 150_000, setupMsMax: 90_000 },
    options: { ...DEFAULT_ROUTER, fromDomain: 'tandem.test' },
  });
  const transfers = new Transfers({
    ...{ bus, log, table: router },
    ask: () => false,
    ringTimeoutMs: 15_000,
  });
  const edge = new Edge({
    ...{ clock, log, bus, journal, trace, endpoint, engine },
    media: {
      ...DEFAULT_LEG_MEDIA,
      remote: { ...DEFAULT_LEG_MEDIA.remote, allowPrivateMedia: true },
    },
    legs: DEFAULT_LEG_OPTIONS,
    options: DEFAULT_EDGE,
    egress: new Egress({
      guard: new AddressGuard({ allow: ['10.0.0.0/8'] }),
      isRegistered: () => true,
      ...DEFAULT_EGRESS,
    }),
    resolve: (uri) => endpoint.ua.resolver.resolve(uri),
  });
  await engine.start();
  await endpoint.start();
  router.start();
  transfers.start();
  edge.start();
  const idleTimers = clock.armedCount;
  return {
    endpoint,
    router,
    notices,
    faults: log.faults,
    ports: worker.ports,
    held: () => {
      const { sessions, clientTransactions, serverTransactions, deadlines } = endpoint.counts;
      return {
        ...{ sessions, clientTransactions, serverTransactions, deadlines },
        legs: edge.size,
        calls: router.size,
        admitted: admission.live,
        inTrunks: parts.rows.trunks.reduce((sum, { sid }) => {
          const live = router.liveOn(sid);
          return sum + live.in + live.out;
        }, 0),
        ports: engine.size,
        workerPorts: worker.ports.size,
        journalRecords: journal.keys.size,
        busMessages: bus.depth,
        timers: clock.armedCount - idleTimers,
      };
    },
    close: async () => {
      await router.close();
      transfers.close();
      await edge.close();
      await endpoint.close();
      await engine.close();
      await bus.close();
    },
  };
}

function makeEngine(clock: SimClock, metrics: Metrics, client: FakeWorker): MediaEngine {
  const live: LiveWorker = {
    ...{ slot: 0, id: 256, pid: 1, portsMax: 20_000, isAdopted: false },
    client: client as EventEmitter as ControlClient,
  };
  const supervisor = Object.assign(new EventEmitter(), {
    live: [live],
    start: () => {
      supervisor.emit('up', live);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  });
  return new MediaEngine({
    ...{ clock, log: silentLog, metrics, address: NODE },
    supervisor: supervisor as EventEmitter as Supervisor,
    options: { ...DEFAULT_MEDIA_ENGINE_OPTIONS, sparePortsMax: 0, portsPerWorkerMax: 20_000 },
  });
}

function routeOf(
  user: string,
  { rows, callOf }: Pick<Parameters<typeof startWalkNode>[0], 'rows' | 'callOf'>,
): InboundRoute {
  const refusal = callOf(user);
  if (refusal !== null) return { ...refusal, details: { target: user } };
  const trunk = rows.trunkOf(user);
  return {
    kind: 'application',
    accountSid: ACCOUNT,
    application: APPLICATION,
    statusCallback: null,
    to: user,
    from: '+15550100',
    trunkSid: trunk?.sid ?? null,
    trunk,
  };
}

/** Whether a call's end can be true; '' when it can. */
export function implausible(record: CallRecord): string {
  const { end, status, answeredAtMs, createdAtMs, ringingAtMs, endedAtMs } = record;
  if (end === null || endedAtMs === null) return 'no end';
  if (end.status !== status) return `ended ${end.status} but is ${status}`;
  // Only the worker's want of ports is real here.
  const isOurs = end.fault === 'gateway' && end.code !== 'PORTS_EXHAUSTED';
  if (isOurs || end.code === 'INTERNAL') return `our fault: ${end.code} ${end.reason}`;
  if (answeredAtMs !== null && status !== 'completed') return `answered, but ${status}`;
  if (answeredAtMs === null && status === 'completed' && record.direction !== 'inbound') {
    return 'completed without an answer';
  }
  const times = [createdAtMs, ringingAtMs, answeredAtMs, endedAtMs].filter((ms) => ms !== null);
  if (times.some((ms, i) => ms < (times[i - 1] ?? 0))) return `times go back: ${times.join(' ')}`;
  if (status === 'busy' && end.sipStatus !== 486 && end.sipStatus !== 600) {
    return `busy with ${end.sipStatus}`;
  }
  const tookMs = answeredAtMs === null ? 0 : endedAtMs - answeredAtMs;
  if (end.durationMs !== tookMs) return `lasted ${tookMs}, told ${end.durationMs}`;
  if (record.port !== null || record.bridgedTo !== null) return 'still has a port or a partner';
  return '';
}
