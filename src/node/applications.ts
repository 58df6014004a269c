/**
 * Layers 2, 5 and 6 of a node, built from the configuration: prompts and recordings, callbacks, the
 * interpreters of documents, and the REST surface over all of it.
 */

import { join } from 'node:path';
import type { DrainControl } from '../api/admin.ts';
import { LiveCallControl } from '../api/call-control.ts';
import { demoApplication } from '../api/demo.ts';
import { createRestApi, DEFAULT_REST, type RestParts } from '../api/surface.ts';
import { mediaFetcher } from '../assets/fetch.ts';
import { DEFAULT_LIBRARY_OPTIONS, Library } from '../assets/library.ts';
import { DEFAULT_RECORDINGS_OPTIONS, Recordings } from '../assets/recordings.ts';
import { DEFAULT_SPEECH_OPTIONS, EspeakSpeech } from '../assets/speech.ts';
import { DEFAULT_TRANSCODER_OPTIONS, Transcoder } from '../assets/transcoder.ts';
import type { Ledger } from '../call/ledger.ts';
import type { Router } from '../call/router.ts';
import type { TraceBook } from '../call/trace.ts';
import { Callbacks, DEFAULT_CALLBACK_POLICY, DEFAULT_CALLBACKS } from '../events/callbacks.ts';
import type { HttpClient } from '../http/client.ts';
import { shown } from '../http/url.ts';
import { Application, DEFAULT_APPLICATION, type WebhookTrace } from '../verbs/application.ts';
import { CallRecorder, DEFAULT_CALL_RECORDER } from '../verbs/call-recorder.ts';
import { Flows } from '../verbs/flows.ts';
import { DEFAULT_INTERPRETER_OPTIONS, type FlowReport } from '../verbs/interpreter-parts.ts';
import { Notifications } from '../verbs/notifications.ts';
import { AccountPrompts } from '../verbs/prompts.ts';
import { DEFAULT_RECORDING_BOOK, RecordingBook } from '../verbs/recording-book.ts';
import { StatusCallbacks } from '../verbs/status-callbacks.ts';
import { DEFAULT_XML_LIMITS } from '../verbs/xml.ts';
import { type NodeParts, ownHostsOf } from './base.ts';
import { webhookPolicy } from './foundations.ts';

export interface Applications {
  readonly application: Application;
  readonly callbacks: Callbacks;
  readonly status: StatusCallbacks;
}

export function createApplications(
  parts: NodeParts & { client: HttpClient; trace: TraceBook },
): Applications {
  const { config, clock, log, client, trace, account } = parts;
  const onWebhook = (webhook: WebhookTrace): void => {
    const status = webhook.status === 0 ? '' : ` ${webhook.status}`;
    const problem = webhook.error === null ? '' : ` ${webhook.error.code}`;
    const text = `${webhook.method} ${shown(webhook.url)}${status}${problem}`;
    trace.add(webhook.callSid, 'webhook', text, `${Math.round(webhook.durationMs)} ms`);
  };
  const callbacks = new Callbacks({
    clock,
    log,
    http: client,
    policy: DEFAULT_CALLBACK_POLICY,
    ...DEFAULT_CALLBACKS,
    queueMax: config['webhook.callbacksMax'],
    onOutcome: ({ callback: { callSid, ...callback }, ...outcome }) => {
      if (callSid !== null) onWebhook({ ...callback, ...outcome, callSid, kind: 'callback' });
    },
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

export interface Assets {
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
      accountSharePercent: config['cache.accountSharePercent'],
    },
  });
  const recordings = new Recordings({
    directory: join(dataDir, 'recordings'),
    transcoder,
    options: DEFAULT_RECORDINGS_OPTIONS,
  });
  return { library, recordings, speech };
}

export function createFlows(
  parts: NodeParts & { client: HttpClient; apps: Applications; router: Router; trace: TraceBook },
): { assets: Assets; flows: Flows; recorder: CallRecorder } {
  const { config, clock, log, store, apps, router, account, publicUrl, trace } = parts;
  const assets = createAssets(parts);
  const { library, recordings } = assets;
  const notifications = new Notifications({ clock, store, trace });
  const book = new RecordingBook({
    clock,
    store,
    files: recordings,
    publicUrl,
    ...DEFAULT_RECORDING_BOOK,
  });
  const recorder = new CallRecorder({
    clock,
    log,
    recordings: book,
    status: apps.status,
    ...DEFAULT_CALL_RECORDER,
  });
  const flows = new Flows({
    clock,
    log,
    application: apps.application,
    promptsOf: (accountSid) => new AccountPrompts({ accountSid, library, recordings, publicUrl }),
    recordings: book,
    calls: router,
    accountOf: () => account,
    notify: (callSid, _, notice) => {
      const call = router.record(callSid);
      if (call !== null) apps.status.notify(call, notice);
    },
    onReport: (report: FlowReport) => notifications.take(report),
    options: {
      ...DEFAULT_INTERPRETER_OPTIONS,
      documentsIdleMax: config['call.documentsMax'],
      xml: { ...DEFAULT_XML_LIMITS, documentBytesMax: config['document.bytesMax'] },
    },
  });
  return { assets, flows, recorder };
}

export async function mountHttp(
  parts: NodeParts & {
    router: Router;
    flows: Flows;
    recorder: CallRecorder;
    ledger: Ledger;
    assets: Assets;
    views: Pick<RestParts, 'trunkHealth' | 'explainer' | 'traceOf' | 'registrations'>;
    drain: DrainControl;
  },
): Promise<void> {
  const { clock, log, store, http, router, flows, recorder, ledger, assets, publicUrl } = parts;
  const { account, config, drain } = parts;
  const { recordings } = assets;
  const api = createRestApi({
    store,
    publicUrl,
    clock,
    log,
    options: { ...DEFAULT_REST, wideAddressBlocks: config['trunk.wideAddressBlocks'] },
    ownHosts: ownHostsOf(config, publicUrl),
    ...parts.views,
    admin: { drain, accountSid: account.sid },
    calls: new LiveCallControl({ clock, router, flows, recorder }),
    trace: (sid) => (router.record(sid) === null ? null : ledger.trace(sid)),
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
