/**
 * A registered contact that named the proxies on its way (RFC 3327): the call goes through them.
 */
import { existsSync } from 'node:fs';
import t from 'tap';
import { ADDON_PATH } from '../src/media/binding.ts';
import { ACCOUNT, APPLICATION, startNode } from './support/call-node.ts';
import { startPhone } from './support/phone.ts';

const skip = existsSync(ADDON_PATH) ? false : 'the media addon is not built';

t.test(
  'a call to a contact behind Path goes to the first proxy, with the rest as Route',
  { skip },
  async (t) => {
    // What answers plays the proxy: it is who the INVITE has to come to.
    const proxy = await startPhone({ onInvite: 'answer' });
    const route = [`<sip:p2@127.0.0.1:${proxy.sipPort};lr>`, '<sip:p1@192.0.2.9;lr;ob>'];
    const uri = 'sip:alice@192.0.2.77:5099';
    const node = await startNode({
      contactsOf: () => [{ q: 1, target: { uri, peer: null, trusted: false, route } }],
    });
    t.teardown(async () => {
      await node.close();
      await proxy.close();
    });
    node.router.originate({
      accountSid: ACCOUNT,
      from: '+15551234567',
      application: APPLICATION,
      target: { kind: 'sip', uri: 'sip:alice@phones.example', credentials: null, headers: [] },
      ringTimeoutMs: 5_000,
      statusCallback: null,
    });
    const invite = await proxy.waitFor(({ firstLine }) => firstLine.startsWith('INVITE'));
    t.match(invite.firstLine, `INVITE ${uri} SIP/2.0`);
    t.same(invite.headers.get('route'), route);
  },
);
