/**
 * URLs as others may see them. What an application writes into a URL may be secret: user and
 * password, and in the query whatever it passes on, or what a caller keyed in. Text only; whether
 * a URL may be asked is the client's to say.
 */

const SHOWN_CHARS_MAX = 200;

/** For logs, traces and errors: no user-info, no query, no fragment, also when it is no URL. */
export function shown(url: string): string {
  const parsed = URL.parse(url);
  // Only the web's schemes have an authority for sure; of others the text is cut.
  const text =
    parsed !== null && /^(https?|wss?|ftp):$/.test(parsed.protocol)
      ? `${parsed.protocol}//${parsed.host}${parsed.pathname}`
      : url.replace(/[?#].*$/s, '').replace(/^([^/\\]*[/\\]{2,})[^/\\]*@/, '$1');
  return text.slice(0, SHOWN_CHARS_MAX);
}

/** As written but for user and password; for the application's own author, who knows the rest. */
export function withoutUserInfo(url: string): string {
  const written = /^([a-z][a-z0-9+.-]*:\/\/)[^/\\?#]*@(.*)$/is.exec(url);
  if (written !== null) return `${written[1]}${written[2]}`;
  const parsed = URL.parse(url);
  if (parsed === null || (parsed.username === '' && parsed.password === '')) return url;
  // Spelt in a way that only a browser's parser understands.
  parsed.username = parsed.password = '';
  return parsed.href;
}
