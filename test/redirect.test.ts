/**
 * 3xx to an INVITE of ours: which places are tried, with whose credentials, how often, and what is
 * told when none is. On data alone, then through a trunk of a whole gateway.
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { DEFAULT_LEG_POLICY, type LegGroup } from '../src/call/leg.ts';
import { RedirectGuard } from '../src/call/redirect.ts';
import { ADDON_PATH } from '../src/media/binding.ts';
import type { HeaderField } from '../src/sip/message.ts';
import type { SessionEnd } from '../src/sip/session.ts';
import { DEFAULT_TRUNK_POLICY } from '../src/store/trunk-policy.ts';
import { startGateway } from './support/gateway.ts';
import { delay, header, startPhone } from './support/phone.ts';

const FROM = { uri: 'sip:+4930@gw.example', peer: null, trusted: true, gateway: 'sip:gw.example' };

function group(mode: 'follow' | 'refuse' = 'follow', redirectsMax = 3): LegGroup {
  return {
    targets: [FROM],
    trunkSid: null,
    fromUri: 'sip:us@here',
    fromDisplay: '',
    headers: [['Diversion', '<sip:first@here>;reason=unknown']],
    credentials: { username: 'u', password: 'p', realm: null },
    policy: { ...DEFAULT_LEG_POLICY, redirect: { mode, redirectsMax } },
    failover: DEFAULT_TRUNK_POLICY.failover,
  };
}

function moved(contact: string, status = 302): SessionEnd {
  const headers: HeaderField[] = [['Contact', contact]];
  return { by: 'remote', code: 'SIP_REFUSED', status, reason: 'Moved', headers };
}

t.test('contacts are tried by q, each with what it may see', async (t) => {
  const guard = new RedirectGuard([group()]);
  const contact = '<sip:b@gw.example>;q=0.5, "x, y" <sip:a@else.example;method=BYE?X=1>;q=0.9';
  const { groups } = guard.follow(moved(contact), group(), FROM);
  t.match(groups, [
    { targets: [{ uri: 'sip:a@else.example', trusted: false }], credentials: null },
    { targets: [{ uri: 'sip:b@gw.example', trusted: true }], credentials: { username: 'u' } },
  ]);
  const headers = new Map(groups[0]?.headers);
  t.match(headers.get('Diversion'), /gw\.example>;reason=unconditional.*, <sip:first@here>/);
  t.match(headers.get('History-Info'), /index=1, <sip:a@else\.example;cause=302>;index=1\.1;mp=1/);
});

t.test('what is not followed', async (t) => {
  const one = '<sip:a@else.example>';
  const look = (end: SessionEnd, asked = group()): string | number => {
    const { groups, why } = new RedirectGuard([asked]).follow(end, asked, FROM);
    return groups.length > 0 ? groups.length : why;
  };
  t.equal(look(moved(one)), 1);
  t.match(look(moved(one), group('refuse')), /not followed: <sip:a@else/);
  t.match(look(moved('<sip:+4930@gw.example:5060>')), /loops/);
  t.equal(look(moved(one, 305)), '');
  t.equal(look(moved(one, 380)), '');
  t.match(look(moved('<mailto:a@b>, <tel:+1>, nonsense<')), /loops/);

  const guard = new RedirectGuard([group()]);
  for (let at = 0; at < 3; at += 1) {
    t.equal(guard.follow(moved(`<sip:${at}@x.example>`), group(), FROM).groups.length, 1);
  }
  t.match(guard.follow(moved('<sip:4@x.example>'), group(), FROM).why, /too many/);
});

/** Answers every INVITE with 302 to `contact`; its port. */
async function moving(t: Test, contact: string): Promise<number> {
  const socket = createSocket('udp4');
  socket.on('message', (data, peer) => {
    const text = data.toString('latin1');
    if (!text.startsWith('INVITE')) return;
    const kept = text
      .split('\r\n')
      .filter((line) => /^(?:via|from|to|call-id|cseq):/i.test(line))
      .map((line) => (/^to:/i.test(line) ? `${line};tag=m` : line));
    const lines = ['SIP/2.0 302 Moved', ...kept, `Contact: <${contact}>`, 'Content-Length: 0'];
    socket.send(`${lines.join('\r\n')}\r\n\r\n`, peer.port, peer.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  t.teardown(() => socket.close());
  return (socket.address() as AddressInfo).port;
}

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

t.test('through a trunk: followed, and refused', { skip, timeout: 30_000 }, async (t) => {
  const gateway = await startGateway({ TANDEM_DRAIN_DEADLINE_MS: '0' });
  t.teardown(() => gateway.stop());
  const phone = await startPhone();
  t.teardown(() => phone.close());
  const port = await moving(t, phone.uri);
  for (const mode of ['follow', 'refuse']) {
    const made = await gateway.rest('POST', 'Trunks.json', {
      FriendlyName: mode,
      NumberPattern: mode === 'follow' ? '+49*' : '+44*',
      Gateways: JSON.stringify([{ uri: `sip:127.0.0.1:${port};transport=udp`, priority: 1 }]),
      Policy: JSON.stringify({ health: { optionsIntervalS: 0 }, redirect: { mode } }),
    });
    t.equal(made.status, 201, made.text);
  }
  const place = async (To: string): Promise<string> => {
    const form = { To, From: '+4930999', Twiml: '<Response><Pause length="20"/></Response>' };
    const { json } = await gateway.rest('POST', 'Calls.json', form);
    for (let tries = 0; tries < 100; tries += 1) {
      const { json: call } = await gateway.rest('GET', `Calls/${json.sid}.json`);
      if (['in-progress', 'failed'].includes(call.status)) return call.status;
      await delay(50);
    }
    return 'neither';
  };
  t.equal(await place('+4930123'), 'in-progress');
  const invite = await phone.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
  t.match(header(invite, 'diversion'), /127\.0\.0\.1/);
  const count = phone.received.length;
  t.equal(await place('+44123'), 'failed');
  t.equal(phone.received.length, count, 'nobody else was called');
});
