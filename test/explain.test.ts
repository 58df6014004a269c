/**
 * Why was my call rejected: a carrier's worst day on a whole gateway, told by a dry run, by the
 * trace of the refused INVITE and by the command line, each in one sentence with the key to change.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { startGateway, TEST_SID, TEST_TOKEN, type TestGateway } from './support/gateway.ts';
import { header, startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const NUMBER = '+49301234567';

const G729 = [
  'v=0',
  'o=- 1 1 IN IP4 127.0.0.1',
  's=-',
  'c=IN IP4 127.0.0.1',
  't=0 0',
  'm=audio 40000 RTP/AVP 18',
  'a=rtpmap:18 G729/8000',
  '',
].join('\r\n');
const PCMU = G729.replaceAll('18', '0').replace('G729', 'PCMU');

interface World {
  readonly gateway: TestGateway;
  readonly trunk: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test reads whatever the API answers.
  explain(form: Record<string, string>): Promise<any>;
}

async function world(t: Test, policy: object = {}): Promise<World> {
  const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '::1/128' });
  t.teardown(() => gateway.stop());
  const { json } = await gateway.rest('POST', 'Trunks.json', {
    FriendlyName: 'Carrier',
    InboundAddress: '192.0.2.0/24',
    Gateways: JSON.stringify([{ uri: 'sip:192.0.2.1' }]),
    NumberPattern: '+49*',
    Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, ...policy }),
  });
  await gateway.rest('POST', 'IncomingPhoneNumbers.json', {
    PhoneNumber: NUMBER,
    VoiceUrl: 'http://app.example/voice',
  });
  return {
    gateway,
    trunk: json.sid,
    async explain(form) {
      const answer = await gateway.rest('POST', 'Explain.json', { From: '+491', ...form });
      t.equal(answer.status, 200, answer.text);
      return answer.json;
    },
  };
}

t.test(
  'a carrier’s worst day, each in one sentence with the key to change',
  { skip },
  async (t) => {
    const { explain, trunk } = await world(t);
    const Source = '192.0.2.7';

    const good = await explain({ To: NUMBER, Source, Sdp: PCMU });
    t.match(good, {
      outcome: 'admitted',
      direction: 'inbound',
      trunk_sid: trunk,
      to: NUMBER,
      application: 'http://app.example/voice',
    });
    t.match(good.verdict, `Admitted from trunk "Carrier" (${trunk}) as a call to ${NUMBER}`);
    t.ok(good.decisions.every(({ ok }: { ok: boolean }) => ok));

    const format = await explain({ To: '0301234567', Source });
    t.match(format, { outcome: 'refused', sip_status: 404, code: 'NO_ROUTE' });
    t.equal(
      format.verdict,
      `Refused with 404: 0301234567 is no number of ours, but ${NUMBER} is: ` +
        `change Policy.numbers.inbound and Policy.numbers.countryCode of trunk ${trunk}.`,
    );

    const stranger = await explain({ To: NUMBER, Source: '203.0.113.9' });
    t.match(stranger, { outcome: 'refused', sip_status: 403 });
    t.equal(
      stranger.verdict,
      `Refused with 403: 203.0.113.9 is no source of trunk "Carrier" (${trunk}): ` +
        'change InboundAddress or an access list of that trunk.',
    );

    const codec = await explain({ To: NUMBER, Source, Sdp: G729 });
    t.match(codec, { outcome: 'refused', sip_status: 488, code: 'NO_COMMON_CODEC' });
    t.match(codec.verdict, /G729\/8000: change sip\.codecs, or what the caller offers\.$/);
  },
);

t.test('a trunk’s own codecs and limits are explained with their keys', { skip }, async (t) => {
  const { explain, trunk, gateway } = await world(t, {
    codecs: ['opus'],
    limits: { callsOutMax: 1 },
  });
  const codec = await explain({ To: NUMBER, Source: '192.0.2.7', Sdp: PCMU });
  t.equal(
    codec.verdict,
    `Refused with 488: offered PCMU, the trunk has opus: change Policy.codecs of trunk ${trunk}.`,
  );
  const silent = await startPhone({ onInvite: 'ring' });
  t.teardown(() => silent.close());
  const uri = `sip:127.0.0.1:${silent.sipPort}`;
  await gateway.rest('POST', `Trunks/${trunk}.json`, { Gateways: JSON.stringify([{ uri }]) });
  const before = await explain({ To: '+4930', From: '+4930' });
  t.match(before, { direction: 'outbound', outcome: 'admitted' });
  t.match(before.targets, [`sip:+4930@127.0.0.1:${silent.sipPort}`]);
  const call = { To: '+4930', From: '+491', Twiml: '<Response/>' };
  const { json } = await gateway.rest('POST', 'Calls.json', call);
  await silent.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  const full = await explain({ To: '+4930', From: '+4930' });
  t.match(full, { outcome: 'refused', code: 'TRUNK_LIMIT', sip_status: 503 });
  t.match(full.verdict, 'change Policy.limits.callsOutMax of that trunk.');
  const none = await explain({ To: '+33123456', From: '+4930' });
  t.match(none, { outcome: 'refused', code: 'NO_TRUNK' });
  t.match(none.verdict, 'number +33123456 matches none of +49*');
  await gateway.rest('POST', `Calls/${json.sid}.json`, { Status: 'completed' });
});

t.test('a refused INVITE is found by its Call-ID', { skip }, async (t) => {
  const { gateway, trunk } = await world(t);
  const phone = await startPhone();
  t.teardown(() => phone.close());
  const refused = await phone.call(`sip:${NUMBER}@127.0.0.1`, gateway.sipPort);
  t.match(refused.firstLine, '403');
  const callId = header(refused, 'call-id');
  const path = `Traces.json?CallId=${encodeURIComponent(callId)}`;

  const { json } = await gateway.rest('GET', path);
  t.match(json, { call_sid: null, code: 'SIP_FORBIDDEN', fault: 'caller', sip_status: 403 });
  t.match(json.verdict, `127.0.0.1 is no source of trunk "Carrier" (${trunk})`);
  const kinds = json.trace.map(({ kind }: { kind: string }) => kind);
  for (const kind of ['sip', 'decision', 'call']) t.ok(kinds.includes(kind), kind);
  t.equal((await gateway.rest('GET', 'Traces.json?CallId=unknown')).status, 404);

  const shown = await tandem(gateway, ['trace', callId]);
  t.equal(shown.code, 0, shown.text);
  t.match(shown.text, /INVITE/);
  t.match(shown.text, /is no source of trunk "Carrier".*change InboundAddress/);
});

t.test('the command line tells it as a table and a sentence', { skip }, async (t) => {
  const { gateway } = await world(t);
  const folder = mkdtempSync(join(tmpdir(), 'tandem-explain-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const sdp = join(folder, 'offer.sdp');
  writeFileSync(sdp, G729.replaceAll('\r\n', '\n'));
  const of = (...more: string[]) =>
    tandem(gateway, ['explain', '--from', '+491', '--to', NUMBER, ...more]);

  const good = await of('--source', '192.0.2.7:5060');
  t.equal(good.code, 0, good.text);
  t.match(good.text, /^call {6}inbound, admitted/);
  t.match(good.text, /ok {3}number {4}\+49301234567 is number/);
  t.match(good.text, /\nAdmitted from trunk "Carrier".*http:\/\/app\.example\/voice is asked/);
  const bad = await of('--source', '192.0.2.7', '--sdp', sdp, '--transport', 'tcp');
  t.equal(bad.code, 1);
  t.match(bad.text, /NO {3}codec/);
  t.match(bad.text, /\nRefused with 488: /);
  t.equal((await tandem(gateway, ['explain'])).code, 2);
  const missing = await of('--sdp', '/nonexist');
  t.equal(missing.code, 2, missing.text);
  t.equal(missing.text, 'tandem: --sdp /nonexist: there is no such file\n');
  const wrong = await of('--source', 'nowhere');
  t.match(wrong.text, /Source is no IP address/);
});

function tandem(
  gateway: TestGateway,
  words: readonly string[],
): Promise<{ code: number; text: string }> {
  const env = {
    ...process.env,
    TANDEM_DATA_DIR: gateway.dataDir,
    TANDEM_HTTP_LISTEN: gateway.httpBase.replace('http://', ''),
    TANDEM_ACCOUNT_SID: TEST_SID,
    TANDEM_ACCOUNT_AUTH_TOKEN: TEST_TOKEN,
  };
  return new Promise((resolve) => {
    execFile(process.execPath, ['src/cli.ts', ...words], { cwd: ROOT, env }, (error, out, err) => {
      const code = error === null ? 0 : Number(error.code ?? 1);
      resolve({ code, text: out + err });
    });
  });
}
