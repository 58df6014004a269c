#!/usr/bin/env node
/**
 * The command line. `start` runs the gateway in this process; everything else is a client of its
 * REST API, with the account of the same configuration and data directory. Text for people: what
 * a program wants to read is the API.
 */
import { parseArgs } from 'node:util';
import { formatTrace, type TraceLine } from './api/trace-text.ts';
import { realClock, sleep } from './core/clock.ts';
import { type Config, loadConfig, printConfig } from './core/config.ts';
import { asGatewayError, GatewayError } from './core/errors.ts';
import { readAccount } from './store/account-file.ts';

const USAGE = `tandem start                              run the gateway
tandem call <uri|number> --app <url>      place a call and follow it
            [--from <number>] [--twiml <document>]
tandem trace <CallSid> [--json]           SIP ladder, webhooks and verbs of a call
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
} as const;

type Values = ReturnType<
  typeof parseArgs<{ options: typeof OPTIONS; allowPositionals: true }>
>['values'];

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  const [command = 'help', subject] = positionals;
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

function configuration(values: Values): Config {
  const file = values.config ?? process.env.TANDEM_CONFIG;
  return loadConfig({ file, environment: process.env });
}

interface RestCall {
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
      const problems = await printNotifications(config, call.sid);
      process.stdout.write(`duration ${now.duration ?? '0'} s; see: tandem trace ${call.sid}\n`);
      return status === 'completed' && problems === 0 ? 0 : 1;
    }
    await pause();
  }
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
    process.stderr.write('tandem trace <CallSid>\n');
    return 2;
  }
  const answer = (await rest(config, 'GET', `Calls/${sid}/Trace.json`)) as { trace: TraceLine[] };
  process.stdout.write(
    isJson ? `${JSON.stringify(answer.trace, null, 2)}\n` : formatTrace(answer.trace),
  );
  return 0;
}

async function rest(
  config: Config,
  method: string,
  path: string,
  form?: URLSearchParams,
): Promise<object> {
  const account = readAccount(config);
  const base = `http://${config['http.listen']}`;
  const url = `${base}/2010-04-01/Accounts/${account.sid}/${path}`;
  const pair = `${account.sid}:${account.authToken.reveal()}`;
  const response = await fetch(url, {
    method,
    headers: { authorization: `Basic ${Buffer.from(pair).toString('base64')}` },
    body: form ?? null,
  }).catch((cause: Error) => {
    const problem = 'is the gateway running?';
    throw new GatewayError('APP_UNREACHABLE', { url: base, problem }, { cause });
  });
  const body = (await response.json()) as { message?: string };
  if (!response.ok) {
    throw new GatewayError('REST_REFUSED', {
      status: response.status,
      problem: body.message ?? 'no reason given',
    });
  }
  return body;
}

try {
  process.exitCode = await main();
} catch (thrown) {
  const error = asGatewayError(thrown);
  process.stderr.write(`tandem: ${error.message} [${error.code}]\n`);
  process.exitCode = 1;
}
