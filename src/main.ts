/**
 * The gateway process: builds a node in layer order, starts it, drains it, and takes it down in
 * reverse. The parts list of the system; no rule of SIP, media or verbs is here. Imported by the
 * command line only.
 */

import { hostname } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_LOCAL_BUS, LocalBus } from './bus/bus.ts';
import { DEFAULT_JOURNAL, FileJournal } from './call/journal.ts';
import { Ledger } from './call/ledger.ts';
import type { StoreRouteTable } from './call/route-table.ts';
import type { Router } from './call/router.ts';
import { DEFAULT_TRACE, TraceBook } from './call/trace.ts';
import { realClock } from './core/clock.ts';
import type { Config } from './core/config.ts';
import { asGatewayError } from './core/errors.ts';
import { formatHostPort } from './core/listen.ts';
import { createLog, type Log, type LogLevel } from './core/log.ts';
import { Metrics } from './core/metrics.ts';
import type { Callbacks } from './events/callbacks.ts';
import type { HttpServer } from './http/server.ts';
import { shown } from './http/url.ts';
import { checkPortRange } from './media/range.ts';
import { createApplications, createFlows, mountHttp } from './node/applications.ts';
import { type Base, listenSpecs, NodeHealth, type NodeParts, VERSION } from './node/base.ts';
import { createEdge, createRouter, createTransfers, takeBack } from './node/calls.ts';
import { DrainSwitch } from './node/drain.ts';
import {
  createEndpoint,
  createEngine,
  createHttpClient,
  createHttpServer,
  createPruning,
  createRoutes,
  createStir,
  keepAccount,
  openStore,
} from './node/foundations.ts';
import { createOverload, LoadWatch } from './node/overload.ts';
import { createRegistrationCallbacks, joinRegistry, Registry } from './node/registrations.ts';
import { createTrunkHealth, trunkViews } from './node/trunks.ts';
import type { Endpoint } from './sip/endpoint.ts';
import { ensureAccount } from './store/account-file.ts';
import type { Store } from './store/store.ts';

export interface Gateway {
  /** Refuses new calls, waits for live ones up to the deadline, hangs up the rest, stops. */
  drain(): Promise<void>;
  /** Stops at once; what lives is in the journal. */
  stop(): Promise<void>;
  /** Reads certificates anew, for connections from now on. */
  reload(): Promise<void>;
}

/**
 * Runs until SIGTERM or SIGINT and returns the exit code. A second signal stops at once; SIGHUP
 * reads certificates anew.
 */
export async function runGateway(config: Config): Promise<number> {
  const log = createLog({ level: config['log.level'] as LogLevel });
  const gateway = await startGateway(config, log);
  return new Promise((resolve) => {
    let isAsked = false;
    const finish = (work: Promise<void>, code: number): void => {
      work.then(
        () => resolve(code),
        (thrown) => {
          log.error({ err: asGatewayError(thrown) }, 'stopped badly');
          resolve(1);
        },
      );
    };
    const onSignal = (): void => {
      if (isAsked) finish(gateway.stop(), 1);
      else finish(gateway.drain(), 0);
      isAsked = true;
    };
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
    process.on('SIGHUP', () => void gateway.reload());
    // A rejection nobody awaited is our bug: told, and the other calls go on.
    process.on('unhandledRejection', (thrown) => {
      log.error({ err: asGatewayError(thrown) }, 'unhandled rejection');
    });
  });
}

/** Every part of the node, in layer order. */
async function startGateway(config: Config, log: Log): Promise<Gateway> {
  const clock = realClock;
  checkPortRange({ portMin: config['media.portMin'], portMax: config['media.portMax'] });
  const account = ensureAccount(config, clock);
  const metrics = new Metrics();
  metrics.collectProcess();
  const health = new NodeHealth();
  const base = { config, log, clock, metrics, account };

  const store = await openStore(base);
  await keepAccount(store, account, clock);
  const http = await createHttpServer(base, health);
  const publicUrl = config['http.publicUrl'] || `http://${config['http.listen']}`;
  try {
    const node = await createNode({ ...base, store, http, publicUrl, health });
    await http.listen();
    await node.start();
    health.isStarted = true;
    announce(base, { publicUrl, sip: config['sip.listen'] });
    return new RunningGateway({ ...node, log, http, store, config });
  } catch (thrown) {
    await http.close();
    await store.close();
    throw thrown;
  }
}

interface Node {
  readonly endpoint: Endpoint;
  readonly router: Router;
  /** What is to be told of calls, and of phones. */
  readonly callbacks: readonly Pick<Callbacks, 'drain'>[];
  start(): Promise<void>;
  readonly drain: DrainSwitch;
  close(): Promise<void>;
}

/** What is written down of calls, and what joins the parts. */
function createRecords({ config, clock, log }: NodeParts) {
  const trace = new TraceBook({
    clock,
    ...DEFAULT_TRACE,
    entriesPerCallMax: config['call.traceMax'],
  });
  const bus = new LocalBus({
    clock,
    ...DEFAULT_LOCAL_BUS,
    onError: (error, subject) => log.error({ code: error.code, subject, err: error }, 'bus'),
  });
  const journal = new FileJournal({
    clock,
    log,
    directory: join(config['data.dir'], 'journal'),
    ...DEFAULT_JOURNAL,
    batchMs: config['journal.flushMs'],
  });
  return { trace, bus, journal };
}

