/**
 * The signature that existing apps check on every webhook: base64 of HMAC-SHA1, keyed with the
 * account's auth token, over the URL followed by each form parameter, name and value run together,
 * names in code-unit order. A repeated name counts each distinct value once, sorted.
 *
 * It has no timestamp, so it does not stop a replay; it is kept for compatibility. The URL is
 * signed as it is sent, without fragment and user-info: that is the string the receiver rebuilds
 * from its own request line. So each redirect needs a signature of its own (`signHop`).
 */
import { createHmac } from 'node:crypto';
import type { Secret } from '../core/log.ts';
import { withoutUserInfo } from './url.ts';

export type FormParams = readonly (readonly [name: string, value: string])[];

export function signWebhook(options: {
  url: string;
  /** Form parameters of a POST; empty for a GET, whose query is part of `url`. */
  params: FormParams;
  authToken: Secret;
}): string {
  const byName = new Map<string, Set<string>>();
  for (const [name, value] of options.params) {
    const values = byName.get(name);
    if (values) values.add(value);
    else byName.set(name, new Set([value]));
  }
  let text = signableUrl(options.url);
  for (const name of [...byName.keys()].sort()) {
    for (const value of [...(byName.get(name) ?? [])].sort()) text += name + value;
  }
  return createHmac('sha1', options.authToken.reveal()).update(text, 'utf8').digest('base64');
}

/**
 * The header field for one hop. A form counts only while the method still is POST: after 302 the
 * receiver sees a GET without a body, after 307 the same form at another URL.
 */
export function signHop(
  hop: { readonly url: string; readonly method: string },
  form: FormParams,
  authToken: Secret,
): { readonly 'x-twilio-signature': string } {
  const params = hop.method === 'POST' ? form : [];
  return { 'x-twilio-signature': signWebhook({ url: hop.url, params, authToken }) };
}

/** The URL without its fragment (never sent) and without `user:password@`. */
export function signableUrl(url: string): string {
  const hash = url.indexOf('#');
  return withoutUserInfo(hash < 0 ? url : url.slice(0, hash));
}

export interface EncodedWebhook {
  /** With the parameters in its query for GET. */
  readonly url: string;
  readonly body: string | undefined;
  /** What the signature adds to the URL: the form of a POST, nothing for GET. */
  readonly params: FormParams;
}

/** Parameters into the body of a POST or the query of a GET; a POST keeps its fragment for us. */
export function encodeWebhook(target: {
  url: string;
  method: 'GET' | 'POST';
  params: FormParams;
}): EncodedWebhook {
  const form = new URLSearchParams(
    target.params.map(([name, value]): [string, string] => [name, value]),
  ).toString();
  if (target.method === 'POST') return { url: target.url, body: form, params: target.params };
  const hash = target.url.indexOf('#');
  const base = hash < 0 ? target.url : target.url.slice(0, hash);
  const join = base.includes('?') ? '&' : '?';
  return { url: form === '' ? base : `${base}${join}${form}`, body: undefined, params: [] };
}
