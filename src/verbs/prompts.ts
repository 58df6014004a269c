/**
 * The prompts of one account's calls, out of the shared library. Adds two things: a recording of
 * the same account that is asked for by its own URL is played from its file, without credentials
 * and without a request to ourselves; and what was handed out is let go of after it was played.
 */
import type { Library, Prompt as LibraryPrompt } from '../assets/library.ts';
import type { Recordings } from '../assets/recordings.ts';
import type { SpeechRequest } from '../assets/speech.ts';
import type { Clock } from '../core/clock.ts';
import { GatewayError } from '../core/errors.ts';
import { type AccountSid, isSid, type RecordingSid } from '../core/sid.ts';
import type { Prompt, Prompts } from './verb.ts';

export interface AccountPromptsOptions {
  readonly accountSid: AccountSid;
  readonly clock: Clock;
  readonly library: Library;
  readonly recordings: Recordings;
  /** Base of this gateway's own URLs, without a slash at the end. */
  readonly publicUrl: string;
}

/** A prompt may wait behind others of its verb before it is played; after that it may go. */
const HOLD_MARGIN_MS = 120_000;

export class AccountPrompts implements Prompts {
  readonly #options: AccountPromptsOptions;

  constructor(options: AccountPromptsOptions) {
    this.#options = options;
  }

  async audio(url: string): Promise<Prompt> {
    const own = this.#ownRecording(url);
    if (own !== null) return this.#recording(own, url);
    const { library, accountSid } = this.#options;
    return this.#hold(await library.prepare({ kind: 'url', scope: accountSid, url }));
  }

  async speech(speech: SpeechRequest): Promise<Prompt> {
    return this.#hold(await this.#options.library.prepare({ kind: 'speech', speech }));
  }

  #hold(prompt: LibraryPrompt): Prompt {
    const { path, durationMs } = prompt;
    this.#options.clock.timer(durationMs + HOLD_MARGIN_MS, () => prompt.release());
    return { path, durationMs };
  }

  #ownRecording(url: string): RecordingSid | null {
    const { publicUrl, accountSid } = this.#options;
    const prefix = `${publicUrl}/2010-04-01/Accounts/${accountSid}/Recordings/`;
    if (!url.startsWith(prefix)) return null;
    const sid = url.slice(prefix.length).replace(/\.(wav|mp3)$/, '');
    return isSid('RE', sid) ? sid : null;
  }

  async #recording(sid: RecordingSid, url: string): Promise<Prompt> {
    const { recordings, accountSid } = this.#options;
    const info = await recordings.info(accountSid, sid);
    if (info === null)
      throw new GatewayError('PLAY_CONTENT', { url, problem: 'no such recording' });
    return { path: info.path, durationMs: info.durationMs };
  }
}
