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
import { createEdge, createRouter, takeBack } from './node/calls.ts';
import {
  createEndpoint,
  createEngine,
  createHttpClient,
  createHttpServer,
  createPruning,
  createRoutes,
  keepAccount,
  openStore,
} from './node/foundations.ts';
import type { Endpoint } from './sip/endpoint.ts';
import { ensureAccount } from './store/account-file.ts';
import type { Store } from './store/store.ts';

export interface Gateway {
  /** Refuses new calls, waits for live ones up to the deadline, hangs up the rest, stops. */
  drain(): Promise<void>;
  /** Stops at once; what lives is in the journal. */
  stop(): Promise<void>;
}

/** Runs until SIGTERM or SIGINT and returns the exit code. A second signal stops at once. */
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
    announce(base, { publicUrl, sip: node.listening });
    return new RunningGateway({ ...node, log, health, http, store, config });
  } catch (thrown) {
    await http.close();
    await store.close();
    throw thrown;
  }
}

interface Node {
  readonly endpoint: Endpoint;
  readonly router: Router;
  readonly callbacks: Callbacks;
  readonly listening: readonly string[];
  start(): Promise<void>;
  close(): Promise<void>;
}

async function createNode(parts: NodeParts): Promise<Node> {
  const { config, clock, log, store } = parts;
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
  const routes = createRoutes(parts);
  const { endpoint, ...routing } = createEndpoint(parts, routes);
  const engine = createEngine(parts, parts.health);
  const pruning = createPruning(parts);
  const edge = createEdge({ ...parts, bus, journal, trace, endpoint, engine, ...routing });
  const client = createHttpClient(parts, parts.publicUrl);
  const apps = createApplications({ ...parts, client, trace });
  const ledger = new Ledger({ store, trace });
  const router = createRouter({ ...parts, bus, journal, trace, routes }, (notice) => {
    ledger.take(notice);
    apps.status.take(notice);
  });
  const { assets, flows, recorder } = createFlows({ ...parts, client, apps, router, trace });
  router.on('call', (call) => flows.run(call));
  endpoint.on('trace', (message) => trace.sip(message));
  await mountHttp({ ...parts, router, flows, recorder, ledger, assets });
  return {
    endpoint,
    router,
    callbacks: apps.callbacks,
    listening: config['sip.listen'],
    start: async () => {
      await routes.start();
      await assets.library.start();
      await engine.start();
      const records = await journal.start();
      await endpoint.start();
      await takeBack({ edge, router, records, log });
      router.start();
      edge.start();
      pruning.start();
    },
    close: async () => {
      await pruning.close();
      await flows.close();
      await edge.close();
      await endpoint.close();
      await engine.close();
      await journal.close();
      await assets.library.close();
      await assets.speech.close();
      await client.close();
    },
  };
}

// --- Running ------------------------------------------------------------------------------------

class RunningGateway implements Gateway {
  readonly #parts: Node & {
    log: Log;
    health: NodeHealth;
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

  async drain(): Promise<void> {
    const { log, health, endpoint, router, callbacks, config } = this.#parts;
    const deadlineMs = config['drain.deadlineMs'];
    log.info({ calls: router.size, deadlineMs }, 'draining');
    health.isDraining = true;
    endpoint.drain(true);
    await router.close({ graceMs: deadlineMs });
    await callbacks.drain(CALLBACK_DRAIN_MS);
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
