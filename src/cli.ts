#!/usr/bin/env -S MALLOC_ARENA_MAX=2 node --max-semi-space-size=16
/**
 * The command line. `start` runs the gateway in this process; everything else is a client of its
 * REST API, with the account of the same configuration and data directory. Text for people: what
 * a program wants to read is the API.
 *
 * The first line, `npm start` and the tests say the same of memory. On a large machine V8 would let
 * the new space grow to 128 MB, though calls outlive any size of it; and malloc would give each of
 * the threads that compile and collect an arena of its own, and leave in it what they used once.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type EndedCall, formatEnd } from './api/end-text.ts';
import { type ExplainedCall, formatExplanation, plain } from './api/explain-text.ts';
import { formatTrace, type TraceLine } from './api/trace-text.ts';
import { realClock, sleep } from './core/clock.ts';
import { type Config, loadConfig, printConfig } from './core/config.ts';
import { asGatewayError, GatewayError } from './core/errors.ts';
import { isSid } from './core/sid.ts';
import { readAccount } from './store/account-file.ts';

const USAGE = `tandem start                              run the gateway
tandem call <uri|number> --app <url>      place a call and follow it
            [--from <number>] [--twiml <document>]
tandem trace <CallSid|Call-ID> [--json]   SIP ladder, webhooks and verbs of a call, and why an
                                          INVITE with that Call-ID was refused
tandem explain --to <number|uri>          what would be done with a call, and why; places nothing
            [--from <number>] [--source <address[:port]>] [--transport udp|tcp|tls|ws|wss]
            [--sdp <file>] [--json]       without --source: a call of the account's own
tandem drain [--undo]                     take no new calls, and let those that live go on; --undo
                                          takes calls again
tandem config --print                     every key with its default
tandem help

All take --config <file>; every key can be set by environment (sip.listen is TANDEM_SIP_LISTEN).
`;

const OPTIONS = {
  config: { type: 'string' },
  app: { type: 'string' },
  twiml: { type: 'string' },
  from: { type: 'string' },
  json: { type: 'boolean' },
  print: { type: 'boolean' },
  to: { type: 'string' },
  source: { type: 'string' },
  transport: { type: 'string' },
  sdp: { type: 'string' },
  undo: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const;

type Values = ReturnType<
  typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>
>['values'];

async function main(): Promise<number> {
  const given = readArguments();
  if (given === null) return 2;
  const { values, positionals } = given;
  const [command = 'help', subject] = values.help === true ? [] : positionals;
  switch (command) {
    case 'start': {
      // Loaded only here: the other commands answer without the store and the engine.
      const { runGateway } = await import('./main.ts');
      return runGateway(configuration(values));
    }
    case 'call':
      return placeCall(configuration(values), subject, values);
    case 'trace':
      return showTrace(configuration(values), subject, values.json === true);
    case 'explain':
      return explainCall(configuration(values), values);
    case 'drain':
      return drainNode(configuration(values), values.undo === true);
    case 'config':
      process.stdout.write(printConfig());
      return 0;
    case 'help':
      process.stdout.write(USAGE);
      return 0;
    default:
      process.stderr.write(`unknown command "${command}"\n\n${USAGE}`);
      return 2;
  }
}

/** Null when they are not understood, which is said. */
function readArguments() {
  try {
    return parseArgs({ options: OPTIONS, allowPositionals: true });
  } catch (thrown) {
    const problem = thrown instanceof Error ? thrown.message : String(thrown);
    process.stderr.write(`tandem: ${problem}\n\n${USAGE}`);
    return null;
  }
}

function configuration(values: Values): Config {
  const file = values.config ?? process.env.TANDEM_CONFIG;
  return loadConfig({ file, environment: process.env });
}

interface RestCall extends EndedCall {
  readonly sid: string;
  readonly status: string;
  readonly duration: string | null;
}

const FINAL = new Set(['completed', 'busy', 'failed', 'no-answer', 'canceled']);
const POLL_MS = 250;

