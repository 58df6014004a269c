/**
 * Text to speech: the provider interface, and espeak-ng (of Debian) as the one that needs no
 * account anywhere. Text arrives as the verbs parsed it: strings and SSML elements. Only elements
 * and values on the list below reach the program, everything else is spoken as if its tags were not
 * there; text is escaped, so no application can smuggle markup (`<audio src>` reads files) or
 * phoneme code in.
 *
 * Not a cache and not resampling: both are the library's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { JobPool } from './transcoder.ts';
import { espeakLanguage, resolveVoice } from './voices.ts';

/** What is said: text, or an SSML element with its attributes as they came. */
export type SpeechNode =
  | string
  | {
      readonly name: string;
      readonly attributes: Readonly<Record<string, string>>;
      readonly children: readonly SpeechNode[];
    };

export interface SpeechRequest {
  readonly content: readonly SpeechNode[];
  /** `man`, `woman`, `alice`, `Polly.*`, `Google.*`; '' for the default. */
  readonly voice: string;
  /** BCP 47; counts for voices without a language of their own. '' for the default. */
  readonly language: string;
}

export interface SpeechProvider {
  /** Equal for requests that sound equal: the key of the prompt cache. Throws SAY_… */
  identify(request: SpeechRequest): string;
  /** A WAV file of any rate. */
  synthesize(request: SpeechRequest, signal?: AbortSignal): Promise<Buffer>;
}

export interface SpeechOptions {
  readonly command: string;
  readonly voice: string;
  readonly language: string;
  readonly wordsPerMinute: number;
  readonly jobsMax: number;
  readonly queueDepthMax: number;
  readonly timeoutMs: number;
  readonly outputBytesMax: number;
  /** Characters of `<Say>`, markup not counted, as existing apps know it. */
  readonly textCharsMax: number;
  readonly pollyTextCharsMax: number;
  readonly nodesMax: number;
  readonly depthMax: number;
}

export const DEFAULT_SPEECH_OPTIONS: SpeechOptions = {
  command: 'espeak-ng',
  voice: 'alice',
  language: 'en-US',
  wordsPerMinute: 160,
  jobsMax: 2,
  queueDepthMax: 256,
  timeoutMs: 10_000,
  outputBytesMax: 67_108_864,
  textCharsMax: 4_096,
  pollyTextCharsMax: 3_000,
  nodesMax: 1_000,
  depthMax: 16,
};

const LONGEST_BREAK_MS = 10_000;
/** All breaks of one text together. */
const BREAKS_MS_MAX = 60_000;

export class EspeakSpeech implements SpeechProvider {
  readonly #clock: Clock;
  readonly #options: SpeechOptions;
  readonly #pool: JobPool;
  readonly #children = new Set<ChildProcess>();

  constructor(parts: { clock: Clock; options: SpeechOptions }) {
    this.#clock = parts.clock;
    this.#options = parts.options;
    this.#pool = new JobPool(parts.options);
  }

