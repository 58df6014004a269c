/** Trunks for tests, as the route table tells them: what a test does not say is the default. */

import type { TrunkRoute } from '../../src/call/route.ts';
import { realClock } from '../../src/core/clock.ts';
import type { AccountSid } from '../../src/core/sid.ts';
import { newSid } from '../../src/core/sid.ts';
import { type TrunkPolicyChange, trunkPolicy } from '../../src/store/trunk-policy.ts';

export type TrunkChange = Partial<Omit<TrunkRoute, 'policy'>> & {
  readonly policy?: TrunkPolicyChange;
};

export function trunkRoute({ policy = {}, ...change }: TrunkChange = {}): TrunkRoute {
  const sid = change.sid ?? newSid('TK', realClock);
  return {
    sid,
    accountSid: `AC${'0'.repeat(32)}` as AccountSid,
    name: sid,
    isEnabled: true,
    tlsOnly: false,
    numberPatterns: ['*'],
    gateways: [{ uri: 'sip:gw.example', priority: 1, weight: 1 }],
    credentials: null,
    policy: trunkPolicy(policy),
    ...change,
  };
}