async function placeCall(config: Config, to: string | undefined, values: Values): Promise<number> {
  if (to === undefined || (values.app === undefined && values.twiml === undefined)) {
    process.stderr.write('tandem call <uri|number> --app <url> | --twiml <document>\n');
    return 2;
  }
  if (values.from === undefined && !/^sips?:/i.test(to)) {
    process.stderr.write('a number is called from a number: give --from\n');
    return 2;
  }
  const form = new URLSearchParams({ To: to, From: values.from ?? 'tandem' });
  if (values.app !== undefined) form.set('Url', values.app);
  else form.set('Twiml', values.twiml ?? '');
  const call = (await rest(config, 'POST', 'Calls.json', form)) as RestCall;
  process.stdout.write(`${call.sid}\n`);
  let status = '';
  for (;;) {
    const now = (await rest(config, 'GET', `Calls/${call.sid}.json`)) as RestCall;
    if (now.status !== status) {
      status = now.status;
      process.stdout.write(
        `${new Date(realClock.nowMs()).toISOString().slice(11, 23)} ${status}\n`,
      );
    }
    if (FINAL.has(status)) {
      process.stdout.write(formatEnd(now, await traceOf(config, call.sid)));
      const problems = await printNotifications(config, call.sid);
      process.stdout.write(`duration ${now.duration ?? '0'} s; see: tandem trace ${call.sid}\n`);
      return status === 'completed' && problems === 0 ? 0 : 1;
    }
    await pause();
  }
}

async function traceOf(config: Config, sid: string): Promise<readonly TraceLine[]> {
  const answer = (await rest(config, 'GET', `Calls/${sid}/Trace.json`)) as { trace: TraceLine[] };
  return answer.trace;
}

/** What the application's author should know of the call; resolves with the number of errors. */
async function printNotifications(config: Config, sid: string): Promise<number> {
  const { notifications } = (await rest(config, 'GET', `Calls/${sid}/Notifications.json`)) as {
    notifications: readonly { log: string; error_code: string; message_text: string }[];
  };
  for (const { log, error_code, message_text } of notifications) {
    process.stdout.write(`${log === '0' ? 'error' : 'warning'} ${error_code} ${message_text}\n`);
  }
  return notifications.filter(({ log }) => log === '0').length;
}

/** A timer that keeps the process alive, unlike the clock's own. */
async function pause(): Promise<void> {
  const keepAlive = new MessageChannel();
  keepAlive.port1.ref();
  await sleep(realClock, POLL_MS);
  keepAlive.port1.close();
}

async function showTrace(
  config: Config,
  sid: string | undefined,
  isJson: boolean,
): Promise<number> {
  if (sid === undefined) {
    process.stderr.write('tandem trace <CallSid|Call-ID>\n');
    return 2;
  }
  if (!isSid('CA', sid)) {
    // A Call-ID has no form of its own, but what begins as a CallSid is meant as one.
    if (!/^CA[0-9a-f]*$/i.test(sid)) return showRefused(config, sid, isJson);
    process.stderr.write(
      `tandem: "${sid}" is no CallSid: that is CA and 32 hex digits, as tandem call prints it\n`,
    );
    return 2;
  }
  const trace = await traceOf(config, sid);
  process.stdout.write(isJson ? `${JSON.stringify(trace, null, 2)}\n` : formatTrace(trace));
  return 0;
}

/** What is known of a Call-ID: of a call, or of an INVITE that became none. */
async function showRefused(config: Config, callId: string, isJson: boolean): Promise<number> {
  const path = `Traces.json?CallId=${encodeURIComponent(callId)}`;
  const answer = (await rest(config, 'GET', path)) as {
    verdict: string | null;
    trace: TraceLine[];
  };
  const verdict = answer.verdict === null ? '' : `\n${plain(answer.verdict)}\n`;
  process.stdout.write(
    isJson ? `${JSON.stringify(answer, null, 2)}\n` : `${formatTrace(answer.trace)}${verdict}`,
  );
  return 0;
}