  identify(request: SpeechRequest): string {
    const { voice, markup } = this.#render(request);
    return JSON.stringify(['espeak-ng', voice, this.#options.wordsPerMinute, markup]);
  }

  synthesize(request: SpeechRequest, signal?: AbortSignal): Promise<Buffer> {
    const { voice, markup } = this.#render(request);
    return this.#pool.run(() => this.#child(voice, markup, signal), signal);
  }

  /** Kills what speaks. Idempotent. */
  async close(): Promise<void> {
    const ends = [...this.#children].map((child) => once(child, 'close'));
    for (const child of this.#children) child.kill('SIGKILL');
    await Promise.all(ends);
  }

  #render(request: SpeechRequest): { voice: string; markup: string } {
    const options = this.#options;
    const name = request.voice || options.voice;
    const { language, isMale } = resolveVoice(name, request.language || options.language);
    const limit = name.startsWith('Polly.') ? options.pollyTextCharsMax : options.textCharsMax;
    const writer = new SsmlWriter({ ...options, textCharsMax: limit });
    return {
      voice: `${language}+${isMale ? 'm3' : 'f3'}`,
      markup: writer.document(request.content),
    };
  }

  async #child(voice: string, markup: string, signal?: AbortSignal): Promise<Buffer> {
    const { command, wordsPerMinute, timeoutMs, outputBytesMax } = this.#options;
    const rate = String(wordsPerMinute);
    const args = ['-m', '-b', '1', '-v', voice, '-s', rate, '--stdin', '--stdout'];
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { PATH: process.env.PATH ?? '', LANG: 'C.UTF-8' },
    });
    this.#children.add(child);
    let problem = '';
    const stop = (why: string): void => {
      problem ||= why;
      child.kill('SIGKILL');
    };
    const timer = this.#clock.timer(timeoutMs, () => stop(`nothing said within ${timeoutMs} ms`));
    const onAbort = (): void => stop('given up');
    signal?.addEventListener('abort', onAbort, { once: true });
    child.once('error', (error) => stop(error.message));
    child.stdin.on('error', () => undefined);
    child.stdin.end(markup);
    const chunks: Buffer[] = [];
    let bytes = 0;
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > outputBytesMax) stop(`more than ${outputBytesMax} bytes of speech`);
      else chunks.push(chunk);
    });
    const exitCode = await new Promise<number | null>((resolve) => child.once('close', resolve));
    timer.cancel();
    signal?.removeEventListener('abort', onAbort);
    this.#children.delete(child);
    signal?.throwIfAborted();
    if (exitCode !== 0) problem ||= `${command} ended with ${exitCode}`;
    if (problem === '' && bytes <= WAV_HEADER_BYTES) problem = 'nothing was said';
    if (problem !== '') throw new GatewayError('SAY_FAILED', { problem });
    return Buffer.concat(chunks);
  }
}

const WAV_HEADER_BYTES = 44;

const RATES = /^(x-slow|slow|medium|fast|x-fast|default|[+-]?\d{1,3}(\.\d{1,2})?%)$/;
const PITCHES = /^(x-low|low|medium|high|x-high|default|[+-]?\d{1,3}(\.\d{1,2})?%)$/;
const VOLUMES = /^(silent|x-soft|soft|medium|loud|x-loud|default|[+-]?\d{1,3}(\.\d{1,2})?(dB|%)?)$/;
const STRENGTHS = /^(none|x-weak|weak|medium|strong|x-strong)$/;
const EMPHASES = /^(strong|moderate|reduced|none)$/;
const BREAK_TIME = /^(\d{1,5}(?:\.\d{1,3})?)(ms|s)$/;
const LANGUAGE_TAG = /^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{1,8}){0,3}$/;
/** Kinds of `<say-as>` that are read character by character. */
const SPELT = new Set(['characters', 'spell-out', 'digits', 'telephone']);

/** Writes the SSML that espeak-ng gets; built anew from a list, never copied. */
class SsmlWriter {
  readonly #limits: { textCharsMax: number; nodesMax: number; depthMax: number };
  #chars = 0;
  #nodes = 0;
  #breaksMs = 0;

  constructor(limits: { textCharsMax: number; nodesMax: number; depthMax: number }) {
    this.#limits = limits;
  }

  document(content: readonly SpeechNode[]): string {
    const inner = this.#all(content, 0);
    if (inner.trim() === '') throw new GatewayError('SAY_EMPTY');
    // `[[` switches espeak-ng to phoneme code; only here is it known what stands beside what.
    return `<speak>${inner.replace(/\[(?=\[)/g, '[ ')}</speak>\n`;
  }

  #all(nodes: readonly SpeechNode[], depth: number): string {
    return nodes.map((node) => this.#node(node, depth)).join('');
  }

