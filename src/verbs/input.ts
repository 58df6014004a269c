/**
 * `<Gather>`: sounds its prompts, collects keys, and asks the app what to do with them.
 *
 * The time allowed for a key starts when the prompts are over and again with each key. The first
 * key ends the prompts. Keys pressed before the verb began do not count. Speech is not recognised
 * here: `input="speech"` sounds the prompts, waits, and goes on as if nothing was said.
 */
import { isPlayed, type Output, prepare, type Ready, readOutput, start, stop } from './output.ts';
import { flag, matching, method, someOf, text, url, whole } from './schema.ts';
import { NEXT, type Outcome, type VerbContext, type VerbRow, verb } from './verb.ts';

const ATTRIBUTES = {
  action: url(),
  method: method('POST', 13312),
  input: someOf(['dtmf', 'speech'], { absent: ['dtmf'] }),
  timeout: whole({ absent: 5, min: 1, max: 600, number: 13313 }),
  numDigits: whole({ absent: null, min: 1, max: 128, number: 13314 }),
  finishOnKey: matching(/^[0-9#*]?$/, 'one key, or nothing', { absent: '#', number: 13315 }),
  actionOnEmptyResult: flag({ absent: false }),
  // Understood and kept for when there is a recogniser; they change nothing about keys.
  speechTimeout: text({ absent: null }),
  maxSpeechTime: text({ absent: null }),
  speechModel: text({ absent: null }),
  enhanced: flag({ absent: false }),
  language: text({ absent: 'en-US' }),
  hints: text({ absent: null }),
  profanityFilter: flag({ absent: true }),
  partialResultCallback: url(),
  partialResultCallbackMethod: method(),
  bargeIn: flag({ absent: true }),
  debug: flag({ absent: false }),
};

/** No plan of numbers is longer; who presses more keys has his phone in his pocket. */
const DIGITS_MAX = 128;

interface Gather {
  readonly action: string | null;
  readonly method: 'GET' | 'POST';
  readonly takesKeys: boolean;
  readonly timeoutMs: number;
  readonly numDigits: number;
  readonly finishOnKey: string;
  readonly actionOnEmptyResult: boolean;
  readonly prompts: readonly Output[];
}

interface GatherState {
  /** Prompt that sounds; as many as there are when all are over or were ended by a key. */
  readonly prompt: number;
  /** When the present wait began: a pause among the prompts, or the wait for a key. */
  readonly sinceMs: number;
  readonly digits: string;
  /** Prompt that a key cut short. */
  readonly cut: number | null;
}

const ROW: VerbRow<typeof ATTRIBUTES, Gather, GatherState> = {
  name: 'Gather',
  doc: 'collects keys while prompts play, then asks `action`',
  attributes: ATTRIBUTES,
  children: ['Say', 'Play', 'Pause'],
  nestingNumber: 13320,
  hasText: false,
  read(values, { element, children, reader }) {
    if (values.input.includes('speech')) {
      reader.warn(element, 12200, '<Gather input="speech">: speech is not recognised here');
    }
    return {
      action: values.action,
      method: values.method,
      takesKeys: values.input.includes('dtmf'),
      timeoutMs: values.timeout * 1000,
      numDigits: Math.min(values.numDigits ?? DIGITS_MAX, DIGITS_MAX),
      finishOnKey: values.finishOnKey,
      actionOnEmptyResult: values.actionOnEmptyResult,
      prompts: children
        .map((child) => readOutput(child, reader))
        .filter((output) => output !== null),
    };
  },
  async run(gather, context) {
    if (context.state === null) save(context, {});
    await prompts(gather, context);
    const { cut } = stateOf(context);
    if (cut !== null) stop(context, stepOf(cut));
    // The key that cut the prompts short may be the last one wanted.
    const isFinished = isComplete(gather, context) || (await keys(gather, context));
    return isFinished ? result(gather, context) : NEXT;
  },
  interrupt(gather, context) {
    const { prompt } = stateOf(context);
    if (prompt < gather.prompts.length) stop(context, stepOf(prompt));
  },
};

export const GATHER = verb(ROW);

/** Sounds the prompts, to their end or to the first key. */
async function prompts(gather: Gather, context: VerbContext<GatherState>): Promise<void> {
  const count = gather.prompts.length;
  if (stateOf(context).prompt >= count) return;
  // All are fetched before the first sounds, so that no pause is heard between them.
  const ready = await Promise.all(gather.prompts.map((output) => prepare(output, context)));
  for (let at = stateOf(context).prompt; at < count; at = stateOf(context).prompt) {
    const key = await sounding(gather, context, ready[at] ?? { kind: 'nothing' }, stepOf(at));
    if (key === null) save(context, { prompt: at + 1 });
    else save(context, { prompt: count, digits: key, cut: at });
  }
}

/** The key that ended the prompt, or null when it came to its end. */
async function sounding(
  gather: Gather,
  context: VerbContext<GatherState>,
  ready: Ready,
  step: string,
): Promise<string | null> {
  if (ready.kind === 'nothing') return null;
  const isOnLeg = start(ready, context, step);
  const untilMs = ready.kind === 'pause' ? since(context) + ready.durationMs : undefined;
  for (;;) {
    const event = await context.next(untilMs);
    if (event === null) return null;
    if (event.kind === 'digit' && gather.takesKeys) return event.key;
    if (isOnLeg && isPlayed(event, context, step)) return null;
  }
}

/** Waits for keys. True when there is something to tell, false when time ran out with nothing. */
async function keys(gather: Gather, context: VerbContext<GatherState>): Promise<boolean> {
  while (!isComplete(gather, context)) {
    const event = await context.next(since(context) + gather.timeoutMs);
    const { digits } = stateOf(context);
    if (event === null) return digits !== '' || gather.actionOnEmptyResult;
    if (event.kind === 'digit' && gather.takesKeys) save(context, { digits: digits + event.key });
  }
  return true;
}

/** The finishing key is kept with the digits until the input is told. */
function isComplete(gather: Gather, context: VerbContext<GatherState>): boolean {
  const { digits } = stateOf(context);
  return digits.length >= gather.numDigits || endsInput(gather, digits);
}

function endsInput(gather: Gather, digits: string): boolean {
  return gather.finishOnKey !== '' && digits.endsWith(gather.finishOnKey);
}

/** Only the finishing key, or nothing, is empty input: the next verb runs, unless asked for. */
function result(gather: Gather, context: VerbContext<GatherState>): Outcome {
  const { digits } = stateOf(context);
  const input = endsInput(gather, digits) ? digits.slice(0, -1) : digits;
  if (input === '' && !gather.actionOnEmptyResult) return NEXT;
  return {
    kind: 'document',
    url: context.resolve(gather.action),
    method: gather.method,
    params: { Digits: input },
  };
}

function stepOf(prompt: number): string {
  return `prompt${prompt}`;
}

function stateOf(context: VerbContext<GatherState>): GatherState {
  return context.state ?? { prompt: 0, sinceMs: context.nowMs(), digits: '', cut: null };
}

/** Each change starts a wait anew: for the end of the next pause, or for the next key. */
function save(
  context: VerbContext<GatherState>,
  change: Partial<Omit<GatherState, 'sinceMs'>>,
): void {
  context.save({ ...stateOf(context), ...change, sinceMs: context.nowMs() });
}

/** When the present wait began; a clock set back meanwhile must not make it longer. */
function since(context: VerbContext<GatherState>): number {
  return Math.min(stateOf(context).sinceMs, context.nowMs());
}
