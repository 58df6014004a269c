/**
 * A dialog (RFC 3261 §12): the tags, sequence numbers, targets and routes that two user agents
 * share, and the requests made from them. Plain state: it sends nothing, waits for nothing and
 * knows no session. What it keeps is detached from the messages it came from.
 */
import { GatewayError } from '../core/errors.ts';
import {
  detach,
  type HeaderField,
  type OutgoingRequest,
  parseAddress,
  parseNameAddr,
  parseUri,
  type SipMessage,
  type SipUri,
} from './message.ts';

/** A dialog as plain data: what a journal keeps. */
export interface DialogRecord {
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  /** From or To value without its tag. */
  readonly localParty: string;
  readonly remoteParty: string;
  readonly localSequence: number;
  /** -1 when the peer has sent no request yet. */
  readonly remoteSequence: number;
  readonly remoteTarget: string;
  readonly routeSet: readonly string[];
  /** Left out where the peer has not said so. */
  readonly allowsUpdate?: boolean;
  /** Left out where it is not. */
  readonly isSips?: boolean;
}

export class Dialog {
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  readonly localParty: string;
  readonly remoteParty: string;
  /** Who made the offer that has no answer yet (RFC 3264 §4): there is one at a time. */
  offerBy: 'nobody' | 'us' | 'peer' = 'nobody';
  /** The peer's Allow names UPDATE (RFC 3311 §4). */
  allowsUpdate: boolean;
  /** Begun with a sips URI: our own Contact is one then (§12.1.1). */
  readonly isSips: boolean;
  #routeSet: readonly string[];
  #localSequence: number;
  #remoteSequence: number;
  #remoteTarget: string;

  constructor(record: DialogRecord) {
    this.callId = record.callId;
    this.localTag = record.localTag;
    this.remoteTag = record.remoteTag;
    this.localParty = record.localParty;
    this.remoteParty = record.remoteParty;
    this.allowsUpdate = record.allowsUpdate ?? false;
    this.isSips = record.isSips ?? false;
    this.#routeSet = record.routeSet;
    this.#localSequence = record.localSequence;
    this.#remoteSequence = record.remoteSequence;
    this.#remoteTarget = record.remoteTarget;
  }

  record(): DialogRecord {
    const record: DialogRecord = {
      callId: this.callId,
      localTag: this.localTag,
      remoteTag: this.remoteTag,
      localParty: this.localParty,
      remoteParty: this.remoteParty,
      localSequence: this.#localSequence,
      remoteSequence: this.#remoteSequence,
      remoteTarget: this.#remoteTarget,
      routeSet: this.#routeSet,
    };
    return {
      ...record,
      ...(this.allowsUpdate ? { allowsUpdate: true } : {}),
      ...(this.isSips ? { isSips: true } : {}),
    };
  }

  get routeSet(): readonly string[] {
    return this.#routeSet;
  }

  get remoteTarget(): string {
    return this.#remoteTarget;
  }

  /** Whether `message`, received, belongs to this dialog (§12.2.2). */
  owns(message: SipMessage): boolean {
    const remoteTag = message.isRequest ? message.fromTag : message.toTag;
    return message.callId === this.callId && remoteTag === this.remoteTag;
  }

