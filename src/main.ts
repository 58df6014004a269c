/**
 * The gateway process: builds every part in layer order, joins them, starts them, and takes them
 * down in reverse. The parts list of the system; no rule of SIP, media or verbs is here. Imported
 * by the command line only.
 */
import { hostname } from 'node:os';
import { join } from 'node:path';
import { LiveCallControl } from './api/call-control.ts';
import { DEMO_PATH, demoApplication } from './api/demo.ts';
import { createRestApi, DEFAULT_REST } from './api/surface.ts';
import { mediaFetcher } from './assets/fetch.ts';
import { DEFAULT_LIBRARY_OPTIONS, Library } from './assets/library.ts';
import { DEFAULT_RECORDINGS_OPTIONS, Recordings } from './assets/recordings.ts';
import { DEFAULT_SPEECH_OPTIONS, EspeakSpeech } from './assets/speech.ts';
import { DEFAULT_TRANSCODER_OPTIONS, Transcoder } from './assets/transcoder.ts';
import { DEFAULT_LOCAL_BUS, LocalBus } from './bus/bus.ts';
import { BoundedAdmission, DEFAULT_ADMISSION } from './call/admission.ts';
import { DEFAULT_CALL_OPTIONS } from './call/call.ts';
import { DEFAULT_EDGE, Edge } from './call/edge.ts';
import { DEFAULT_JOURNAL, FileJournal } from './call/journal.ts';
import { Ledger } from './call/ledger.ts';
import { DEFAULT_LEG_MEDIA } from './call/leg-media.ts';
import { DEFAULT_ROUTE_TABLE, StoreRouteTable } from './call/route-table.ts';
import { type CallNotice, DEFAULT_ROUTER, Router } from './call/router.ts';
import { DEFAULT_LEG_OPTIONS, type LegRecord } from './call/sip-leg.ts';
import { DEFAULT_TRACE, TraceBook } from './call/trace.ts';
import { AddressGuard, AddressSet, classifyAddress } from './core/address.ts';
import { realClock } from './core/clock.ts';
import { CODEC_NAMES, type CodecName } from './core/codec.ts';
import type { Config } from './core/config.ts';
import { asGatewayError, GatewayError } from './core/errors.ts';
import { formatHostPort, parseHostPort, parseListen } from './core/listen.ts';
import { createLog, type Log, type LogLevel } from './core/log.ts';
import { Metrics } from './core/metrics.ts';
import { Callbacks, DEFAULT_CALLBACK_POLICY, DEFAULT_CALLBACKS } from './events/callbacks.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient, shown } from './http/client.ts';
import { DEFAULT_HTTP_SERVER, HttpServer } from './http/server.ts';
import { DEFAULT_MEDIA_ENGINE_OPTIONS, MediaEngine } from './media/engine.ts';
import { checkPortRange } from './media/range.ts';
import { DEFAULT_SUPERVISOR_OPTIONS, Supervisor } from './media/supervisor.ts';
import { Endpoint } from './sip/endpoint.ts';
import type { ListenSpec } from './sip/peer.ts';
import { Resolver } from './sip/resolver.ts';
import { ensureAccount, type FirstAccount } from './store/account-file.ts';
import { DEFAULT_STORE } from './store/sql.ts';
import { DEFAULT_SQLITE, openSqlite } from './store/sqlite.ts';
import type { Store } from './store/store.ts';
import { Application, DEFAULT_APPLICATION, type WebhookTrace } from './verbs/application.ts';
import { Flows } from './verbs/flows.ts';
import { DEFAULT_INTERPRETER_OPTIONS, type FlowReport } from './verbs/interpreter-parts.ts';
import { Notifications } from './verbs/notifications.ts';
import { AccountPrompts } from './verbs/prompts.ts';
import { DEFAULT_RECORDING_BOOK, RecordingBook } from './verbs/recording-book.ts';
import { StatusCallbacks } from './verbs/status-callbacks.ts';

