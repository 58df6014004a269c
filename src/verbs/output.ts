/**
 * What is heard: `<Say>`, `<Play>`, `<Pause>`, alone or inside `<Gather>`.
 *
 * All three become one `Output`, which is first made ready (fetched, spoken) and then sounded.
 * Playing itself is the leg's; how audio is fetched and kept is behind `Prompts`.
 */
import type { SpeechNode, SpeechRequest } from '../assets/speech.ts';
import { GatewayError } from '../core/errors.ts';
import type { FlowEvent } from './flow.ts';
import { matching, type Reader, text, whole } from './schema.ts';
import { NEXT, type Outcome, type VerbContext, type VerbRow, verb } from './verb.ts';
import type { XmlElement, XmlNode } from './xml.ts';

export type Output =
  | { readonly kind: 'say'; readonly speech: SpeechRequest; readonly loop: number }
  /** `url` '' and `digits` null: an empty verb, which does nothing (there was a warning). */
  | {
      readonly kind: 'play';
      readonly url: string;
      readonly digits: string | null;
      readonly loop: number;
    }
  | { readonly kind: 'pause'; readonly durationMs: number };

/** What can be sounded at once. */
export type Ready =
  | { readonly kind: 'file'; readonly path: string; readonly loop: number }
  | { readonly kind: 'digits'; readonly digits: string }
  | { readonly kind: 'pause'; readonly durationMs: number }
  | { readonly kind: 'nothing' };

/** A repeat count: 0 goes on until the call ends or something interrupts it. */
const LOOP = whole({ absent: 1, min: 0, max: 1000 });

/** Markup that may stand among the words; what each means is the voice's to say. */
const SSML_ELEMENTS: readonly string[] = [
  'break',
  'emphasis',
  'lang',
  'p',
  'phoneme',
  'prosody',
  's',
  'say-as',
  'sub',
  'w',
];

const SAY_ATTRIBUTES = {
  voice: text({ absent: '', number: 13511 }),
  language: text({ absent: '', number: 13512 }),
  loop: { ...LOOP, number: 13510 },
};

/** No `w` or `W` alone is a mistake: a pause between keys, or nothing but pauses. */
const PLAY_ATTRIBUTES = {
  loop: { ...LOOP, number: 13410 },
  digits: matching(/^[0-9*#wWA-D]{1,256}$/, 'keys 0-9 * # and pauses w W', {
    absent: null,
    number: 13430,
    isPrivate: true,
  }),
};

const PAUSE_ATTRIBUTES = { length: whole({ absent: 1, min: 0, max: 14_400, number: 13910 }) };

/** Beyond this many keys repeating them is no longer what anybody wants. */
const REPEATED_DIGITS_MAX = 1024;

interface PauseState {
  readonly sinceMs: number;
}

const SAY_ROW: VerbRow<typeof SAY_ATTRIBUTES, Output, object> = {
  name: 'Say',
  doc: 'reads words aloud',
  attributes: SAY_ATTRIBUTES,
  children: SSML_ELEMENTS,
  hasText: true,
  read({ voice, language, loop }, { element, reader }) {
    const content = speechNodes(
      element.children.filter(
        (child) => typeof child === 'string' || SSML_ELEMENTS.includes(child.name),
      ),
    );
    const isEmpty = !content.some(hasWords);
    if (isEmpty) reader.warn(element, 13520, '<Say> has no text');
    return { kind: 'say', speech: { content: isEmpty ? [] : content, voice, language }, loop };
  },
  run: (output, context) => sound(output, context),
  interrupt: (_output, context) => stopSounding(context),
};

const PLAY_ROW: VerbRow<typeof PLAY_ATTRIBUTES, Output, object> = {
  name: 'Play',
  doc: 'plays an audio file, or sends keys',
  attributes: PLAY_ATTRIBUTES,
  children: [],
  hasText: true,
  read(values, content) {
    if (content.text === '' && values.digits === null) {
      content.reader.warn(content.element, 13410, '<Play> names no file');
    }
    return { kind: 'play', url: content.text, ...values };
  },
  run: (output, context) => sound(output, context),
  interrupt: (_output, context) => stopSounding(context),
};

const PAUSE_ROW: VerbRow<typeof PAUSE_ATTRIBUTES, Output, PauseState> = {
  name: 'Pause',
  doc: 'waits in silence; as first verb it delays the answer',
  attributes: PAUSE_ATTRIBUTES,
  children: [],
  hasText: false,
  // A call that is not answered yet goes on ringing, which is what the delay is used for.
  needsAnswer: () => false,
  read: (values) => ({ kind: 'pause', durationMs: values.length * 1000 }),
  run: (output, context) => pause(output, context),
};

