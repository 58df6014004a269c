/**
 * Host names that mean one trunk or one domain when they stand in a Request-URI. A name has one
 * meaning over all accounts: who claims it second is told so. Not DNS: nobody is asked whether the
 * name exists.
 */
import { isIP } from 'node:net';
import { GatewayError } from '../core/errors.ts';
import type { Store } from '../store/store.ts';

/** RFC 1035 §2.3.4. */
const NAME_MAX = 253;
const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** The owner's own row and one that is not. */
const HOLDERS_MAX = 2;

/** As it is kept: names compare without case (RFC 3261 §19.1.4). */
export function hostName(text: string): string {
  return text.trim().toLowerCase();
}

/** Of a `DomainName` parameter. */
export function domainName(text: string): string {
  const name = hostName(text);
  const problem = hostProblem(name);
  if (problem === null) return name;
  throw new GatewayError('SIP_DOMAIN_INVALID', { name: text.slice(0, 64), problem });
}

/** Why it is no host name (RFC 3261 §25.1), or null. */
export function hostProblem(name: string): string | null {
  if (name === '') return 'it is empty';
  if (name.length > NAME_MAX) return `it has more than ${NAME_MAX} characters`;
  // An address is matched by where a call comes from, never claimed as a name.
  if (isIP(name) !== 0) return 'it is an IP address';
  const labels = name.split('.');
  if (labels.every((label) => LABEL.test(label))) return null;
  return 'it must be letters, digits and "-" between dots';
}

/** Throws when a name is the node's own, or another row than `ownSid` has it. */
export async function checkHosts(
  { store, ownHosts }: { store: Store; ownHosts: ReadonlySet<string> },
  hosts: readonly string[],
  owner: { readonly sid: string | null; readonly code: 'SIP_DOMAIN_TAKEN' | 'TRUNK_DOMAIN_TAKEN' },
): Promise<void> {
  for (const name of new Set(hosts)) {
    // Whoever had it would get every account's calls to this node.
    if (ownHosts.has(name)) throw new GatewayError('SIP_DOMAIN_TAKEN', { name });
    const [trunks, claims, domains] = await Promise.all([
      store.trunks.all(HOLDERS_MAX, [{ field: 'domainName', op: '=', value: name }]),
      // With its quotes: a name within the list, not the end of another.
      store.trunks.all(HOLDERS_MAX, [
        { field: 'inboundDomains', op: 'contains', value: JSON.stringify(name) },
      ]),
      store.sipDomains.all(HOLDERS_MAX, [{ field: 'domainName', op: '=', value: name }]),
    ]);
    const holders = [...trunks, ...claims, ...domains];
    if (holders.some(({ sid }) => sid !== owner.sid)) throw new GatewayError(owner.code, { name });
  }
}