async function explainCall(config: Config, values: Values): Promise<number> {
  const { from, to, source, transport, sdp } = values;
  if (to === undefined) {
    process.stderr.write(
      'tandem explain --to <number|uri> [--from <number>] [--source <address>]\n',
    );
    return 2;
  }
  const form = new URLSearchParams({ To: to, From: from ?? '' });
  if (source !== undefined) form.set('Source', source);
  if (transport !== undefined) form.set('Transport', transport);
  if (sdp !== undefined) {
    const offer = readSdp(sdp);
    if (offer === null) return 2;
    form.set('Sdp', offer);
  }
  const found = (await rest(config, 'POST', 'Explain.json', form)) as ExplainedCall;
  process.stdout.write(
    values.json === true ? `${JSON.stringify(found, null, 2)}\n` : formatExplanation(found),
  );
  return found.outcome === 'refused' ? 1 : 0;
}

async function drainNode(config: Config, isUndone: boolean): Promise<number> {
  await request(config, isUndone ? 'DELETE' : 'POST', '/admin/drain');
  const now = (await request(config, 'GET', '/admin/drain')) as { state: string; calls: number };
  process.stdout.write(`${now.state}, ${now.calls} ${now.calls === 1 ? 'call' : 'calls'} live\n`);
  return 0;
}

/** Lines end as SDP has them, however the file was saved (RFC 8866 §5). Null says why not. */
function readSdp(file: string): string | null {
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n/g, '\r\n');
  } catch (thrown) {
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
    const problem = UNREADABLE[code] ?? `it cannot be read (${code})`;
    process.stderr.write(`tandem: --sdp ${file}: ${problem}\n`);
    return null;
  }
}

const UNREADABLE: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EISDIR: 'that is a directory',
  EACCES: 'it may not be read',
};

/** Of the account's resources. */
function rest(
  config: Config,
  method: string,
  path: string,
  form?: URLSearchParams,
): Promise<object> {
  const { sid } = readAccount(config);
  return request(config, method, `/2010-04-01/Accounts/${sid}/${path}`, form);
}

async function request(
  config: Config,
  method: string,
  path: string,
  form?: URLSearchParams,
): Promise<object> {
  const account = readAccount(config);
  const base = `http://${config['http.listen']}`;
  const url = `${base}${path}`;
  const pair = `${account.sid}:${account.authToken.reveal()}`;
  const response = await fetch(url, {
    method,
    headers: { authorization: `Basic ${Buffer.from(pair).toString('base64')}` },
    body: form ?? null,
  }).catch((cause: Error) => {
    const problem = 'no gateway answers there. Start one (npm start), or say where it is';
    const key = 'http.listen, TANDEM_HTTP_LISTEN';
    throw new GatewayError(
      'APP_UNREACHABLE',
      { url: base, problem: `${problem} (${key})` },
      { cause },
    );
  });
  const { status } = response;
  if (status === 204) return {};
  const body = (await response.json().catch(() => null)) as { message?: string } | null;
  if (body === null) {
    const problem = `no JSON, so ${base} is not tandem (http.listen, TANDEM_HTTP_LISTEN)`;
    throw new GatewayError('REST_REFUSED', { status, problem });
  }
  if (response.ok) return body;
  const problem =
    refusal(status, path.split('/').slice(4).join('/'), account.sid) ??
    body.message ??
    'no reason given';
  throw new GatewayError('REST_REFUSED', { status, problem });
}

/** What to do about an answer whose own words are for programs. */
function refusal(status: number, path: string, accountSid: string): string | null {
  if (status === 401) {
    return `it does not take this token for account ${accountSid}. Use the --config and data.dir of that gateway, or set account.sid and account.authToken (TANDEM_ACCOUNT_AUTH_TOKEN)`;
  }
  if (status === 404 && path.startsWith('Traces')) {
    return 'it knows no INVITE with that Call-ID. Look for a typing mistake (a CallSid is CA and 32 hex digits), another gateway (TANDEM_HTTP_LISTEN), or one refused too long ago';
  }
  const sid = /^Calls\/(CA[0-9a-f]+)/i.exec(path)?.[1];
  if (status !== 404 || sid === undefined) return null;
  return `it knows no call ${sid} of account ${accountSid}. Look for a typing mistake, another gateway (TANDEM_HTTP_LISTEN), or a call older than store.keepCallsDays`;
}

try {
  process.exitCode = await main();
} catch (thrown) {
  const error = asGatewayError(thrown);
  process.stderr.write(`tandem: ${error.message} [${error.code}]\n`);
  process.exitCode = 1;
}