export const SAY = verb(SAY_ROW);
export const PLAY = verb(PLAY_ROW);
export const PAUSE = verb(PAUSE_ROW);

/** Elements that may be nested where prompts are taken, with their readers. */
export function readOutput(element: XmlElement, reader: Reader): Output | null {
  switch (element.name) {
    case 'Say':
      return reader.read(SAY_ROW, element);
    case 'Play':
      return reader.read(PLAY_ROW, element);
    case 'Pause':
      return reader.read(PAUSE_ROW, element);
    default:
      return null;
  }
}

/** Depth is bounded by the parser, so recursion is. */
function speechNodes(nodes: readonly XmlNode[]): SpeechNode[] {
  return nodes.map((node) => {
    if (typeof node === 'string') return node;
    const attributes = Object.fromEntries(node.attributes);
    return { name: node.name, attributes, children: speechNodes(node.children) };
  });
}

function hasWords(node: SpeechNode): boolean {
  if (typeof node === 'string') return node.trim() !== '';
  return (node.attributes.alias ?? '') !== '' || node.children.some(hasWords);
}

/** Fetches or speaks what is needed, so that sounding it starts without delay. */
export async function prepare(output: Output, context: VerbContext): Promise<Ready> {
  switch (output.kind) {
    case 'pause':
      return output;
    case 'say': {
      if (output.speech.content.length === 0) return { kind: 'nothing' };
      const prompt = await context.prompts.speech(output.speech);
      return { kind: 'file', path: prompt.path, loop: output.loop };
    }
    case 'play': {
      if (output.digits !== null) {
        const times = Math.min(output.loop || 1, REPEATED_DIGITS_MAX / output.digits.length);
        return { kind: 'digits', digits: output.digits.repeat(Math.max(1, Math.floor(times))) };
      }
      if (output.url === '') return { kind: 'nothing' };
      const prompt = await context.prompts.audio(context.resolve(output.url));
      return { kind: 'file', path: prompt.path, loop: output.loop };
    }
  }
}

/** Starts what is ready on the leg; false when the leg has nothing to do for it. */
export function start(ready: Ready, context: VerbContext, step: string): boolean {
  const playId = playIdOf(context, step);
  if (ready.kind === 'file') {
    const source = { kind: 'file' as const, path: ready.path };
    context.send(step, { kind: 'play', playId, source, loop: ready.loop });
    return true;
  }
  if (ready.kind === 'digits') {
    context.send(step, { kind: 'sendDigits', playId, digits: ready.digits });
    return true;
  }
  return false;
}

export function stop(context: VerbContext, step: string): void {
  context.send(`${step}.stop`, { kind: 'stopPlay', playId: playIdOf(context, step) });
}

/** Whether `event` ends what was started as `step`. Throws when it ended by failing. */
export function isPlayed(event: FlowEvent, context: VerbContext, step: string): boolean {
  const id = playIdOf(context, step);
  if (event.kind === 'commandFailed' && event.id === id) {
    throw new GatewayError(event.code, event.details);
  }
  if (event.kind !== 'playDone' || event.playId !== id) return false;
  if (event.reason === 'failed') {
    throw new GatewayError('PLAY_CONTENT', { url: id, problem: 'it could not be played' });
  }
  return true;
}

/** The same as the id of the command that started it. */
export function playIdOf(context: VerbContext, step: string): string {
  return `${context.id}.${step}`;
}

async function sound(output: Output, context: VerbContext): Promise<Outcome> {
  const ready = await prepare(output, context);
  if (!start(ready, context, 'play')) return NEXT;
  for (;;) {
    const event = await context.next();
    if (event !== null && isPlayed(event, context, 'play')) return NEXT;
  }
}

/** A stop for something that never started is nothing to the leg. */
function stopSounding(context: VerbContext): void {
  stop(context, 'play');
}

async function pause(output: Output, context: VerbContext<PauseState>): Promise<Outcome> {
  const durationMs = output.kind === 'pause' ? output.durationMs : 0;
  if (context.state === null) context.save({ sinceMs: context.nowMs() });
  const sinceMs = context.state?.sinceMs ?? context.nowMs();
  // a clock that was set back while the gateway was down must not make the pause longer
  const untilMs = Math.min(sinceMs, context.nowMs()) + durationMs;
  while (context.nowMs() < untilMs) await context.next(untilMs);
  return NEXT;
}
