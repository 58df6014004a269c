/**
 * Who a certificate says its holder is, for SIP: the domains among its subjectAltNames, and whether
 * one of them is the host that was asked for. Whether anybody trusted signed it is not asked here.
 *
 * RFC 5922 §7. The common name is never read: RFC 5922 §7.1 wants it only of certificates without
 * a subjectAltName, and RFC 9525 §2 from nobody any more.
 */
import type { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';

/** The SIP domains in lower case: of dNSName, and of `sip:` URIs without a user (§7.1). */
export function domainsOf(certificate: X509Certificate): string[] {
  const domains = new Set<string>();
  for (const entry of splitAltNames(certificate.subjectAltName ?? '')) {
    const colon = entry.indexOf(':');
    const kind = entry.slice(0, colon);
    const value = entry.slice(colon + 1);
    if (kind === 'DNS') domains.add(plainName(value));
    const host = kind === 'URI' ? SIP_DOMAIN.exec(value)?.[1] : undefined;
    if (host !== undefined) domains.add(plainName(host));
  }
  domains.delete('');
  return [...domains];
}

/**
 * Whether the holder may speak for `host` (§7.2): the whole name, whatever its case. An address is
 * looked for among the addresses. `hasWildcards`: `*.example.com` stands for one label more.
 */
export function namesHost(
  certificate: X509Certificate,
  host: string,
  hasWildcards: boolean,
): boolean {
  if (isIP(host) !== 0) return certificate.checkIP(host) !== undefined;
  const name = plainName(host);
  const domains = domainsOf(certificate);
  if (domains.includes(name)) return true;
  return hasWildcards && domains.includes(wildcardOf(name));
}

/** `*.example.com` for `sip.example.com`; '' when that would stand for a whole top level. */
export function wildcardOf(name: string): string {
  const parent = name.slice(name.indexOf('.') + 1);
  return name.includes('.') && parent.includes('.') ? `*.${parent}` : '';
}

/** A URI with a user names a person, not a domain. */
const SIP_DOMAIN = /^sip:([^@;?:/]+)(?::\d+)?$/i;

function plainName(text: string): string {
  return text.toLowerCase().replace(/\.$/, '');
}

/** Node puts into quotes what could be mistaken for two entries; such a name is no host's. */
function splitAltNames(text: string): string[] {
  return text.split(/, (?=(?:[^"]*"[^"]*")*[^"]*$)/).filter((entry) => !entry.includes('"'));
}
