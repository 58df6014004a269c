/**
 * Through which gateways a number goes out, in the order they are tried: routes by pattern,
 * priority and cost, then trunks by their own patterns; gateways by priority and weight; what is
 * down or resting last. Pure: rows and states come in, an order and the reasons for it go out.
 */
import type { TrunkSid } from '../core/sid.ts';
import type { TrunkRow } from '../store/store.ts';
import type { Decisions } from './decision.ts';
import type { RouteRule, TrunkGateway, TrunkRoute } from './route.ts';
import type { GatewayRef, GatewayState } from './trunk-health.ts';

export interface TrunkWay {
  readonly trunk: TrunkRoute;
  readonly gateway: TrunkGateway;
  readonly state: GatewayState;
}

/** The trunks that may take `number`, best first; the order is the one that `RouteRow` states. */
export function chooseTrunks(o: {
  readonly number: string;
  readonly trunks: readonly TrunkRoute[];
  readonly routes: readonly RouteRule[];
  readonly decisions: Decisions;
}): readonly TrunkRoute[] {
  const { number, trunks, routes, decisions } = o;
  const chosen = new Set<TrunkRoute>();
  const enabled = routes.filter((route) => route.enabled);
  const taking = enabled.filter(({ pattern }) => matchesPattern(number, pattern));
  for (const route of taking.sort(byRank)) {
    const trunk = trunks.find(({ sid }) => sid === route.trunkSid);
    if (trunk === undefined || chosen.has(trunk)) continue;
    decisions.ok('route', `${number} matches ${route.pattern} of route ${route.sid}`);
    if (isUsable(trunk, decisions)) chosen.add(trunk);
  }
  const routed = new Set(enabled.map(({ trunkSid }) => trunkSid));
  for (const trunk of trunks) {
    if (routed.has(trunk.sid)) continue;
    const pattern = trunk.numberPatterns.find((one) => matchesPattern(number, one));
    if (pattern === undefined) continue;
    decisions.ok('route', `${number} matches ${pattern} of trunk ${trunk.name}`);
    if (isUsable(trunk, decisions)) chosen.add(trunk);
  }
  if (chosen.size === 0) tellNone(o);
  return [...chosen];
}

/** The trunk that a number is on, whatever routes and patterns say; none when it cannot be used. */
export function trunkOfNumber(o: {
  readonly number: string;
  readonly trunks: readonly TrunkRoute[];
  readonly trunkSid: TrunkSid;
  readonly decisions: Decisions;
}): readonly TrunkRoute[] {
  const { number, trunks, trunkSid, decisions } = o;
  const trunk = trunks.find(({ sid }) => sid === trunkSid);
  if (trunk === undefined || !isUsable(trunk, decisions)) return [];
  decisions.ok('route', `${number} is a number of trunk ${trunk.name}`);
  return [trunk];
}

/** The gateways of `trunks` in the order to try; never fewer than there are. */
export function orderWays(o: {
  readonly trunks: readonly TrunkRoute[];
  readonly stateOf: (ref: GatewayRef) => GatewayState;
  readonly random: () => number;
  readonly decisions: Decisions;
}): readonly TrunkWay[] {
  const { stateOf, random, decisions } = o;
  const ways = o.trunks.flatMap((trunk) =>
    orderGateways(trunk.gateways, random).map((gateway) => {
      return { trunk, gateway, state: stateOf({ trunkSid: trunk.sid, uri: gateway.uri }) };
    }),
  );
  const rank = (way: TrunkWay): number => BAD_STATES.indexOf(way.state);
  const ordered = ways.toSorted((a, b) => rank(a) - rank(b));
  const isAnyGood = ordered.some((way) => rank(way) < 0);
  for (const way of ordered) {
    const { trunk, gateway, state } = way;
    const what = `gateway ${gateway.uri} of trunk ${trunk.name} is ${state}`;
    if (rank(way) < 0) decisions.ok('gateway', what);
    else decisions.ok('gateway', `${what}: tried ${isAnyGood ? 'last' : 'all the same'}`);
  }
  return ordered;
}

/** Worse comes later. */
const BAD_STATES: readonly GatewayState[] = ['resting', 'down'];

