/**
 * Caller identity: the published examples of its RFCs, signing and verifying with an authority of
 * our own, every way a verification fails, and what a hostile token or certificate URL can do.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  sign,
} from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { DEFAULT_CERTIFICATES } from '../src/call/certificates.ts';
import {
  DEFAULT_STIR,
  Stir,
  type StirOptions,
  type StirQuery,
  type StirResult,
  stirHeaders,
  stirOptions,
  stirParameters,
  stirReason,
  stirRefusal,
  stirVerstat,
} from '../src/call/stir.ts';
import { AddressGuard } from '../src/core/address.ts';
import { realClock, sleep } from '../src/core/clock.ts';
import { loadConfig } from '../src/core/config.ts';
import { ERRORS, GatewayError } from '../src/core/errors.ts';
import { silentLog } from '../src/core/log.ts';
import { Metrics } from '../src/core/metrics.ts';
import { DEFAULT_HTTP_CLIENT, HttpClient } from '../src/http/client.ts';
import {
  canonicalNumber,
  canonicalParty,
  formatIdentity,
  parseIdentity,
  passportOf,
} from '../src/sip/identity-field.ts';
import { parseMessage } from '../src/sip/parser.ts';
import { parsePassport, signingInput, signPassport, verifySignature } from '../src/sip/passport.ts';
import { SEED, seededRandom } from './support/sim.ts';
import {
  CA_EXTENSIONS,
  type Issued,
  providerCode,
  SIGNER_EXTENSIONS,
  StirCa,
} from './support/stir-ca.ts';

const FROM = '+12155551212';
const TO = '+12155551213';
const SIGNS = { sign: true, verify: 'require' } as const;
/** Certificates are valid from the moment they are made, to the second. */
const NOW_MS = realClock.nowMs() + 120_000;
const ORIGID = '123e4567-e89b-12d3-a456-426655440000';