function createSignaling(
  parts: NodeParts,
  given: { routes: StoreRouteTable; trace: TraceBook; registry: Registry; bus: LocalBus },
) {
  const { routes, trace, registry, bus } = given;
  const overload = createOverload(parts);
  const { endpoint, ...routing } = createEndpoint({ ...parts, overload }, routes, trace, registry);
  endpoint.on('trace', (message) => trace.sip(message));
  const load = new LoadWatch({ ...parts, bus, overload, endpoint });
  load.start();
  return { endpoint, routing, load };
}

async function createNode(parts: NodeParts): Promise<Node> {
  const { trace, bus, journal } = createRecords(parts);
  const registry = new Registry({ ...parts, journal, bus });
  const routes = createRoutes(parts, registry);
  const { endpoint, routing, load } = createSignaling(parts, { routes, trace, registry, bus });
  const phones = joinRegistry({ ...parts, registry, endpoint, ...routing, journal, routes });
  const { contacts } = phones;
  const trunkHealth = createTrunkHealth({ ...parts, bus, endpoint, ...routing, routes });
  const engine = createEngine(parts, parts.health);
  const pruning = createPruning(parts);
  const client = createHttpClient(parts, parts.publicUrl);
  const stir = createStir(parts, client);
  const shared = { ...parts, bus, journal, trace, trunkHealth, registry, contacts, stir };
  const edge = createEdge({ ...shared, routes, endpoint, engine, ...routing });
  const apps = createApplications({ ...parts, client, trace });
  const phoneEvents = createRegistrationCallbacks({ ...parts, client, registry, bus });
  const ledger = new Ledger({ store: parts.store, trace });
  const router = createRouter({ ...shared, routes }, (notice) => {
    ledger.take(notice);
    apps.status.take(notice);
    transfers.take(notice);
  });
  const { assets, flows, recorder } = createFlows({ ...parts, client, apps, router, trace });
  const transfers = createTransfers({ ...shared, router, routes }, (question) =>
    flows.refer(question),
  );
  router.on('call', (call) => flows.run(call));
  const views = trunkViews({ ...shared, routes, router, edge });
  const drain = new DrainSwitch({ ...parts, endpoint, router, registrations: phones });
  await mountHttp({ ...parts, router, flows, recorder, ledger, assets, views, drain });
  return {
    endpoint,
    router,
    callbacks: [apps.callbacks, phoneEvents],
    start: async () => {
      await stir.start();
      await routes.start();
      await assets.library.start();
      await engine.start();
      const records = await journal.start();
      phoneEvents.start();
      await registry.start(records);
      await endpoint.start();
      await takeBack({ ...parts, journal, edge, router, records });
      router.start();
      transfers.start();
      edge.start();
      trunkHealth.start();
      phones.start();
      pruning.start();
    },
    drain,
    close: async () => {
      load.close();
      trunkHealth.close();
      await phones.close();
      phoneEvents.close();
      await pruning.close();
      await flows.close();
      await edge.close();
      await endpoint.close();
      await engine.close();
      await journal.close();
      await assets.library.close();
      await assets.speech.close();
      stir.close();
      await client.close();
    },
  };
}

// --- Running ------------------------------------------------------------------------------------

class RunningGateway implements Gateway {
  readonly #parts: Node & {
    log: Log;
    http: HttpServer;
    store: Store;
    config: Config;
  };
  #stopping: Promise<void> | null = null;

  constructor(parts: RunningGateway['parts']) {
    this.#parts = parts;
  }

  /** For the type of the constructor's argument alone. */
  get parts() {
    return this.#parts;
  }

  /** A certificate that cannot be used is logged where it is read; the old one stays. */
  async reload(): Promise<void> {
    await this.#parts.endpoint.reloadCertificates();
  }

  async drain(): Promise<void> {
    const { drain, router, callbacks, config } = this.#parts;
    await drain.leave();
    await router.close({ graceMs: config['drain.deadlineMs'] });
    await Promise.all(callbacks.map((each) => each.drain(CALLBACK_DRAIN_MS)));
    await this.stop();
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const { log, http, store } = this.#parts;
    await http.close();
    await this.#parts.close();
    await store.close();
    log.info({}, 'stopped');
  }
}

/** What is still to be told of the last calls gets so long. */
const CALLBACK_DRAIN_MS = 5_000;

function announce(base: Base, at: { publicUrl: string; sip: readonly string[] }): void {
  const { config, account } = base;
  const [first = ''] = listenSpecs(config);
  const isDemo = config['app.url'] === '';
  const node = config['node.name'] || hostname();
  const lines = [
    `tandem ${VERSION} on ${node}`,
    `  account   ${account.sid}${account.isNew ? `  token ${account.authToken.reveal()}` : ''}`,
    ...(account.isNew ? ['            (made just now and shown this once; kept in data.dir)'] : []),
  ];
  if (first !== '') {
    const dial = `sip:${isDemo ? 'demo' : 'anything'}@${formatHostPort({ host: first.address, port: first.port })}`;
    lines.push(
      `  dial      ${dial}  ${isDemo ? 'the built-in demo answers' : shown(config['app.url'])}`,
    );
  }
  lines.push(
    `  REST      ${at.publicUrl}/2010-04-01/Accounts/${account.sid}/Calls.json`,
    `  health    ${at.publicUrl}/readyz   metrics ${at.publicUrl}/metrics`,
    '  place     npm run tandem -- call <sip uri> --app <url>',
  );
  process.stderr.write(`${lines.join('\n')}\n`);
  const fields = { sip: at.sip, http: at.publicUrl, region: config['node.region'], node };
  // Whoever supervises us waits for this line, so no level hides it.
  createLog({ level: 'info' }).info(fields, 'ready');
}