  #node(node: SpeechNode, depth: number): string {
    this.#nodes += 1;
    if (typeof node === 'string') return this.#text(node);
    const { nodesMax, depthMax } = this.#limits;
    if (this.#nodes > nodesMax || depth >= depthMax) {
      const problem = `<Say> holds more than ${nodesMax} elements or ${depthMax} levels`;
      throw new GatewayError('DOC_SCHEMA', { problem });
    }
    const { name, attributes, children } = node;
    switch (name) {
      case 'break':
        return this.#break(attributes);
      case 'sub':
        return this.#text(attributes.alias ?? plainText(children));
      case 'say-as':
        return this.#sayAs(attributes['interpret-as'] ?? '', children, depth);
      default:
        return wrap(tagOf(name, attributes), this.#all(children, depth + 1));
    }
  }

  #text(text: string): string {
    this.#chars += text.length;
    const limit = this.#limits.textCharsMax;
    if (this.#chars > limit) throw new GatewayError('SAY_TOO_LONG', { limit });
    return escapeText(text);
  }

  #break(attributes: Readonly<Record<string, string>>): string {
    const time = BREAK_TIME.exec(attributes.time ?? '');
    if (time === null) {
      const strength = attributes.strength ?? 'medium';
      return STRENGTHS.test(strength) ? `<break strength="${strength}"/>` : '<break/>';
    }
    const wantedMs = Number(time[1]) * (time[2] === 's' ? 1000 : 1);
    const leftMs = BREAKS_MS_MAX - this.#breaksMs;
    const breakMs = Math.round(Math.min(wantedMs, LONGEST_BREAK_MS, leftMs));
    this.#breaksMs += breakMs;
    return breakMs > 0 ? `<break time="${breakMs}ms"/>` : '';
  }

  #sayAs(kind: string, children: readonly SpeechNode[], depth: number): string {
    if (kind === 'expletive') return this.#break({ time: '500ms' });
    const text = plainText(children);
    if (SPELT.has(kind)) {
      this.#text(text);
      // Apart from each other they are read one by one, in every language.
      return escapeText([...text.replace(/\s+/g, '')].join(' '));
    }
    if (kind === 'ordinal' && /^\d{1,9}$/.test(text.trim())) {
      return this.#text(`${text.trim()}${ordinalSuffix(Number(text))}`);
    }
    return this.#all(children, depth + 1);
  }
}

interface Tag {
  readonly open: string;
  readonly close: string;
}

/** The tags espeak-ng gets for an element; none for an element that is not on the list. */
function tagOf(name: string, attributes: Readonly<Record<string, string>>): Tag | null {
  switch (name) {
    case 'p':
    case 's':
      return { open: `<${name}>`, close: `</${name}>` };
    case 'emphasis': {
      const level = attributes.level ?? 'moderate';
      if (!EMPHASES.test(level)) return null;
      return { open: `<emphasis level="${level}">`, close: '</emphasis>' };
    }
    case 'prosody': {
      const allowed = { rate: RATES, pitch: PITCHES, volume: VOLUMES };
      const kept = Object.entries(allowed).filter(([key, rule]) =>
        rule.test(attributes[key] ?? ''),
      );
      if (kept.length === 0) return null;
      const text = kept.map(([key]) => ` ${key}="${attributes[key]}"`).join('');
      return { open: `<prosody${text}>`, close: '</prosody>' };
    }
    case 'lang': {
      const tag = attributes['xml:lang'] ?? '';
      if (!LANGUAGE_TAG.test(tag)) return null;
      return { open: `<voice xml:lang="${espeakLanguage(tag)}">`, close: '</voice>' };
    }
    default:
      return null;
  }
}

function wrap(tag: Tag | null, inner: string): string {
  return tag === null ? inner : `${tag.open}${inner}${tag.close}`;
}

function plainText(nodes: readonly SpeechNode[]): string {
  return nodes.map((node) => (typeof node === 'string' ? node : plainText(node.children))).join('');
}

/** XML text; control characters go. */
function escapeText(text: string): string {
  return text
    .replace(/[\p{Cc}\p{Cs}]/gu, ' ')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;');
}

function ordinalSuffix(value: number): string {
  const teen = value % 100 >= 11 && value % 100 <= 13;
  return teen ? 'th' : (['th', 'st', 'nd', 'rd'][value % 10] ?? 'th');
}
