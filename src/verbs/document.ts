/**
 * What an app server answered, as a document: content types, the root element, the list of verbs.
 *
 * Everything an app may answer becomes one document text: audio becomes a `<Play>`, plain words a
 * `<Say>`, so that the interpreter knows only one kind. Errors here (12100, 12102, 12300, 11750,
 * 11770) send the call to its fallback; all lesser faults are warnings. Not the vocabulary (the
 * rows are handed in), not the fetching (`application.ts`), not the running (`interpreter.ts`).
 */
import { GatewayError } from '../core/errors.ts';
import { shown } from '../http/url.ts';
import { Reader, SCHEMA_WARNING, type Warning } from './schema.ts';
import { parseXml, type XmlElement, type XmlLimits } from './xml.ts';

export interface Document<V> {
  readonly verbs: readonly V[];
  readonly warnings: readonly Warning[];
}

/** By element name: what makes a verb of an element directly below `<Response>`. */
export type VerbReaders<V> = ReadonlyMap<string, (element: XmlElement, reader: Reader) => V>;

/** Throws DOC_PARSE, DOC_ROOT, APP_BODY_TOO_LARGE, APP_BODY_EMPTY. */
export function parseDocument<V>(options: {
  readonly text: string;
  /** Where it came from, for messages. */
  readonly url: string;
  readonly readers: VerbReaders<V>;
  readonly limits: XmlLimits;
}): Document<V> {
  const root = parseXml(options.text, options.url, options.limits);
  if (root.name !== 'Response') throw new GatewayError('DOC_ROOT', { root: root.name });
  const reader = new Reader();
  const verbs: V[] = [];
  for (const child of root.children) {
    if (typeof child === 'string') {
      if (child.trim() !== '') reader.warn(root, SCHEMA_WARNING, '<Response> takes no text');
      continue;
    }
    const read = options.readers.get(child.name);
    if (read === undefined) {
      reader.warn(child, SCHEMA_WARNING, `<${child.name}> is not a verb; it is left out`);
    } else {
      verbs.push(read(child, reader));
    }
  }
  return { verbs, warnings: reader.warnings };
}

const TWIML_TYPES: ReadonlySet<string> = new Set(['text/xml', 'application/xml', 'text/html']);

/**
 * The document text of an answer. Throws DOC_CONTENT_TYPE; whether the text then parses is for
 * `parseDocument` to say. `limits` bound the attempt to read plain text as XML.
 */
export function documentText(
  answer: { readonly url: string; readonly contentType: string; readonly body: string },
  limits: XmlLimits,
): string {
  const type = (answer.contentType.split(';', 1)[0] ?? '').trim().toLowerCase();
  if (TWIML_TYPES.has(type)) return answer.body;
  if (type.startsWith('audio/')) return wrap('Play', answer.url);
  if (type === 'text/plain') return isXml(answer, limits) ? answer.body : wrap('Say', answer.body);
  throw new GatewayError('DOC_CONTENT_TYPE', { url: shown(answer.url), type: type || 'none' });
}

/** Too large or empty is not "words to be read aloud" either: let those errors come out. */
function isXml(
  answer: { readonly url: string; readonly body: string },
  limits: XmlLimits,
): boolean {
  try {
    parseXml(answer.body, answer.url, limits);
    return true;
  } catch (error) {
    if (error instanceof GatewayError && error.code === 'DOC_PARSE') return false;
    throw error;
  }
}

/** When verbs run out the call is hung up, which is what follows a bare file or words. */
function wrap(verb: 'Play' | 'Say', content: string): string {
  return `<Response><${verb}>${escapeXml(content)}</${verb}></Response>`;
}

/** Text for use between tags; what XML 1.0 cannot carry at all (§2.2) is left out. */
export function escapeXml(content: string): string {
  return content
    .toWellFormed()
    .replace(/[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu, '')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;');
}
