/**
 * The gateways of a trunk as a client writes and reads them: one JSON parameter of our own trunks,
 * or one origination URL after another in trunking v1. Whom a call is tried at first is not here.
 */
import { Type } from 'typebox';
import type { Clock } from '../core/clock.ts';
import { newSid } from '../core/sid.ts';
import type { JsonObject, TrunkGateway } from '../store/store.ts';
import { JsonParameter } from './json-parameter.ts';

export const GATEWAYS_MAX = 32;
const SHARE_MAX = 65_535;
const FRIENDLY_NAME_MAX = 64;

const GATEWAYS = new JsonParameter({
  name: 'Gateways',
  schema: Type.Array(
    Type.Object(
      {
        uri: Type.String({
          pattern: '^sips?:[^\\s<>"]{1,255}$',
          description: 'must be a sip: or sips: URI',
        }),
        sid: Type.Optional(Type.String({ maxLength: 34 })),
        friendlyName: Type.Optional(Type.String({ maxLength: FRIENDLY_NAME_MAX })),
        priority: Type.Optional(share(0)),
        weight: Type.Optional(share(1)),
        enabled: Type.Optional(Type.Boolean({ description: 'must be true or false' })),
      },
      { additionalProperties: false },
    ),
    { maxItems: GATEWAYS_MAX, description: `must be a list of at most ${GATEWAYS_MAX}` },
  ),
});

function share(minimum: number) {
  const description = `must be a whole number from ${minimum} to ${SHARE_MAX}`;
  return Type.Integer({ minimum, maximum: SHARE_MAX, description });
}

export interface GivenGateway {
  readonly uri: string;
  readonly sid?: string;
  readonly friendlyName?: string;
  readonly priority?: number;
  readonly weight?: number;
  readonly enabled?: boolean;
}

/** '' is none. */
export function parseGateways(text: string): readonly GivenGateway[] {
  return text === '' ? [] : GATEWAYS.parse(text);
}

export function newGateway(given: GivenGateway, clock: Clock): TrunkGateway {
  const nowMs = clock.nowMs();
  return {
    sid: newSid('OU', clock),
    friendlyName: given.friendlyName ?? '',
    uri: given.uri,
    priority: given.priority ?? 10,
    weight: given.weight ?? 10,
    enabled: given.enabled ?? true,
    dateCreatedMs: nowMs,
    dateUpdatedMs: nowMs,
  };
}

/**
 * The whole list anew. One that was there, by its sid or else its URI, stays itself, so that what
 * is known of its health does not begin again.
 */
export function replacedGateways(
  given: readonly GivenGateway[],
  known: readonly TrunkGateway[],
  clock: Clock,
): readonly TrunkGateway[] {
  const left = new Set(known);
  const take = (isSame: (one: TrunkGateway) => boolean): TrunkGateway | undefined => {
    const found = [...left].find(isSame);
    if (found) left.delete(found);
    return found;
  };
  return given.map((one) => {
    const fresh = newGateway(one, clock);
    const former = take(({ sid }) => sid === one.sid) ?? take(({ uri }) => uri === one.uri);
    if (!former) return fresh;
    const { sid, dateCreatedMs } = former;
    const friendlyName = one.friendlyName ?? former.friendlyName;
    return { ...fresh, sid, dateCreatedMs, friendlyName };
  });
}

/** As the parameter takes it back. */
export function gatewayJson(gateway: TrunkGateway): JsonObject {
  const { sid, uri, friendlyName, priority, weight, enabled } = gateway;
  return { sid, uri, friendlyName, priority, weight, enabled };
}
