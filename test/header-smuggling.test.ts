/**
 * Header smuggling, through a whole gateway: fields that only trusted carriers may send, written in
 * every way that a parser could take for another name, reach neither the application nor the next
 * carrier when they come from somebody who is not trusted. The policy alone is
 * `sip-headers-policy.test.ts`.
 */
import { existsSync } from 'node:fs';
import t from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { startAppServer } from './support/app-server.ts';
import { startGateway, TEST_TOKEN } from './support/gateway.ts';
import { startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'needs the media addon';

const CLAIM = '<sip:+15559999@evil.example>';
const SMUGGLED = [
  `P-Asserted-Identity: ${CLAIM}`,
  `P-Asserted-Identity : ${CLAIM}`,
  `p-asserted-identity\t:${CLAIM}`,
  `P-Asserted-Identity:\r\n ${CLAIM}`,
  `P-ASSERTED-IDENTITY: "x",\r\n\t${CLAIM}`,
  `P-Preferred-Identity: ${CLAIM}`,
  `Remote-Party-ID : ${CLAIM};party=calling;screen=yes`,
  `Diversion: ${CLAIM};reason=unconditional`,
  `Diversion :\r\n ${CLAIM};reason=unconditional`,
  `History-Info: ${CLAIM};index=1`,
  'Privacy : id',
  `X-Plain: one\r\n P-Asserted-Identity: ${CLAIM}`,
  `X-Plain: one\rP-Asserted-Identity: ${CLAIM}`,
  `Subject: a\nP-Asserted-Identity: ${CLAIM}`,
];

t.test(
  'header smuggling: nothing of it reaches an application or a carrier',
  { skip },
  async (t) => {
    const app = await startAppServer({ authToken: TEST_TOKEN });
    const carrier = await startPhone({ onInvite: 486 });
    const gateway = await startGateway({ TANDEM_SIP_TRUSTED: '192.0.2.0/24' });
    t.teardown(async () => {
      await gateway.stop();
      await Promise.all([carrier.close(), app.close()]);
    });
    app.on('/voice', () => '<Response><Reject/></Response>');
    const make = async (path: string, form: Record<string, string>): Promise<string> => {
      const made = await gateway.rest('POST', `${path}.json`, form);
      t.equal(made.status, 201, made.text);
      return made.json.sid;
    };
    const Policy = JSON.stringify({ health: { optionsIntervalS: 0 } });
    await make('Trunks', { FriendlyName: 'in', InboundAddress: '127.0.0.1', Policy });
    const Gateways = JSON.stringify([{ uri: `sip:127.0.0.1:${carrier.sipPort}` }]);
    const out = await make('Trunks', {
      FriendlyName: 'out',
      NumberPattern: '+49*',
      Gateways,
      Policy,
    });
    await make('IncomingPhoneNumbers', {
      PhoneNumber: '+15550100',
      VoiceUrl: `${app.base}/voice`,
    });
    await make('IncomingPhoneNumbers', { PhoneNumber: '+4930100', TrunkSid: out });

    let passedOn = 0;
    for (const line of SMUGGLED) {
      const shown = JSON.stringify(line);
      const before = app.seen.length;
      const first = await startPhone({ user: '+15550001', headers: [line] });
      await first.call('sip:+15550100@127.0.0.1', gateway.sipPort);
      await first.close();
      const asked = app.seen.slice(before).filter(({ path }) => path === '/voice');
      for (const { params } of asked) {
        t.equal(params.From, '+15550001', shown);
        const believed = Object.entries(params).filter(
          ([name]) => !name.startsWith('SipHeader_X-'),
        );
        t.notMatch(JSON.stringify(believed), '5559999', shown);
        t.equal(params.ForwardedFrom ?? '', '', shown);
      }

      carrier.received.length = 0;
      const second = await startPhone({ user: '+15550001', headers: [line] });
      await second.call('sip:+4930100@127.0.0.1', gateway.sipPort);
      await second.close();
      passedOn += carrier.received.length;
      for (const { headers } of carrier.received) {
        const trusted = ['p-asserted-identity', 'p-preferred-identity', 'remote-party-id'];
        for (const name of [...trusted, 'diversion', 'history-info']) {
          t.notMatch((headers.get(name) ?? []).join(), '5559999', `${name} of ${shown}`);
        }
        t.notMatch((headers.get('from') ?? []).join(), '5559999', shown);
      }
    }
    t.ok(app.seen.length > SMUGGLED.length / 2, 'most of them were calls');
    t.ok(passedOn > SMUGGLED.length / 2, 'and went on to the carrier');
  },
);
