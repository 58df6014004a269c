/**
 * The prompts of one account's calls, out of the shared library. Adds two things: a recording of
 * the same account that is asked for by its own URL is played from its file, without credentials
 * and without a request to ourselves; and the library learns for whom a file is held.
 */
import type { Library } from '../assets/library.ts';
import type { Recordings } from '../assets/recordings.ts';
import type { SpeechRequest } from '../assets/speech.ts';
import { GatewayError } from '../core/errors.ts';
import { type AccountSid, isSid, type RecordingSid } from '../core/sid.ts';
import { shown } from '../http/url.ts';
import type { Prompt, Prompts } from './verb.ts';

export interface AccountPromptsOptions {
  readonly accountSid: AccountSid;
  readonly library: Library;
  readonly recordings: Recordings;
  /** Base of this gateway's own URLs, without a slash at the end. */
  readonly publicUrl: string;
}

export class AccountPrompts implements Prompts {
  readonly #options: AccountPromptsOptions;

  constructor(options: AccountPromptsOptions) {
    this.#options = options;
  }

  async audio(url: string, signal?: AbortSignal): Promise<Prompt> {
    const own = this.#ownRecording(url);
    if (own !== null) return this.#recording(own, url);
    const { library, accountSid } = this.#options;
    return library.prepare({ kind: 'url', scope: accountSid, url }, signal);
  }

  speech(speech: SpeechRequest, signal?: AbortSignal): Promise<Prompt> {
    const { library, accountSid } = this.#options;
    return library.prepare({ kind: 'speech', scope: accountSid, speech }, signal);
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
    if (info === null) {
      throw new GatewayError('PLAY_CONTENT', { url: shown(url), problem: 'no such recording' });
    }
    // Recordings go when somebody deletes them, not by themselves.
    return { path: info.path, durationMs: info.durationMs, release: () => undefined };
  }
}