  /** Takes the request's place in the peer's sequence; false when it is out of order (§12.2.2). */
  advance(cseq: number): boolean {
    if (cseq <= this.#remoteSequence) return false;
    this.#remoteSequence = cseq;
    return true;
  }

  /** A target refresh (§12.2.1.2, §12.2.2): the Contact of a re-INVITE or its 2xx. */
  refresh(message: SipMessage): void {
    const target = contactOf(message);
    if (target !== null) this.#remoteTarget = target;
    this.learn(message);
  }

  /** Takes what the peer says that it allows; a message without Allow says nothing. */
  learn(message: SipMessage): void {
    if (message.header('Allow') !== undefined) {
      this.allowsUpdate = message.list('Allow').includes('UPDATE');
    }
  }

  /** An early dialog is confirmed: its 2xx has the last word on the route set (§13.2.2.4). */
  confirm(response: SipMessage): void {
    this.#routeSet = routesOf(response);
    this.refresh(response);
  }

  /** The URI that says where requests go next (§12.2.1.1). */
  nextHop(): SipUri {
    const first = this.#routeSet[0];
    if (first === undefined) return parseUri(this.#remoteTarget);
    const uri = parseNameAddr(first).uri;
    if (uri === null) throw new GatewayError('SIP_MALFORMED', { problem: 'route is no SIP URI' });
    return uri;
  }

  nextSequence(): number {
    this.#localSequence += 1;
    return this.#localSequence;
  }

  /**
   * A request within the dialog, without its Via (§12.2.1.1). `sequence` is a new one, or the
   * INVITE's for its ACK.
   */
  request(
    method: string,
    sequence: number,
    fields: readonly HeaderField[] = [],
    body = '',
  ): OutgoingRequest {
    const headers: HeaderField[] = [];
    const uri = this.#route(headers);
    headers.push(
      ['Max-Forwards', '70'],
      ['From', `${this.localParty};tag=${this.localTag}`],
      [
        'To',
        this.remoteTag === '' ? this.remoteParty : `${this.remoteParty};tag=${this.remoteTag}`,
      ],
      ['Call-ID', this.callId],
      ['CSeq', `${sequence} ${method}`],
      ...fields,
    );
    return { method, uri, headers, body };
  }

  /** Writes the Route fields and returns the Request-URI. */
  #route(headers: HeaderField[]): string {
    const [first, ...rest] = this.#routeSet;
    if (first === undefined) return this.#remoteTarget;
    const hop = parseNameAddr(first);
    if (hop.uri?.params.has('lr')) {
      for (const route of this.#routeSet) headers.push(['Route', route]);
      return this.#remoteTarget;
    }
    // A strict router of RFC 2543: its URI stands in the request line, the target comes last.
    for (const route of rest) headers.push(['Route', route]);
    headers.push(['Route', `<${this.#remoteTarget}>`]);
    return hop.uriText;
  }
}

/** The dialog that an INVITE we accept makes (§12.1.1). */
export function dialogOfRequest(request: SipMessage, localTag: string): Dialog {
  const [route] = request.list('Record-Route');
  const asked = isSips(request.uri) || isSips(uriOf(route ?? request.list('Contact')[0]));
  const dialog = new Dialog({
    callId: detach(request.callId),
    localTag,
    remoteTag: detach(request.fromTag),
    localParty: partyOf(request.header('To') ?? ''),
    remoteParty: partyOf(request.header('From') ?? ''),
    // §12.2.1.1: our own numbers may start anywhere.
    localSequence: 0,
    remoteSequence: request.cseq,
    // RFC 2543 peers may leave Contact out; From is then what is known of them.
    remoteTarget: contactOf(request) ?? detach(parseAddress(request.header('From') ?? '').uriText),
    routeSet: request.list('Record-Route').map(detach),
    ...(asked ? { isSips: true } : {}),
  });
  dialog.learn(request);
  return dialog;
}

/** The dialog that a response with a tag to our INVITE makes (§12.1.2), early or confirmed. */
export function dialogOfResponse(
  response: SipMessage,
  sent: { localParty: string; localTag: string; sequence: number; uri: string },
): Dialog {
  const dialog = new Dialog({
    callId: detach(response.callId),
    localTag: sent.localTag,
    remoteTag: detach(response.toTag),
    localParty: sent.localParty,
    remoteParty: partyOf(response.header('To') ?? ''),
    localSequence: sent.sequence,
    remoteSequence: -1,
    remoteTarget: contactOf(response) ?? sent.uri,
    routeSet: routesOf(response),
    ...(isSips(sent.uri) ? { isSips: true } : {}),
  });
  dialog.learn(response);
  return dialog;
}

/** Nearest first: the callee's order is the other way round (§12.1.2). */
function routesOf(response: SipMessage): readonly string[] {
  return response.list('Record-Route').reverse().map(detach);
}

/** The URI of the first Contact; null when there is none. */
function contactOf(message: SipMessage): string | null {
  const first = message.list('Contact')[0];
  return first === undefined || first === '' ? null : detach(parseAddress(first).uriText);
}

function uriOf(value: string | undefined): string {
  return value === undefined || value === '' ? '' : parseAddress(value).uriText;
}

export function isSips(uri: string): boolean {
  return /^sips:/i.test(uri);
}

/** From or To without the tag, in the bracket form; other parameters go as well. */
function partyOf(value: string): string {
  const { display, uriText } = parseAddress(value);
  return detach(formatParty(uriText, display));
}

export function formatParty(uri: string, display = ''): string {
  if (display === '') return `<${uri}>`;
  return `"${display.replaceAll('\0', '').replace(/["\\]/g, '\\$&')}" <${uri}>`;
}