const ca = new StirCa();
const root = ca.issue({ name: 'root', extensions: CA_EXTENSIONS });
const middle = ca.issue({ name: 'middle', by: root, extensions: CA_EXTENSIONS });
const signer = ca.issue({ name: 'signer', by: middle, extensions: SIGNER_EXTENSIONS });
t.teardown(() => ca.close());

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** Certificates by path; counts what is asked. */
async function repository(files: Readonly<Record<string, string | Buffer | Handler>>) {
  let hits = 0;
  const server = createServer((request, response) => {
    hits += 1;
    const file = files[request.url ?? ''];
    if (typeof file === 'function') file(request, response);
    else response.writeHead(file === undefined ? 404 : 200).end(file);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { base, hits: () => hits };
}

interface World {
  readonly stir: Stir;
  readonly url: string;
  readonly hits: () => number;
  readonly base: string;
  readonly clock: { nowMs: () => number; set: (ms: number) => void };
}

const CHAIN = `${signer.pem}${middle.pem}`;

async function world(
  o: {
    files?: Readonly<Record<string, string | Buffer | Handler>>;
    options?: Partial<StirOptions>;
    certificates?: Partial<StirOptions['certificates']>;
    allow?: readonly string[];
  } = {},
): Promise<World> {
  const { base, hits } = await repository({ '/signer.pem': CHAIN, ...o.files });
  const url = `${base}/signer.pem`;
  let nowMs = NOW_MS;
  const clock = { ...realClock, nowMs: () => nowMs };
  const http = new HttpClient({
    clock: realClock,
    guard: new AddressGuard({ allow: o.allow ?? ['127.0.0.0/8'] }),
    userAgent: 'tandem-test',
    ...DEFAULT_HTTP_CLIENT,
  });
  const stir = new Stir({
    clock,
    log: silentLog,
    metrics: new Metrics(),
    http,
    options: {
      ...DEFAULT_STIR,
      keyFile: signer.keyFile,
      certificateUrl: url,
      attestation: 'B',
      originationId: ORIGID,
      trustAnchors: root.file,
      ...o.options,
      certificates: { ...DEFAULT_CERTIFICATES, ports: [], allowHttp: true, ...o.certificates },
    },
  });
  await stir.start();
  t.teardown(async () => {
    stir.close();
    await http.close();
  });
  return { stir, url, hits, base, clock: { nowMs: () => nowMs, set: (ms) => (nowMs = ms) } };
}

function signed(w: World, more: { attest?: 'A' | 'B' | 'C' } = {}): string {
  const field = w.stir.sign(SIGNS, { from: FROM, to: TO, ...more });
  if (field === null) throw new GatewayError('INTERNAL', { problem: 'not signed' });
  return field[1];
}

function verify(w: World, identity: string | readonly string[], more: Partial<StirQuery> = {}) {
  const list = typeof identity === 'string' ? [identity] : identity;
  const query = { from: FROM, to: TO, nowMs: w.clock.nowMs(), ...more };
  return w.stir.verify({ identity: list, date: null }, query);
}

interface Forgery {
  readonly header?: Readonly<Record<string, unknown>>;
  readonly payload?: Readonly<Record<string, unknown>>;
  readonly keyPem?: string;
  readonly info?: string;
}

/** A token of any shape with a right signature over it. */
function forge(w: World, o: Forgery = {}): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const header = { alg: 'ES256', ppt: 'shaken', typ: 'passport', x5u: w.url, ...o.header };
  const payload = {
    attest: 'A',
    dest: { tn: ['12155551213'] },
    iat: Math.floor(NOW_MS / 1000),
    orig: { tn: '12155551212' },
    origid: ORIGID,
    ...o.payload,
  };
  const input = `${part(header)}.${part(payload)}`;
  const key = createPrivateKey(o.keyPem ?? signer.key);
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  const ppt = header.ppt === undefined ? '' : `;ppt=${header.ppt}`;
  const info = o.info ?? header.x5u;
  return `${input}.${signature.toString('base64url')};info=<${info}>;alg=ES256${ppt}`;
}

function verdict(result: StirResult): string {
  return `${stirVerstat(result)} ${result.code}`;
}

// --- The published forms ----------------------------------------------------------------------

const RFC_X5U = 'https://cert.example.org/passport.cer';
/** RFC 8225 Appendix A.1: header and payload, without the signature. */
const RFC_INPUT =
  'eyJhbGciOiJFUzI1NiIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly9jZXJ0LmV4YW1wbGUub3JnL3Bhc3Nwb3J0LmNlciJ9.' +
  'eyJkZXN0Ijp7InVyaSI6WyJzaXA6YWxpY2VAZXhhbXBsZS5jb20iXX0sImlhdCI6MTQ3MTM3NTQxOCwib3JpZyI6eyJ0biI6IjEyMTU1NTUxMjEyIn19';
/** The key that the drafts of RFC 8225 publish with their example, and that example. */
const DRAFT_KEY = createPublicKey(
  [
    '-----BEGIN PUBLIC KEY-----',
    'MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8HNbQd/TmvCKwPKHkMF9fScavGeH',
    '78YTU8qLS8I5HLHSSmlATLcslQMhNC/OhlWBYC626nIlo7XeebYS7Sb37g==',
    '-----END PUBLIC KEY-----',
  ].join('\n'),
);
const DRAFT_TOKEN =
  'eyJhbGciOiJFUzI1NiIsInR5cCI6InBhc3Nwb3J0IiwieDV1IjoiaHR0cHM6Ly9jZXJ0LmV4YW1wbGUub3JnL3Bhc3Nwb3J0LmNlciJ9.' +
  'eyJkZXN0Ijp7InVyaSI6WyJzaXA6YWxpY2VAZXhhbXBsZS5jb20iXX0sImlhdCI6IjE0NDMyMDgzNDUiLCJvcmlnIjp7InRuIjoiMTIxNTU1NTEyMTIifX0.' +
  'rq3pjT1hoRwakEGjHCnWSwUnshd0-zJ6F1VOgFWSjHBr8Qjpjlk-cpFYpFYsojNCpTzO3QfPOlckGaS6hEck7w';

t.test('the example of RFC 8225 is written byte for byte', async (t) => {
  const claims = {
    attest: null,
    dest: { tn: [], uri: ['sip:alice@example.com'] },
    iatS: 1_471_375_418,
    orig: { kind: 'tn', value: '12155551212' },
    origid: null,
  } as const;

  t.equal(signingInput({ ppt: '', x5u: RFC_X5U, claims }), RFC_INPUT);
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const token = signPassport({ ppt: '', x5u: RFC_X5U, claims }, privateKey);
  t.ok(token.startsWith(`${RFC_INPUT}.`));
  t.ok(verifySignature(token, publicKey));
  t.match(parsePassport(token), { ppt: '', x5u: RFC_X5U, claims });
});

t.test('a published PASSporT signature verifies with its published key', async (t) => {
  t.ok(verifySignature(DRAFT_TOKEN, DRAFT_KEY));
  t.notOk(verifySignature(DRAFT_TOKEN.replace('.rq3', '.rq4'), DRAFT_KEY));
  // The drafts wrote the time as text; RFC 8225 made it a number.
  t.throws(() => parsePassport(DRAFT_TOKEN), { code: 'STIR_INVALID' });
});

t.test('the example of RFC 7515 A.3 verifies: r and s side by side, not DER', async (t) => {
  const key = createPublicKey({
    format: 'jwk',
    key: {
      kty: 'EC',
      crv: 'P-256',
      x: 'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU',
      y: 'x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0',
    },
  });
  const token =
    'eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.' +
    'DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q';
  t.ok(verifySignature(token, key));
});

t.test('what is signed has the shape of RFC 8588', async (t) => {
  const w = await world();
  const value = signed(w, { attest: 'A' });
  const [header, payload] = value
    .split('.')
    .slice(0, 2)
    .map((part) => Buffer.from(part, 'base64url').toString());
  const iat = Math.floor(NOW_MS / 1000);

  t.equal(header, `{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"${w.url}"}`);
  t.equal(
    payload,
    `{"attest":"A","dest":{"tn":["12155551213"]},"iat":${iat},"orig":{"tn":"12155551212"},"origid":"${ORIGID}"}`,
  );
  t.match(value, new RegExp(`;info=<${w.url}>;alg=ES256;ppt=shaken$`));
});

t.test('numbers and addresses have one spelling', async (t) => {
  const rules = { countryCode: '49', internationalPrefix: '00', nationalPrefix: '0' };
  const nanp = { countryCode: '1', internationalPrefix: '011', nationalPrefix: '1' };
  t.equal(canonicalNumber('+1 (215) 555-12.12'), '12155551212');
  t.equal(canonicalNumber('*67'), '*67');
  t.equal(canonicalNumber('030 1234567', rules), '49301234567');
  t.equal(canonicalNumber('0044 20 1234567', rules), '44201234567');
  t.equal(canonicalNumber('+4420', rules), '4420');
  t.equal(canonicalNumber('2155551212', nanp), '12155551212');
  t.equal(canonicalNumber('12155551212', nanp), '12155551212');
  for (const no of ['', '+', 'alice', '1;2', '1+2', '٣٤', '1'.repeat(33)]) {
    t.equal(canonicalNumber(no), null, no);
  }
  const tn = { kind: 'tn', value: '12155551212' };
  for (const text of [
    'sip:+12155551212@example.com;user=phone',
    'sip:+1-215-555-1212;tgrp=x;trunk-context=y@example.com:5060;transport=tcp',
    'sips:%2B12155551212@[2001:db8::1]',
    'tel:+1-215-555-1212',
    'tel:5551212;phone-context=+1215',
    '+12155551212',
  ]) {
    t.strictSame(canonicalParty(text), tn, text);
  }
  t.strictSame(canonicalParty('SIP:Alice:pw@EXAMPLE.com:5060;x=y?h=1'), {
    kind: 'uri',
    value: 'sip:Alice@example.com',
  });
  for (const no of ['sip:example.com', 'mailto:a@b', 'alice', 'sip:%zz@b', '']) {
    t.equal(canonicalParty(no), null, no);
  }
});

// --- Sign and verify --------------------------------------------------------------------------

t.test('what one side signs the other verifies, for each attestation', async (t) => {
  const w = await world();
  for (const attest of ['A', 'B', 'C'] as const) {
    const value = signed(w, { attest });
    const result = await verify(w, value);
    t.match(result, {
      verstat: 'TN-Validation-Passed',
      attestation: attest,
      code: null,
      origid: ORIGID,
      providerCode: '709J',
    });
    t.strictSame(stirParameters(result), [
      ['StirVerstat', `TN-Validation-Passed-${attest}`],
      ['StirPassportToken', value.split(';')[0]],
    ]);
    t.equal(stirRefusal(SIGNS, result), null);
  }
  t.equal(w.hits(), 1, 'and the certificate is fetched once');
});

t.test('the parties may be written in any way that means the same', async (t) => {
  const w = await world();
  const value = signed(w);
  const from = 'sip:12155551212@carrier.example;user=phone';
  t.equal((await verify(w, value, { from, to: 'tel:+1-215-555-1213' })).code, null);
  const numbers = { countryCode: '1', internationalPrefix: '011', nationalPrefix: '1' };
  t.equal((await verify(w, value, { from: '2155551212', numbers })).code, null);
  t.equal((await verify(w, value, { from: '2155551212' })).code, 'STIR_INVALID');
  const plus = forge(w, { payload: { orig: { tn: '+12155551212' } } });
  t.equal((await verify(w, plus)).code, null, 'a plus in the token is no other number');
});

t.test('nothing is signed without policy, key, or a number to sign for', async (t) => {
  const w = await world();
  const off = { sign: false, verify: 'off' } as const;
  t.equal(w.stir.sign(off, { from: FROM, to: TO }), null);
  for (const from of ['anonymous', 'sip:alice@example.com', '101', '*67', '']) {
    t.equal(w.stir.sign(SIGNS, { from, to: TO }), null, from);
  }
  const keyless = await world({ options: { keyFile: '' } });
  t.equal(keyless.stir.sign(SIGNS, { from: FROM, to: TO }), null);
  t.notOk(keyless.stir.canSign);
});

t.test('the fields of a real message are read, in either name', async (t) => {
  const w = await world();
  for (const name of ['Identity', 'y']) {
    const text = [
      'INVITE sip:+12155551213@tandem.example SIP/2.0',
      'Via: SIP/2.0/UDP c.example;branch=z9hG4bKx',
      'From: <sip:+12155551212@c.example>;tag=a',
      'To: <sip:+12155551213@tandem.example>',
      'Call-ID: x@c.example',
      'CSeq: 1 INVITE',
      'Max-Forwards: 70',
      `${name}: ${signed(w)}`,
      'Content-Length: 0',
      '\r\n',
    ].join('\r\n');
    const parsed = parseMessage(text, { stream: false });
    if (!parsed.ok) throw new GatewayError('INTERNAL', { problem: 'it does not parse' });
    const query = { from: FROM, to: TO, nowMs: NOW_MS };
    const result = await w.stir.verify(stirHeaders(parsed.message), query);
    t.equal(result.code, null);
  }
});

t.test('the compact form is rebuilt from the request', async (t) => {
  const w = await world();
  const dateMs = Math.floor(NOW_MS / 1000) * 1000;
  const date = new Date(dateMs).toUTCString();
  const claims = {
    attest: null,
    dest: { tn: ['12155551213'], uri: [] },
    iatS: dateMs / 1000,
    orig: { kind: 'tn', value: '12155551212' },
    origid: null,
  } as const;
  const full = signPassport({ ppt: '', x5u: w.url, claims }, createPrivateKey(signer.key));
  const compact = formatIdentity(`..${full.split('.')[2]}`, w.url, '');
  const query = { from: FROM, to: TO, nowMs: NOW_MS };
  const ask = (identity: string, when: string | null, more: Partial<StirQuery> = {}) =>
    w.stir.verify({ identity: [identity], date: when }, { ...query, ...more });

  const result = await ask(compact, date);
  t.match(result, { verstat: 'TN-Validation-Passed', attestation: null, token: full });
  t.equal(
    stirVerstat(result),
    'No-TN-Validation',
    'it attests nothing applications have words for',
  );
  t.equal((await ask(compact, null)).code, 'STIR_INVALID');
  t.equal((await ask(compact, 'yesterday')).code, 'STIR_INVALID');
  t.equal((await ask(compact, date, { to: FROM })).code, 'STIR_INVALID', 'another callee');
  const late = new Date(dateMs + 1000).toUTCString();
  t.equal((await ask(compact, late)).code, 'STIR_INVALID', 'another time');
  t.equal((await ask(`${compact};ppt=shaken`, date)).code, 'STIR_INVALID');
});

t.test(
  'of several fields one that passes is enough, and kinds not known count as absent',
  async (t) => {
    const w = await world();
    const good = signed(w, { attest: 'A' });
    const div = forge(w, {
      header: { ppt: 'div' },
      payload: { div: { tn: '1' }, attest: undefined },
    });
    const wrong = forge(w, { payload: { orig: { tn: '1' } } });

    t.equal((await verify(w, [div, good])).code, null);
    t.equal((await verify(w, [wrong, good])).code, null);
    t.equal((await verify(w, [`${wrong}, ${good}`])).code, null, 'folded into one field');
    t.equal((await verify(w, ['nonsense', good])).code, null);
    t.equal(verdict(await verify(w, [div])), 'No-TN-Validation STIR_NO_IDENTITY');
    const hidden = div.replace(/;ppt=div$/, '');
    t.equal(verdict(await verify(w, [hidden])), 'No-TN-Validation STIR_NO_IDENTITY');
    t.equal((await verify(w, [wrong, div])).code, 'STIR_INVALID');
    t.equal((await verify(w, Array(9).fill(good))).code, 'STIR_INVALID', 'too many');
  },
);

// --- Failures ---------------------------------------------------------------------------------

t.test('each failure has the status of RFC 8224 6.2.2, and only require refuses', async (t) => {
  const own = ca.issue({ name: 'own', extensions: SIGNER_EXTENSIONS });
  const w = await world({ files: { '/own.pem': own.pem } });
  const ofOwn = forge(w, { header: { x5u: `${w.base}/own.pem` }, keyPem: own.key });
  const cases: readonly (readonly [StirResult, number, string])[] = [
    [await verify(w, []), 428, 'Use Identity Header'],
    [await verify(w, signed(w), { nowMs: NOW_MS + 61_000 }), 403, 'Stale Date'],
    [await verify(w, forge(w, { header: { x5u: `${w.base}/none` } })), 436, 'Bad Identity Info'],
    [await verify(w, signed(w), { nowMs: NOW_MS + 1 }), 0, ''],
    [await verify(w, ofOwn), 437, 'Unsupported Credential'],
    [await verify(w, signed(w), { to: '+15550000' }), 438, 'Invalid Identity Header'],
  ];
  for (const [result, status, phrase] of cases) {
    const refusal = stirRefusal(SIGNS, result);
    t.equal(refusal?.status ?? 0, status);
    t.equal(refusal?.phrase ?? '', phrase);
    t.equal(stirRefusal({ sign: false, verify: 'report' }, result), null);
    if (refusal) t.equal(ERRORS[refusal.code].sip, refusal.status);
  }
  t.strictSame(stirReason('STIR_CREDENTIAL'), [
    'Reason',
    'STIR ;cause=437 ;text="Unsupported Credential"',
  ]);
});

t.test('a signature is good for sixty seconds, before and after', async (t) => {
  const w = await world();
  const iatMs = Math.floor(NOW_MS / 1000) * 1000;
  const value = signed(w);
  for (const [offsetMs, code] of [
    [0, null],
    [60_000, null],
    [-60_000, null],
    [60_001, 'STIR_STALE'],
    [-60_001, 'STIR_STALE'],
    [86_400_000, 'STIR_STALE'],
  ] as const) {
    t.equal((await verify(w, value, { nowMs: iatMs + offsetMs })).code, code, `${offsetMs} ms`);
  }
  const again = await Promise.all([1, 2, 3].map(() => verify(w, value)));
  t.ok(
    again.every(({ code }) => code === null),
    'within it a fork or a retry carries the same one',
  );
});

t.test(
  'another caller or callee is not what was signed, and nothing is fetched for it',
  async (t) => {
    const w = await world();
    const value = signed(w, { attest: 'A' });
    const other = await verify(w, value, { from: '+12155551299' });
    t.equal(verdict(other), 'TN-Validation-Failed-A STIR_INVALID');
    t.equal((await verify(w, value, { to: '+12155551299' })).code, 'STIR_INVALID');
    t.equal((await verify(w, value, { from: 'sip:12155551212x@y' })).code, 'STIR_INVALID');
    t.equal((await verify(w, value, { from: 'anonymous' })).code, 'STIR_INVALID');
    t.equal((await verify(w, value, { nowMs: NOW_MS + 3_600_000 })).code, 'STIR_STALE');
    t.equal(w.hits(), 0);
  },
);

t.test('no other algorithm than ES256 is taken, however it is asked for', async (t) => {
  const w = await world();
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const [, payload = ''] = forge(w).split('.');
  const tail = `;info=<${w.url}>;ppt=shaken`;
  const head = (alg: string): string => part({ alg, ppt: 'shaken', typ: 'passport', x5u: w.url });
  const hs = `${head('HS256')}.${payload}`;
  const publicPem = createPublicKey(signer.key).export({ type: 'spki', format: 'pem' });
  const mac = createHmac('sha256', publicPem).update(hs).digest('base64url');
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const rs = `${head('RS256')}.${payload}`;
  const rsSignature = sign('sha256', Buffer.from(rs), rsa.privateKey).toString('base64url');
  const der = sign('sha256', Buffer.from(`${head('ES256')}.${payload}`), signer.key);

  const values = [
    `${head('none')}.${payload}.;alg=none${tail}`,
    `${head('none')}.${payload}.AA${tail}`,
    `${hs}.${mac}${tail}`,
    `${hs}.${mac}${tail};alg=HS256`,
    `${rs}.${rsSignature}${tail}`,
    `${head('ES256')}.${payload}.${mac}${tail}`,
    `${head('ES256')}.${payload}.${der.toString('base64url')}${tail}`,
    `${head('ES256')}.${payload}.${Buffer.alloc(64).toString('base64url')}${tail}`,
    `${head('es256')}.${payload}.${mac}${tail}`,
    forge(w).replace('alg=ES256', 'alg=RS256'),
  ];
  for (const value of values) {
    t.equal((await verify(w, value)).code, 'STIR_INVALID', value.slice(-60));
  }
  t.notOk(verifySignature(`${rs}.${rsSignature}`, rsa.publicKey), 'an RSA key verifies nothing');
  const koblitz = generateKeyPairSync('ec', { namedCurve: 'secp256k1' });
  const input = `${head('ES256')}.${payload}`;
  const options = { key: koblitz.privateKey, dsaEncoding: 'ieee-p1363' } as const;
  const es256k = sign('sha256', Buffer.from(input), options).toString('base64url');
  t.notOk(verifySignature(`${input}.${es256k}`, koblitz.publicKey), 'nor does ES256K');
});

t.test('claims and headers of any other shape are refused', async (t) => {
  const w = await world();
  const payloads: readonly Readonly<Record<string, unknown>>[] = [
    { attest: 'D' },
    { attest: undefined },
    { origid: undefined },
    { origid: 'x'.repeat(129) },
    { iat: String(Math.floor(NOW_MS / 1000)) },
    { iat: NOW_MS / 1000 + 0.5 },
    { iat: -1 },
    { iat: null },
    { orig: undefined },
    { orig: { tn: '12155551212', uri: 'sip:a@b' } },
    { orig: { tn: ['12155551212'] } },
    { orig: { uri: 'sip:a@b' } },
    { orig: [] },
    { dest: {} },
    { dest: { tn: [] } },
    { dest: { tn: '12155551213' } },
    { dest: { tn: [12155551213] } },
    { dest: { tn: Array(33).fill('12155551213') } },
  ];
  for (const payload of payloads) {
    const result = await verify(w, forge(w, { payload }));
    t.equal(result.code, 'STIR_INVALID', JSON.stringify(payload).slice(0, 60));
  }
  const headers: readonly Readonly<Record<string, unknown>>[] = [
    { typ: 'JWT' },
    { crit: ['b64'] },
    { alg: undefined },
    { x5u: 7 },
  ];
  for (const header of headers) {
    const result = await verify(w, forge(w, { header, info: w.url }));
    t.equal(result.code, 'STIR_INVALID', JSON.stringify(header));
  }
  const twice =
    '{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"https://a","x5u":"https://b"}';
  t.throws(
    () => parsePassport(`${Buffer.from(twice).toString('base64url')}.e30.AA`),
    { code: 'STIR_INVALID', details: { problem: /twice/ } },
    'a name given twice',
  );
  const numbered = Buffer.from('{"alg":"ES256","typ":"passport","ppt":7}').toString('base64url');
  t.throws(() => parsePassport(`${numbered}.e30.AA`), { code: 'STIR_INVALID' });
  t.equal(w.hits(), 0);
});

t.test('a field that is broken or too large is refused before it is understood', async (t) => {
  const w = await world();
  const good = signed(w);
  const [token = ''] = good.split(';');
  const cases: readonly (readonly [string, string])[] = [
    ['', 'STIR_INVALID'],
    [';info=<https://a>', 'STIR_INVALID'],
    [token, 'STIR_BAD_INFO'],
    [`${token};info=https://a.example/c`, 'STIR_BAD_INFO'],
    [`${token};info=<>`, 'STIR_BAD_INFO'],
    [`${token};info=<https://other.example/c.pem>`, 'STIR_BAD_INFO'],
    [`${good};info=<https://other.example/c.pem>`, 'STIR_INVALID'],
    [`${good};x=1;x=2`, 'STIR_INVALID'],
    [good.replace(token, `${token}.AAAA`), 'STIR_INVALID'],
    [good.replace(token, `${token}=`), 'STIR_INVALID'],
    [good.replace(token, token.replaceAll('.', ' . ')), 'STIR_INVALID'],
    [`${'A'.repeat(9000)}.AA.AA;info=<https://a>`, 'STIR_INVALID'],
    [`${good};pad="${'x'.repeat(30_000)}"`, 'STIR_INVALID'],
    [`${good}${';a'.repeat(20)}`, 'STIR_INVALID'],
  ];
  for (const [value, code] of cases) {
    t.equal((await verify(w, value)).code, code, value.slice(-50));
  }
  t.equal((await verify(w, good.replace('ppt=shaken', 'ppt="shaken"'))).code, null, 'quoted');
});

t.test('a changed token never verifies', async (t) => {
  t.comment(`seed ${SEED}`);
  const random = seededRandom(SEED);
  const w = await world();
  const key = createPublicKey(signer.key);
  const [token = ''] = signed(w).split(';');
  const [other = ''] = forge(w, { payload: { attest: 'C' } }).split(';');
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.+/= ';
  const letter = (): string => alphabet[Math.floor(random() * alphabet.length)] ?? 'A';
  const mutate = (text: string): string => {
    const at = Math.floor(random() * text.length);
    const kind = Math.floor(random() * 5);
    if (kind === 0) return text.slice(0, at) + letter() + text.slice(at + 1);
    if (kind === 1) return text.slice(0, at) + text.slice(at + 1);
    if (kind === 2) return text.slice(0, at) + letter() + text.slice(at);
    if (kind === 3) return text.slice(0, at);
    return text.slice(0, at) + other.slice(at);
  };
  let verified = 0;
  for (let round = 0; round < 3000; round += 1) {
    const changed = mutate(token);
    if (changed === token || changed === other) continue;
    if (verifySignature(changed, key)) verified += 1;
    if (round % 10 !== 0) continue;
    if ((await verify(w, formatIdentity(changed, w.url, 'shaken'))).code === null) verified += 1;
  }
  t.equal(verified, 0);
  for (const last of alphabet) {
    const changed = token.slice(0, -1) + last;
    t.equal(verifySignature(changed, key), changed === token, `last character ${last}`);
  }
});

// --- Certificates -----------------------------------------------------------------------------

const DAY_MS = 86_400_000;

t.test('a certificate that has expired or is not valid yet vouches for nobody', async (t) => {
  for (const [offsetMs, code] of [
    [0, null],
    [29 * DAY_MS, null],
    [31 * DAY_MS, 'STIR_CREDENTIAL'],
    [-DAY_MS, 'STIR_CREDENTIAL'],
  ] as const) {
    const w = await world();
    w.clock.set(NOW_MS + offsetMs);
    const result = await verify(w, signed(w));
    t.equal(result.code, code, `${offsetMs / DAY_MS} days`);
    if (code !== null) t.equal(stirVerstat(result), 'TN-Validation-Failed-B');
  }
  const w = await world({ certificates: { freshMsMax: 365 * DAY_MS, freshMsMin: 365 * DAY_MS } });
  t.equal((await verify(w, signed(w))).code, null);
  w.clock.set(NOW_MS + 31 * DAY_MS);
  t.equal((await verify(w, signed(w))).code, 'STIR_CREDENTIAL', 'also when it is kept');
  t.equal(w.hits(), 1);
});

t.test('only a path of authorities to a configured one is trusted', async (t) => {
  const stranger = ca.issue({ name: 'stranger', extensions: CA_EXTENSIONS });
  const by = (name: string, issuer: Issued, extensions = SIGNER_EXTENSIONS): Issued =>
    ca.issue({ name, by: issuer, extensions });
  const ofStranger = by('of-stranger', stranger);
  const ofLeaf = by('of-leaf', signer);
  const plain = by('plain', middle, ['basicConstraints=critical,CA:FALSE']);
  const ofPlain = by('of-plain', plain);
  const fakeMiddle = ca.issue({ name: 'fake', subject: 'middle', extensions: CA_EXTENSIONS });
  const ofFake = by('of-fake', fakeMiddle);
  const fakeRoot = ca.issue({ name: 'fake-root', subject: 'root', extensions: CA_EXTENSIONS });
  const ofFakeRoot = by('of-fake-root', fakeRoot);
  const short = ca.issue({
    name: 'short',
    by: root,
    extensions: ['basicConstraints=critical,CA:TRUE,pathlen:0', 'keyUsage=critical,keyCertSign'],
  });
  const below = ca.issue({ name: 'below', by: short, extensions: CA_EXTENSIONS });
  const tooDeep = by('too-deep', below);
  const noSign = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,keyEncipherment'];
  const encipher = by('encipher', middle, [...noSign, providerCode('709J')]);
  const critical = by('critical', middle, [...SIGNER_EXTENSIONS, '1.2.3.4=critical,DER:0500']);
  const bound = by('bound', middle, [...SIGNER_EXTENSIONS, '1.3.6.1.5.5.7.1.27=DER:3000']);
  const weak = ca.issue({
    name: 'weak',
    by: middle,
    extensions: SIGNER_EXTENSIONS,
    digest: 'sha1',
  });
  const p384 = ca.issue({
    name: 'p384',
    by: middle,
    extensions: SIGNER_EXTENSIONS,
    algorithm: 'P-384',
  });
  const rsa = ca.issue({
    name: 'rsa',
    by: middle,
    extensions: SIGNER_EXTENSIONS,
    algorithm: 'RSA',
  });
  const files = {
    '/stranger.pem': ofStranger.pem + stranger.pem,
    '/leaf.pem': ofLeaf.pem + signer.pem + middle.pem,
    '/plain.pem': ofPlain.pem + plain.pem + middle.pem,
    '/fake.pem': ofFake.pem + middle.pem,
    '/fake-root.pem': ofFakeRoot.pem + fakeRoot.pem,
    '/gap.pem': signer.pem,
    '/deep.pem': tooDeep.pem + below.pem + short.pem,
    '/encipher.pem': encipher.pem + middle.pem,
    '/critical.pem': critical.pem + middle.pem,
    '/bound.pem': bound.pem + middle.pem,
    '/weak.pem': weak.pem + middle.pem,
    '/p384.pem': p384.pem + middle.pem,
    '/rsa.pem': rsa.pem + middle.pem,
    '/shuffled.pem': signer.pem + stranger.pem + root.pem + middle.pem,
  };
  const w = await world({ files });
  const code = async (path: string, key: Issued): Promise<string | null> => {
    const value = forge(w, { header: { x5u: `${w.base}${path}` }, keyPem: key.key });
    return (await verify(w, value)).code;
  };
  t.equal(await code('/shuffled.pem', signer), null, 'order and strangers between do not matter');
  t.equal(await code('/stranger.pem', ofStranger), 'STIR_CREDENTIAL');
  t.equal(await code('/leaf.pem', ofLeaf), 'STIR_CREDENTIAL', 'a signer is no authority');
  t.equal(await code('/plain.pem', ofPlain), 'STIR_CREDENTIAL', 'nor is one that does not say so');
  t.equal(await code('/fake.pem', ofFake), 'STIR_CREDENTIAL', 'a name alone is no issuer');
  t.equal(await code('/fake-root.pem', ofFakeRoot), 'STIR_CREDENTIAL', 'nor an authority');
  t.equal(await code('/gap.pem', signer), 'STIR_CREDENTIAL', 'its issuer is missing');
  t.equal(await code('/deep.pem', tooDeep), 'STIR_CREDENTIAL', 'path length');
  t.equal(await code('/encipher.pem', encipher), 'STIR_CREDENTIAL', 'key usage');
  t.equal(await code('/critical.pem', critical), 'STIR_CREDENTIAL', 'critical extension');
  t.equal(await code('/bound.pem', bound), 'STIR_CREDENTIAL', 'claim constraints');
  t.equal(await code('/weak.pem', weak), 'STIR_CREDENTIAL', 'SHA-1');
  t.equal(await code('/p384.pem', p384), 'STIR_CREDENTIAL', 'another curve');
  const rsaForged = forge(w, { header: { x5u: `${w.base}/rsa.pem` } });
  t.equal((await verify(w, rsaForged)).code, 'STIR_CREDENTIAL', 'another kind of key');
  t.equal(await code('/signer.pem', ofStranger), 'STIR_INVALID', 'a right path, another key');
});

t.test('a certificate speaks for the numbers and the domain it names', async (t) => {
  const base = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,digitalSignature'];
  const oid = '1.3.6.1.5.5.7.1.26';
  const hex = (text: string): string => Buffer.from(text).toString('hex');
  const der = (tag: string, body: string): string =>
    tag + (body.length / 2).toString(16).padStart(2, '0') + body;
  const one = der('30', der('a2', der('16', hex('12155551212'))));
  const range = (start: string, count: string): string =>
    der('30', der('a1', der('30', der('16', hex(start)) + der('02', count))));
  const lists: readonly (readonly [string, string, string | null])[] = [
    ['one', `${oid}=DER:${one}`, null],
    [
      'other',
      `${oid}=DER:${one.replace(hex('12155551212'), hex('12155551299'))}`,
      'STIR_CREDENTIAL',
    ],
    ['range', `${oid}=DER:${range('12155551200', '64')}`, null],
    ['range-end', `${oid}=DER:${range('12155551200', '0c')}`, 'STIR_CREDENTIAL'],
    ['none', 'subjectAltName=DNS:x.example', 'STIR_CREDENTIAL'],
    ['broken', `${oid}=DER:3003a00516`, 'STIR_CREDENTIAL'],
  ];
  const files: Record<string, string> = {};
  const issued = lists.map(([name, extension, code]) => {
    const made = ca.issue({ name: `tn-${name}`, by: middle, extensions: [...base, extension] });
    files[`/${name}.pem`] = made.pem + middle.pem;
    return { name, code, key: made.key };
  });
  const w = await world({ files });
  for (const { name, code, key } of issued) {
    const value = forge(w, { header: { x5u: `${w.base}/${name}.pem` }, keyPem: key });
    t.equal((await verify(w, value)).code, code, name);
  }
  const lax = await world({ files, options: { requireTnAuthList: false } });
  const none = issued.find(({ name }) => name === 'none')?.key ?? '';
  const header = { x5u: `${lax.base}/none.pem` };
  t.equal((await verify(lax, forge(lax, { header, keyPem: none }))).code, null);

  const uri = (host: string): string =>
    forge(w, {
      header: { ppt: undefined, x5u: `${w.base}/none.pem` },
      payload: { orig: { uri: `sip:alice@${host}` } },
      keyPem: none,
    });
  t.equal((await verify(w, uri('x.example'), { from: 'sip:alice@X.example' })).code, null);
  const foreign = await verify(w, uri('y.example'), { from: 'sip:alice@y.example' });
  t.equal(foreign.code, 'STIR_CREDENTIAL');
});

t.test('one DER certificate is read as well as PEM', async (t) => {
  const direct = ca.issue({ name: 'direct', by: root, extensions: SIGNER_EXTENSIONS });
  const body = direct.pem.replace(/-----[A-Z ]+-----|\s/g, '');
  const w = await world({ files: { '/d.cer': Buffer.from(body, 'base64') } });
  const value = forge(w, { header: { x5u: `${w.base}/d.cer` }, keyPem: direct.key });
  t.equal((await verify(w, value)).code, null);
});

// --- The URL is a stranger's ------------------------------------------------------------------

t.test('no certificate URL reaches a private address, by any spelling', async (t) => {
  const w = await world({ allow: [] });
  const { port } = new URL(w.base);
  const urls = [
    w.url,
    `http://localhost:${port}/signer.pem`,
    `http://[::ffff:127.0.0.1]:${port}/signer.pem`,
    `http://[::1]:${port}/signer.pem`,
    `http://2130706433:${port}/signer.pem`,
    `http://0x7f.1:${port}/signer.pem`,
    'https://10.0.0.1/signer.pem',
    'https://192.168.1.1/signer.pem',
    'https://169.254.169.254/signer.pem',
    'https://[fe80::1]/signer.pem',
    'https://[::ffff:10.0.0.1]/signer.pem',
  ];
  for (const x5u of urls) {
    const result = await verify(w, forge(w, { header: { x5u } }));
    t.equal(verdict(result), 'TN-Validation-Failed-A STIR_BAD_INFO', x5u);
  }
  t.equal(w.hits(), 0);
});

t.test(
  'only https, on the ports of carriers, without credentials or query, is asked',
  async (t) => {
    const w = await world({ certificates: { allowHttp: false, ports: [443, 8443] } });
    const urls = [
      w.url,
      'http://cert.example.org/c.pem',
      'ftp://cert.example.org/c.pem',
      'file:///etc/passwd',
      'cert.example.org/c.pem',
      'https://u:p@cert.example.org/c.pem',
      'https://cert.example.org/c.pem?x=1',
      'https://cert.example.org/c.pem#x',
      'https://cert.example.org:22/c.pem',
    ];
    for (const x5u of urls) {
      const result = await verify(w, forge(w, { header: { x5u } }));
      t.equal(result.code, 'STIR_BAD_INFO', x5u);
      t.notMatch(result.reason, 'u:p@', 'and what is secret in it is not told');
    }
    t.equal(w.hits(), 0);
  },
);

t.test('a redirect leads nowhere that the URL itself could not', async (t) => {
  const to =
    (location: string): Handler =>
    (_, response) => {
      response.writeHead(302, { location }).end();
    };
  const w = await world({
    files: {
      '/near': to('/signer.pem'),
      '/private': to('http://10.0.0.1/signer.pem'),
      '/metadata': to('http://169.254.169.254/latest'),
      '/file': to('file:///etc/passwd'),
      '/query': to('/signer.pem?x'),
      '/signer.pem?x': CHAIN,
      '/loop': to('/loop'),
    },
  });
  const code = async (path: string): Promise<string | null> =>
    (await verify(w, forge(w, { header: { x5u: w.base + path } }))).code;
  t.equal(await code('/near'), null);
  for (const path of ['/private', '/metadata', '/file', '/query', '/loop']) {
    t.equal(await code(path), 'STIR_BAD_INFO', path);
  }
  t.ok(w.hits() < 15, 'and a loop is left soon');
});

t.test('an origin that is slow, large, broken or down costs a bounded time', async (t) => {
  const w = await world({
    files: {
      '/slow.pem': () => undefined,
      '/large.pem': 'x'.repeat(70_000),
      '/text.pem': 'no certificate',
      '/half.pem': '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
      '/many.pem': signer.pem.repeat(9),
      '/empty.pem': '',
      '/down.pem': (_, response) => response.writeHead(503).end(),
    },
    options: { verifyMs: 200 },
    certificates: { fetchMs: 600 },
  });
  const ask = (path: string) => verify(w, forge(w, { header: { x5u: w.base + path } }));
  const begunMs = realClock.monotonicMs();
  const slow = await ask('/slow.pem');
  const tookMs = realClock.monotonicMs() - begunMs;
  t.equal(verdict(slow), 'No-TN-Validation STIR_INFO_UNREACHABLE');
  t.ok(tookMs >= 190 && tookMs < 550, `${tookMs} ms`);
  t.equal(verdict(await ask('/down.pem')), 'No-TN-Validation STIR_INFO_UNREACHABLE');
  for (const path of ['/large.pem', '/text.pem', '/half.pem', '/many.pem', '/empty.pem', '/404']) {
    t.equal(verdict(await ask(path)), 'TN-Validation-Failed-A STIR_BAD_INFO', path);
  }
});

t.test('a certificate is fetched once, however many calls wait for it', async (t) => {
  const w = await world({
    files: { '/late.pem': (_, response) => void setTimeout(() => response.end(CHAIN), 100) },
  });
  const late = forge(w, { header: { x5u: `${w.base}/late.pem` } });
  const results = await Promise.all(Array.from({ length: 50 }, () => verify(w, late)));
  t.ok(results.every(({ code }) => code === null));
  t.equal(w.hits(), 1);
  await Promise.all(Array.from({ length: 50 }, () => verify(w, late)));
  t.equal(w.hits(), 1);
});

t.test(
  'it is kept as long as its origin says, within bounds, and a failure for a while',
  async (t) => {
    let isDown = false;
    const serve =
      (control: string): Handler =>
      (_, response) => {
        response.writeHead(isDown ? 500 : 200, { 'cache-control': control }).end(CHAIN);
      };
    const w = await world({
      files: {
        '/hour.pem': serve('max-age=3600'),
        '/never.pem': serve('no-store'),
        '/year.pem': serve('max-age=31536000'),
      },
    });
    const hitsAt = async (path: string, seconds: readonly number[]): Promise<number> => {
      const before = w.hits();
      for (const second of seconds) {
        w.clock.set(NOW_MS + second * 1000);
        const iat = Math.floor(w.clock.nowMs() / 1000);
        const value = forge(w, { header: { x5u: w.base + path }, payload: { iat } });
        t.equal((await verify(w, value)).code, null, `${path} after ${second} s`);
      }
      return w.hits() - before;
    };
    t.equal(await hitsAt('/hour.pem', [0, 3599, 3601]), 2);
    t.equal(await hitsAt('/never.pem', [0, 59, 61]), 2, 'not for each call');
    t.equal(await hitsAt('/year.pem', [0, 86_399, 86_401]), 2, 'not for ever');
    isDown = true;
    t.equal(
      await hitsAt('/hour.pem', [7300, 7310]),
      1,
      'an origin that is down takes nothing back',
    );

    w.clock.set(NOW_MS);
    const bad = forge(w, { header: { x5u: `${w.base}/none.pem` } });
    const before = w.hits();
    await verify(w, bad);
    await verify(w, bad);
    t.equal(w.hits() - before, 1);
    await verify(w, bad, { nowMs: NOW_MS + 31_000 });
    t.equal(w.hits() - before, 2);
  },
);

t.test('made-up URLs neither fill the memory nor push a good certificate out', async (t) => {
  const w = await world({ certificates: { certificatesMax: 16, fetchesMax: 4 } });
  t.equal((await verify(w, signed(w))).code, null);
  const wild = Array.from({ length: 60 }, (_, index) =>
    verify(w, forge(w, { header: { x5u: `${w.base}/no/${index}` } })),
  );
  const codes = (await Promise.all(wild)).map(({ code }) => code);
  t.equal(codes.filter((code) => code === 'STIR_BAD_INFO').length, 4);
  t.equal(codes.filter((code) => code === 'STIR_INFO_UNREACHABLE').length, 56);
  t.equal((await verify(w, signed(w))).code, null);
  t.equal(w.hits(), 5);
});

t.test('one slow origin leaves room for the others', async (t) => {
  const hung = await repository(
    Object.fromEntries([0, 1, 2].map((index) => [`/${index}`, () => undefined])),
  );
  const w = await world({ certificates: { fetchesPerOriginMax: 2 }, options: { verifyMs: 150 } });
  const slow = [0, 1, 2].map((index) =>
    verify(w, forge(w, { header: { x5u: `${hung.base}/${index}` } })),
  );
  t.equal((await verify(w, signed(w))).code, null);
  const codes = (await Promise.all(slow)).map(({ code }) => code);
  t.strictSame(codes, Array(3).fill('STIR_INFO_UNREACHABLE'));
  t.equal(hung.hits(), 2);
});

// --- Files and configuration ------------------------------------------------------------------

t.test(
  'a new key and new authorities are taken from their files while the node runs',
  async (t) => {
    const next = ca.issue({ name: 'next', by: middle, extensions: SIGNER_EXTENSIONS });
    const keyFile = ca.write('current.key', signer.key);
    const trustAnchors = ca.write('current.pem', root.pem);
    const other = ca.issue({ name: 'other-root', extensions: CA_EXTENSIONS });
    const w = await world({ options: { keyFile, trustAnchors } });
    t.equal((await verify(w, signed(w))).code, null);

    writeFileSync(keyFile, 'half a file');
    await w.stir.reload();
    t.equal((await verify(w, signed(w))).code, null, 'a broken file changes nothing');
    writeFileSync(keyFile, next.key);
    await w.stir.reload();
    t.equal((await verify(w, signed(w))).code, 'STIR_INVALID', 'signed with the new key');
    const { claims, ...rest } = passportOf(parseIdentity(signed(w)), {
      from: { kind: 'tn', value: '12155551212' },
      to: { kind: 'tn', value: '12155551213' },
      date: null,
    }) ?? { claims: null, token: '' };
    t.ok(claims);
    t.ok(verifySignature(rest.token, createPublicKey(next.key)));

    writeFileSync(keyFile, `${signer.key}\n`);
    writeFileSync(trustAnchors, other.pem);
    await w.stir.reload();
    t.equal((await verify(w, signed(w))).code, 'STIR_CREDENTIAL', 'and the old path is forgotten');
  },
);

t.test('a file that changes is noticed without being told', async (t) => {
  const next = ca.issue({ name: 'noticed', by: middle, extensions: SIGNER_EXTENSIONS });
  const keyFile = ca.write('noticed-now.key', signer.key);
  const w = await world({ options: { keyFile, fileCheckMs: 10 } });
  const key = createPublicKey(next.key);
  const isNew = (): boolean => verifySignature(signed(w).split(';')[0] ?? '', key);
  t.notOk(isNew());

  writeFileSync(keyFile, next.key);
  for (let tries = 0; tries < 200 && !isNew(); tries += 1) await sleep(realClock, 10);
  t.ok(isNew());
});

t.test('a call is judged by the policy of its trunk, in words for its explanation', async (t) => {
  const w = await world();
  const query = { from: FROM, to: TO, nowMs: NOW_MS };
  const judge = (verify: 'off' | 'report' | 'require', identity: readonly string[]) =>
    w.stir.judge({ sign: false, verify }, { identity, date: null }, query);

  t.equal(await judge('off', []), null);
  t.match(await judge('report', []), {
    refusal: null,
    decision: { step: 'identity', ok: true, fix: '' },
  });
  t.match(await judge('require', []), {
    refusal: { status: 428, headers: [['Reason', /^STIR ;cause=428 /]] },
    decision: { ok: false, what: /No-TN-Validation/, fix: /Stir\.verify/ },
  });
  t.match(await judge('require', [signed(w)]), {
    refusal: null,
    decision: { ok: true, what: /TN-Validation-Passed-B by provider 709J/ },
  });
});

t.test('without authorities nobody is verified and nothing is fetched', async (t) => {
  const w = await world({ options: { trustAnchors: '' } });
  t.equal(verdict(await verify(w, signed(w))), 'No-TN-Validation STIR_CREDENTIAL');
  t.equal(w.hits(), 0);
});

t.test('bad files and keys are errors of configuration that name the key', async (t) => {
  const p384 = ca.issue({ name: 'p384-key', extensions: CA_EXTENSIONS, algorithm: 'P-384' });
  const start = (options: Partial<StirOptions>): Promise<World> => world({ options });
  for (const keyFile of [`${ca.folder}/missing`, ca.write('bad.key', 'x'), p384.keyFile]) {
    const wanted = { code: 'CONFIG_BAD_VALUE', details: { key: 'stir.keyFile' } };
    await t.rejects(start({ keyFile }), wanted);
  }
  await t.rejects(start({ trustAnchors: signer.keyFile }), { code: 'CONFIG_BAD_VALUE' });

  const config = (overrides: Parameters<typeof loadConfig>[0]['overrides'] & object) =>
    stirOptions(loadConfig({ environment: {}, overrides }));
  t.match(config({}), { ...DEFAULT_STIR, certificates: { ports: [443, 8443], allowHttp: false } });
  t.throws(() => config({ 'stir.keyFile': 'k' }), { code: 'CONFIG_BAD_VALUE' });
  t.throws(() => config({ 'stir.originationId': 'x' }), { code: 'CONFIG_BAD_VALUE' });
  t.throws(() => config({ 'stir.certificatePorts': ['0'] }), { code: 'CONFIG_BAD_VALUE' });
  const url = 'https://cert.example.org/c.pem';
  t.equal(config({ 'stir.keyFile': 'k', 'stir.certificateUrl': url }).certificateUrl, url);
});

t.test('an origination id made at the start is a UUID', async (t) => {
  const w = await world({ options: { originationId: '' } });
  const { origid } = await verify(w, signed(w));
  t.match(origid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  t.equal(readFileSync(signer.file, 'latin1'), signer.pem);
});
