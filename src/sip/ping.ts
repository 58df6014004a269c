/**
 * OPTIONS to somebody we know, to hear whether it is at work (RFC 3261 §11): one request outside of
 * any dialog, to one address after another until one answers. What the answer says about a gateway
 * is the asker's to judge; nothing in it is believed here.
 */
import { asGatewayError } from '../core/errors.ts';
import { isSips } from './dialog.ts';
import type { OutgoingRequest, SipMessage } from './message.ts';
import type { Hop } from './peer.ts';
import type { Target } from './resolver.ts';
import type { ClientTransaction, ClientUser } from './transaction.ts';
import type { UserAgent } from './user-agent.ts';

export interface PingOptions {
  /** Request-URI: whom we ask. */
  readonly uri: string;
  /** Whom it is from, `sip:…`. */
  readonly from: string;
  /** Where it is sent, best first; already judged by policy. */
  readonly targets: readonly Target[];
  /** For all targets together; Timer F alone would take 32 s for each. */
  readonly timeoutMs: number;
}

export interface PingResult {
  /** Of the final response; 0 when none came. */
  readonly status: number;
  readonly durationMs: number;
  /** Why there was no answer; '' when there was. */
  readonly problem: string;
}

/** Never rejects: no answer is a result. */
export function ping(ua: UserAgent, options: PingOptions): Promise<PingResult> {
  return new Promise((resolve) => {
    new Ping(ua, options, resolve).start();
  });
}

class Ping implements ClientUser {
  readonly #ua: UserAgent;
  readonly #options: PingOptions;
  readonly #startMs: number;
  readonly #callId: string;
  readonly #tag: string;
  #done: ((result: PingResult) => void) | null;
  #hops: Hop[] = [];
  #transaction: ClientTransaction | null = null;
  #sequence = 0;
  readonly #timer;

  constructor(ua: UserAgent, options: PingOptions, done: (result: PingResult) => void) {
    this.#ua = ua;
    this.#options = options;
    this.#done = done;
    this.#startMs = ua.clock.monotonicMs();
    this.#callId = ua.clock.randomHex(16);
    this.#tag = ua.newTag();
    this.#timer = ua.clock.timer(options.timeoutMs, () => this.#end(0, 'no answer in time'));
  }

  start(): void {
    try {
      this.#hops = this.#ua.hopsTo(this.#options.targets, 0);
    } catch (thrown) {
      this.#end(0, asGatewayError(thrown).message);
      return;
    }
    this.#next('no address');
  }

  onResponse(transaction: ClientTransaction, response: SipMessage): void {
    if (transaction !== this.#transaction || response.status < 200) return;
    this.#end(response.status, '');
  }

  onFailure(transaction: ClientTransaction, code: 'SIP_TIMEOUT' | 'SIP_TRANSPORT'): void {
    if (transaction !== this.#transaction) return;
    this.#next(code === 'SIP_TIMEOUT' ? 'no answer' : 'not reached');
  }

  #next(problem: string): void {
    const hop = this.#hops.shift();
    if (hop === undefined) {
      this.#end(0, problem);
      return;
    }
    try {
      this.#transaction = this.#ua.request(this.#request(hop), hop, this, this.#callId);
    } catch (thrown) {
      this.#end(0, asGatewayError(thrown).message);
    }
  }

  #request(hop: Hop): OutgoingRequest {
    const { uri, from } = this.#options;
    this.#sequence += 1;
    return {
      method: 'OPTIONS',
      uri,
      headers: [
        ['Max-Forwards', '70'],
        ['From', `<${from}>;tag=${this.#tag}`],
        ['To', `<${uri}>`],
        ['Call-ID', this.#callId],
        ['CSeq', `${this.#sequence} OPTIONS`],
        ['Contact', this.#ua.contact(hop.local, isSips(uri))],
        ['Accept', 'application/sdp'],
      ],
      body: '',
    };
  }

  #end(status: number, problem: string): void {
    const done = this.#done;
    if (done === null) return;
    this.#done = null;
    this.#timer.cancel();
    this.#transaction = null;
    done({ status, problem, durationMs: this.#ua.clock.monotonicMs() - this.#startMs });
  }
}