/** True when `number` is taken by one of the globs. Linear time: one backtrack point. */
export function matchesPattern(number: string, pattern: string): boolean {
  let at = 0;
  let inPattern = 0;
  let star = -1;
  let starAt = 0;
  while (at < number.length) {
    const want = pattern[inPattern];
    if (want === '*') {
      star = inPattern;
      starAt = at;
      inPattern += 1;
    } else if (want === '?' || want === number[at]) {
      at += 1;
      inPattern += 1;
    } else if (star >= 0) {
      starAt += 1;
      at = starAt;
      inPattern = star + 1;
    } else return false;
  }
  while (pattern[inPattern] === '*') inPattern += 1;
  return inPattern === pattern.length;
}

/**
 * Gateways in the order to try: by priority, within one priority drawn by weight without
 * replacement. Weight 0 still gets a small chance (RFC 2782: "a very small chance").
 */
export function orderGateways(
  gateways: readonly TrunkGateway[],
  random: () => number,
): TrunkGateway[] {
  if (gateways.length < 2) return [...gateways];
  const rest = gateways.toSorted((a, b) => a.priority - b.priority);
  const ordered: TrunkGateway[] = [];
  while (rest.length > 0) {
    const priority = rest[0]?.priority;
    const end = rest.findIndex((gateway) => gateway.priority !== priority);
    const count = end < 0 ? rest.length : end;
    let total = 0;
    for (let i = 0; i < count; i += 1) total += weightOf(rest[i]);
    let draw = random() * total;
    let pick = 0;
    while (pick < count - 1 && draw >= weightOf(rest[pick])) {
      draw -= weightOf(rest[pick]);
      pick += 1;
    }
    ordered.push(...rest.splice(pick, 1));
  }
  return ordered;
}

function weightOf(gateway: TrunkGateway | undefined): number {
  return Math.max(gateway?.weight ?? 0, 0.01);
}

function byRank(a: RouteRule, b: RouteRule): number {
  return (
    lengthOf(b.pattern) - lengthOf(a.pattern) ||
    a.priority - b.priority ||
    a.costPerMinute - b.costPerMinute ||
    a.dateCreatedMs - b.dateCreatedMs ||
    (a.sid < b.sid ? -1 : 1)
  );
}

/** A whole number is longer than any prefix. */
function lengthOf(pattern: string): number {
  const star = pattern.indexOf('*');
  return star < 0 ? Number.MAX_SAFE_INTEGER : star;
}

function isUsable(trunk: TrunkRoute, decisions: Decisions): boolean {
  const { sid, name } = trunk;
  if (!trunk.isEnabled) {
    decisions.no('trunk', `trunk ${name} is switched off`, `Enabled of trunk ${sid}`);
  } else if (trunk.gateways.length === 0) {
    const isTls = trunk.tlsOnly ? ' over TLS, which it wants,' : '';
    decisions.no('gateway', `trunk ${name} has no gateway${isTls}`, `Gateways of trunk ${sid}`);
  } else return true;
  return false;
}

/** Enough patterns to see what is meant, and not all of a thousand. */
const PATTERNS_TOLD_MAX = 5;

function tellNone(o: Parameters<typeof chooseTrunks>[0]): void {
  const { number, trunks, routes, decisions } = o;
  if (decisions.list.some(({ ok }) => !ok)) return;
  const enabled = routes.filter((route) => route.enabled);
  const routed = new Set(enabled.map(({ trunkSid }) => trunkSid));
  const patterns = [
    ...enabled.map((route) => route.pattern),
    // A trunk that has routes is chosen by them alone.
    ...trunks.flatMap(({ sid, numberPatterns }) => (routed.has(sid) ? [] : numberPatterns)),
  ];
  if (patterns.length === 0) {
    decisions.no('route', `no trunk takes any number`, 'NumberPattern of a trunk, or add a route');
    return;
  }
  const told = patterns.slice(0, PATTERNS_TOLD_MAX).join(', ');
  const more = patterns.length > PATTERNS_TOLD_MAX ? ', …' : '';
  const what = `number ${number} matches none of ${told}${more}`;
  decisions.no('route', what, 'the number as it is dialled, or NumberPattern of a trunk');
}

/** Gateways of a row that a call may use. */
export function usableGateways(row: TrunkRow): readonly TrunkGateway[] {
  return row.gateways.filter(({ enabled, uri }) => enabled && (!row.tlsOnly || isSecure(uri)));
}

function isSecure(uri: string): boolean {
  return /^sips:/i.test(uri) || /;transport=(?:tls|wss)(?:;|$)/i.test(uri);
}