const VERSION = '0.1.0';
const AGENT = `tandem/${VERSION}`;

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
export async function startGateway(config: Config, log: Log): Promise<Gateway> {
  const clock = realClock;
  checkPortRange({ portMin: config['media.portMin'], portMax: config['media.portMax'] });
  const account = ensureAccount(config, clock);
  const metrics = new Metrics();
  metrics.collectProcess();
  const health = new NodeHealth();
  const base = { config, log, clock, metrics, account };

  const store = await openStore(base);
  await keepAccount(store, account, clock.nowMs());
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

interface Base {
  readonly config: Config;
  readonly log: Log;
  readonly clock: typeof realClock;
  readonly metrics: Metrics;
  readonly account: FirstAccount;
}

class NodeHealth {
  isStarted = false;
  isDraining = false;

  notReady(): readonly string[] {
    const reasons: string[] = [];
    if (!this.isStarted) reasons.push('starting');
    if (this.isDraining) reasons.push('draining');
    return reasons;
  }
}

// --- Layer 1: store and HTTP ----------------------------------------------------------------------

function openStore({ config, log, clock, metrics }: Base): Promise<Store> {
  const name = config['store.url'].replace(/^sqlite:/, '');
  const path = name === '' ? join(config['data.dir'], 'tandem.db') : name;
  return openSqlite({
    options: { path, ...DEFAULT_SQLITE },
    clock,
    log,
    metrics,
    store: {
      ...DEFAULT_STORE,
      flushIntervalMs: config['store.flushMs'],
      queueRowsMax: config['store.queueMax'],
      callEventsMax: config['call.traceMax'],
    },
  });
}

async function keepAccount(store: Store, account: FirstAccount, nowMs: number): Promise<void> {
  await store.accounts.save({
    sid: account.sid,
    authToken: account.authToken,
    friendlyName: 'First account',
    status: 'active',
    dateCreatedMs: nowMs,
    dateUpdatedMs: nowMs,
  });
}

function createHttpServer({ config, log, clock, metrics }: Base, health: NodeHealth) {
  const { host, port } = parseHostPort('http.listen', config['http.listen']);
  return HttpServer.create({
    options: {
      ...DEFAULT_HTTP_SERVER,
      address: host,
      port,
      bodyBytesMax: config['http.bodyBytesMax'],
      rateRequestsMax:
        config['http.requestsPerSecondMax'] * (DEFAULT_HTTP_SERVER.rateWindowMs / 1000),
    },
    clock,
    log,
    metrics,
    health,
  });
}

function createHttpClient({ config, clock }: Base, publicUrl: string): HttpClient {
  // Our own demo answers on loopback; nothing else there is opened by that.
  const own = parseHostPort('http.listen', config['http.listen']);
  const { port } = new URL(publicUrl);
  const endpoints = [`${own.host}:${own.port}`, `${own.host}:${port}`];
  return new HttpClient({
    clock,
    guard: new AddressGuard({ allow: config['http.client.allow'], endpoints }),
    userAgent: AGENT,
    ...DEFAULT_HTTP_CLIENT,
    connectionsPerOriginMax: config['http.client.connectionsPerOriginMax'],
  });
}

function webhookPolicy(config: Config) {
  return {
    ...DEFAULT_CALLBACK_POLICY,
    connectMs: config['webhook.connectMs'],
    readMs: config['webhook.readMs'],
    totalMs: config['webhook.totalMs'],
  };
}

// --- Layer 1: SIP and media -----------------------------------------------------------------------

function createEndpoint(
  base: Base,
  routes: StoreRouteTable,
): { endpoint: Endpoint; resolver: Resolver } {
  const { config, clock, log, metrics } = base;
  const resolver = new Resolver({ clock });
  const trusted = new AddressSet(config['sip.trusted']);
  const isKnown = (address: string): boolean => trusted.has(address) || routes.isTrunk(address);
  const endpoint = new Endpoint({
    clock,
    log,
    metrics,
    listen: listenSpecs(config),
    userAgent: AGENT,
    resolver,
    policy: {
      admit: (request, source) =>
        request.method === 'INVITE' && !isKnown(source.address) ? 'SIP_FORBIDDEN' : null,
      trusts: (address) => routes.isTrunk(address) || trusted.has(address),
    },
    transport: {
      connectionsMax: config['sip.connectionsMax'],
      connectionsPerSourceMax: config['sip.connectionsPerSourceMax'],
      strangersPerSecond: config['sip.strangersPerSecondMax'],
    },
    bounds: {
      clientTransactionsMax: config['sip.transactionsMax'],
      serverTransactionsMax: config['sip.transactionsMax'],
    },
  });
  return { endpoint, resolver };
}

function createEngine({ config, clock, log, metrics }: Base): MediaEngine {
  const address = config['media.address'];
  const supervisor = new Supervisor({
    clock,
    log,
    dataDir: config['data.dir'],
    options: {
      ...DEFAULT_SUPERVISOR_OPTIONS,
      workers: config['media.workers'],
      address,
      portMin: config['media.portMin'],
      portMax: config['media.portMax'],
      quarantineMs: config['media.quarantineMs'],
    },
  });
  return new MediaEngine({
    clock,
    log,
    metrics,
    supervisor,
    address,
    options: DEFAULT_MEDIA_ENGINE_OPTIONS,
  });
}

/** Dialled SIP URIs may lead to the public net, to what is allowed, and to our own loopback. */
function dialGuard(config: Config): AddressGuard {
  const isLocal = listenSpecs(config).every(
    ({ address }) => classifyAddress(address) === 'loopback',
  );
  const loopback = isLocal ? ['127.0.0.0/8', '::1/128'] : [];
  return new AddressGuard({ allow: [...config['sip.allow'], ...loopback] });
}

// --- All of it joined -----------------------------------------------------------------------------

interface NodeParts extends Base {
  readonly store: Store;
  readonly http: HttpServer;
  readonly publicUrl: string;
  readonly health: NodeHealth;
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
  const routes = new StoreRouteTable({
    store,
    log,
    options: { ...DEFAULT_ROUTE_TABLE, trustedSources: config['sip.trusted'] },
  });
  const { endpoint, resolver } = createEndpoint(parts, routes);
  const engine = createEngine(parts);
  const edge = createEdge({ ...parts, bus, journal, trace, endpoint, engine, resolver });
  const client = createHttpClient(parts, parts.publicUrl);
  const apps = createApplications({ ...parts, client, trace });
  const ledger = new Ledger({ store, trace });
  const router = createRouter({ ...parts, bus, journal, trace, routes }, (notice) => {
    ledger.take(notice);
    apps.status.take(notice);
  });
  const { assets, flows } = createFlows({ ...parts, client, apps, router, trace });
  router.on('call', (call) => flows.run(call));
  endpoint.on('trace', (message) => trace.sip(message));
  await mountHttp({ ...parts, router, flows, ledger, assets });
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
    },
    close: async () => {
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

/** Calls of a former process: legs first, so that each call finds its own. */
async function takeBack(parts: {
  edge: Edge;
  router: Router;
  records: ReadonlyMap<string, object>;
  log: Log;
}): Promise<void> {
  const legs = [...parts.records].filter(([key]) => key.startsWith('leg.'));
  // The journal gives back what `SipLeg.snapshot` wrote, each line checked by its sum.
  await parts.edge.restore(legs.map(([, record]) => record as LegRecord));
  const calls = parts.router.restore(parts.records);
  if (calls > 0) parts.log.info({ calls, legs: legs.length }, 'calls taken back');
}

type Joined = NodeParts & { bus: LocalBus; journal: FileJournal; trace: TraceBook };

function createEdge(
  parts: Joined & { endpoint: Endpoint; engine: MediaEngine; resolver: Resolver },
): Edge {
  const { config, clock, log, bus, journal, trace, endpoint, engine, resolver } = parts;
  return new Edge({
    clock,
    log,
    bus,
    journal,
    trace,
    endpoint,
    engine,
    resolve: (uri) => resolver.resolve(uri),
    guard: dialGuard(config),
    media: {
      ...DEFAULT_LEG_MEDIA,
      codecs: codecsOf(config),
      advertiseAddress: config['media.advertise'] || null,
      silentTimeoutMs: config['media.silentTimeoutMs'],
      inbandDtmf: config['media.inbandDtmf'],
      remote: {
        ...DEFAULT_LEG_MEDIA.remote,
        allowLoopbackMedia: classifyAddress(config['media.address']) === 'loopback',
        allowPrivateMedia: config['media.allowPrivate'],
      },
    },
    legs: DEFAULT_LEG_OPTIONS,
    options: { ...DEFAULT_EDGE, legsMax: config['call.liveMax'] * 2 },
  });
}

function createRouter(
  parts: Joined & { routes: StoreRouteTable },
  onNotice: (notice: CallNotice) => void,
): Router {
  const { config, clock, log, metrics, bus, journal, trace, routes, account } = parts;
  const admission = new BoundedAdmission({
    clock,
    ...DEFAULT_ADMISSION,
    liveCallsMax: config['call.liveMax'],
    liveCallsPerAccountMax: config['call.liveMax'],
    callsPerSecondMax: config['call.perSecondMax'],
    callsPerSecondPerAccountMax: config['call.perSecondMax'],
  });
  const url = config['app.url'] || `${parts.publicUrl}${DEMO_PATH}`;
  const callback = config['app.statusCallbackUrl'];
  return new Router({
    clock,
    log,
    metrics,
    bus,
    journal,
    trace,
    admission,
    routes,
    onNotice,
    call: { ...DEFAULT_CALL_OPTIONS, durationMsMax: config['call.timeLimitSeconds'] * 1000 },
    options: {
      ...DEFAULT_ROUTER,
      trustedSources: config['sip.trusted'],
      fromDomain: config['sip.advertise'] || 'tandem.invalid',
      ringTimeoutMsMax: config['sip.ringTimeoutMs'],
      defaultRoute: {
        accountSid: account.sid,
        application: {
          applicationSid: null,
          url,
          method: config['app.method'] === 'GET' ? 'GET' : 'POST',
          fallbackUrl: config['app.fallbackUrl'] || null,
          fallbackMethod: 'POST',
          document: null,
        },
        statusCallback:
          callback === '' ? null : { url: callback, method: 'POST', events: ['completed'] },
      },
    },
  });
}

// --- Layers 2 and 5: applications, prompts, callbacks ---------------------------------------------

interface Applications {
  readonly application: Application;
  readonly callbacks: Callbacks;
  readonly status: StatusCallbacks;
}

function createApplications(
  parts: NodeParts & { client: HttpClient; trace: TraceBook },
): Applications {
  const { config, clock, log, client, trace, account } = parts;
  const onWebhook = (webhook: WebhookTrace): void => {
    const outcome = webhook.error?.code ?? String(webhook.status);
    const text = `${webhook.method} ${shown(webhook.url)} ${outcome}`;
    trace.add(webhook.callSid, 'webhook', text, `${Math.round(webhook.durationMs)} ms`);
  };
  const callbacks = new Callbacks({
    clock,
    log,
    http: client,
    policy: DEFAULT_CALLBACK_POLICY,
    ...DEFAULT_CALLBACKS,
    queueMax: config['webhook.callbacksMax'],
    onOutcome: ({ callback, ...outcome }) =>
      onWebhook({ ...callback, ...outcome, kind: 'callback' }),
  });
  return {
    application: new Application({
      clock,
      http: client,
      policy: webhookPolicy(config),
      ...DEFAULT_APPLICATION,
      bodyBytesMax: config['webhook.bodyBytesMax'],
      onWebhook,
    }),
    callbacks,
    status: new StatusCallbacks({
      callbacks,
      authToken: (sid) => (sid === account.sid ? account.authToken : null),
    }),
  };
}

interface Assets {
  readonly library: Library;
  readonly recordings: Recordings;
  readonly speech: EspeakSpeech;
}

function createAssets(parts: NodeParts & { client: HttpClient }): Assets {
  const { config, clock, log, client } = parts;
  const dataDir = config['data.dir'];
  const transcoder = new Transcoder({
    clock,
    options: {
      ...DEFAULT_TRANSCODER_OPTIONS,
      command: config['ffmpeg.command'],
      jobsMax: config['ffmpeg.jobsMax'],
    },
  });
  const speech = new EspeakSpeech({
    clock,
    options: { ...DEFAULT_SPEECH_OPTIONS, command: config['speech.command'] },
  });
  const library = new Library({
    clock,
    log,
    directory: join(dataDir, 'cache'),
    fetchMedia: mediaFetcher(client, config['prompt.bytesMax']),
    transcoder,
    speech,
    options: {
      ...DEFAULT_LIBRARY_OPTIONS,
      bytesMax: config['cache.bytesMax'],
      fetchBytesMax: config['prompt.bytesMax'],
    },
  });
  const recordings = new Recordings({
    directory: join(dataDir, 'recordings'),
    transcoder,
    options: DEFAULT_RECORDINGS_OPTIONS,
  });
  return { library, recordings, speech };
}

function createFlows(
  parts: NodeParts & { client: HttpClient; apps: Applications; router: Router; trace: TraceBook },
): { assets: Assets; flows: Flows } {
  const { clock, log, store, apps, router, account, publicUrl, trace } = parts;
  const assets = createAssets(parts);
  const { library, recordings } = assets;
  const notifications = new Notifications({ clock, store, trace });
  const flows = new Flows({
    clock,
    log,
    application: apps.application,
    promptsOf: (accountSid) =>
      new AccountPrompts({ accountSid, clock, library, recordings, publicUrl }),
    recordings: new RecordingBook({
      clock,
      store,
      files: recordings,
      publicUrl,
      ...DEFAULT_RECORDING_BOOK,
    }),
    calls: router,
    accountOf: () => account,
    notify: (callSid, _, notice) => {
      const call = router.record(callSid);
      if (call !== null) apps.status.notify(call, notice);
    },
    onReport: (report: FlowReport) => notifications.take(report),
    options: DEFAULT_INTERPRETER_OPTIONS,
  });
  return { assets, flows };
}

// --- Layer 6: REST and the demo -------------------------------------------------------------------

async function mountHttp(
  parts: NodeParts & { router: Router; flows: Flows; ledger: Ledger; assets: Assets },
): Promise<void> {
  const { clock, log, store, http, router, flows, ledger, assets } = parts;
  const { recordings } = assets;
  const api = createRestApi({
    store,
    clock,
    log,
    options: DEFAULT_REST,
    calls: new LiveCallControl({ clock, router, flows }),
    trace: (sid) => {
      const call = router.record(sid);
      return call === null ? null : ledger.trace(call);
    },
    media: {
      wav: async ({ accountSid, sid }) => {
        const info = await recordings.info(accountSid, sid);
        return info === null ? null : { path: info.path, contentType: 'audio/x-wav' };
      },
      mp3: async ({ accountSid, sid }) => {
        const path = await recordings.mp3(accountSid, sid);
        return path === null ? null : { path, contentType: 'audio/mpeg' };
      },
      remove: async ({ accountSid, sid }) => {
        await recordings.delete(accountSid, sid);
      },
    },
  });
  await api.mount(http.app);
  await http.app.register(demoApplication);
}

// --- Running --------------------------------------------------------------------------------------

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
  const { config, log, account } = base;
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
    lines.push(`  dial      ${dial}  ${isDemo ? 'the built-in demo answers' : config['app.url']}`);
  }
  lines.push(
    `  REST      ${at.publicUrl}/2010-04-01/Accounts/${account.sid}/Calls.json`,
    `  health    ${at.publicUrl}/readyz   metrics ${at.publicUrl}/metrics`,
    '  place     npm run tandem -- call <sip uri> --app <url>',
  );
  process.stderr.write(`${lines.join('\n')}\n`);
  const fields = { sip: at.sip, http: at.publicUrl, region: config['node.region'], node };
  log.info(fields, 'ready');
}

// --- Configuration, read --------------------------------------------------------------------------

function listenSpecs(config: Config): ListenSpec[] {
  return config['sip.listen'].map((text) => {
    const { transport, address, port } = parseListen('sip.listen', text, ['udp', 'tcp']);
    const host = config['sip.advertise'];
    const advertise = host === '' ? {} : { advertise: { host } };
    return { transport: transport === 'tcp' ? 'tcp' : 'udp', address, port, ...advertise };
  });
}

function codecsOf(config: Config): CodecName[] {
  return config['sip.codecs'].map((text) => {
    const known = CODEC_NAMES.find((name) => name.toLowerCase() === text.toLowerCase());
    if (known) return known;
    const problem = `"${text}" is none of ${CODEC_NAMES.join(', ')}`;
    throw new GatewayError('CONFIG_BAD_VALUE', { key: 'sip.codecs', problem });
  });
}
