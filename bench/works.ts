/**
 * What `bench/calls.ts` can let both servers do, call by call: bridge two phones, answer and hang
 * up as an application says, register a phone. Each is a SIPp scenario and the set-up it needs.
 */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestGateway } from '../test/support/gateway.ts';
import { create, NUMBER } from './trunk.ts';

export const WORKS = ['bridge', 'app', 'register'] as const;
export type WorkName = (typeof WORKS)[number];

/** Phones as both servers know them. One may register five times a second, so they are many. */
export const PHONES = { count: 100, realm: 'phones.bench.test', password: 'Bench-Pass-2026' };
/** What the application says to each call: answer, and hang up at once. */
const DOCUMENT = '<Response><Hangup/></Response>';
export const APP_NUMBER = '+15559999';

interface Work {
  readonly scenario: string;
  readonly service: string;
  readonly replace: Readonly<Record<string, string>>;
  readonly extra: readonly string[];
  /** Whether the scenario measures the time from INVITE to 180. */
  readonly rings: boolean;
  readonly unit: 'call' | 'registration';
}

const NAMES = Array.from({ length: PHONES.count }, (_, i) => `phone${i}`);

/** For tandem; what Kamailio cannot do it does the nearest thing for. */
export const TANDEM_WORK: Readonly<Record<WorkName, Work>> = {
  bridge: { scenario: 'call', service: NUMBER, replace: {}, extra: [], rings: true, unit: 'call' },
  app: {
    scenario: 'call-app',
    service: APP_NUMBER,
    replace: {},
    extra: [],
    rings: false,
    unit: 'call',
  },
  register: {
    scenario: 'register-once',
    service: 'bench',
    replace: { domain: PHONES.realm },
    // Else SIPp signs for the address it sends to.
    extra: ['-auth_uri', PHONES.realm, '-inf', writeNames()],
    rings: false,
    unit: 'registration',
  },
};

/** A proxy asks no application: its bridged call is what an answered one is held against. */
export const KAMAILIO_WORK: Readonly<Record<WorkName, Work>> = {
  ...TANDEM_WORK,
  app: TANDEM_WORK.bridge,
};

/** Gives the gateway what the work needs. Resolves to what stops it. */
export async function prepare(gateway: TestGateway, name: WorkName): Promise<() => void> {
  if (name === 'app') {
    const server = await startApp();
    const { port } = server.address() as AddressInfo;
    await create(gateway, 'IncomingPhoneNumbers.json', {
      PhoneNumber: APP_NUMBER,
      VoiceUrl: `http://127.0.0.1:${port}/`,
    });
    return () => void server.close();
  }
  if (name === 'register') await addPhones(gateway);
  return () => {};
}

/** SIPp reads the names of its phones from a file, one after another. */
function writeNames(): string {
  const file = join(mkdtempSync(join(tmpdir(), 'tandem-bench-')), 'names.csv');
  const { password } = PHONES;
  const rows = NAMES.map((name) => {
    return `${name};[authentication username=${name} password=${password}]\n`;
  });
  writeFileSync(file, `SEQUENTIAL\n${rows.join('')}`);
  return file;
}

function startApp(): Promise<Server> {
  const server = createServer((request, response) => {
    request.resume();
    response.setHeader('content-type', 'text/xml');
    response.end(DOCUMENT);
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(server));
    server.unref();
  });
}

async function addPhones(gateway: TestGateway): Promise<void> {
  const list = await create(gateway, 'SIP/CredentialLists.json', { FriendlyName: 'bench' });
  for (const Username of NAMES) {
    const Password = PHONES.password;
    await create(gateway, `SIP/CredentialLists/${list}/Credentials.json`, { Username, Password });
  }
  const domain = await create(gateway, 'SIP/Domains.json', {
    DomainName: PHONES.realm,
    SipRegistration: 'true',
  });
  const mapping = `SIP/Domains/${domain}/Auth/Registrations/CredentialListMappings.json`;
  await create(gateway, mapping, { CredentialListSid: list });
}
