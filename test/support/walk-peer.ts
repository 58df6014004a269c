/**
 * A peer that walks: one call's far end, caller or callee, that says at random what SIP allows and
 * what it does not, when it should and when it should not. It loses, doubles and delays what it
 * sends and hears by a weather of its own, all from its own seed. In good weather it also judges:
 * what it sent was answered, what it answered was acknowledged, what stood was ended.
 */
import type { SimClock } from './sim.ts';
import { type Step, stepsFor } from './walk-script.ts';
import {
  branchOf,
  type Field,
  field,
  type Heard,
  has,
  heard,
  SDP_KINDS,
  sdp,
  tagOf,
  uriOf,
  written,
} from './walk-text.ts';

export interface PeerWeather {
  readonly loss: number;
  readonly duplication: number;
  readonly delayMsMax: number;
}

export interface WalkPeerParts {
  readonly clock: SimClock;
  readonly random: () => number;
  readonly weather: PeerWeather;
  readonly name: string;
  readonly address: string;
  transmit(text: string): void;
  /** How SIP wants it, in good weather: what is missing then is our node's fault. */
  readonly isJudge: boolean;
}

interface Dialog {
  readonly localTag: string;
  readonly remoteTag: string;
  readonly localParty: string;
  readonly remoteParty: string;
  readonly callId: string;
  target: string;
  cseq: number;
  isConfirmed: boolean;
  isOver: boolean;
}

/** A request of ours until its answer. */
interface Sent {
  readonly text: string;
  readonly branch: string;
  readonly atMs: number;
  readonly dialog: Dialog | null;
  readonly hasOffer: boolean;
  isHeard: boolean;
  isDone: boolean;
}

/** An INVITE of theirs. */
interface Served {
  readonly request: Heard;
  last: string;
  isFinal: boolean;
  isCancelled: boolean;
  isAcked: boolean;
  rseq: number;
}

const NODE_URI = 'sip:10.0.0.1:5060';
const TEXTS_MAX = 240;
const RETRIES_MAX = 6;
/** After this nothing is begun any more. */
const BUSY_MS = 60_000;
/** A request sent so shortly before the end may still wait. */
const PATIENCE_MS = 45_000;

export class WalkPeer {
  /** What the node owed and did not do. */
  readonly complaints: string[] = [];
  readonly #parts: WalkPeerParts;
  readonly #bornMs: number;
  readonly #dialogs = new Map<string, Dialog>();
  readonly #sent = new Map<string, Sent>();
  readonly #served = new Map<string, Served>();
  readonly #replies = new Map<string, string>();
  readonly #history: string[] = [];
  #texts = 0;
  #tags = 0;
  #branches = 0;
  #version = 1;
  #isGone = false;
  #isIllegal = false;

  constructor(parts: WalkPeerParts) {
    this.#parts = parts;
    this.#bornMs = parts.clock.monotonicMs();
  }

  // --- Beginning and end ----------------------------------------------------------------------

  /** Calls; what it says of itself is one of many ways. */
  call(user: string): void {
    const { name, address } = this.#parts;
    const callId = `${name}@${address}`;
    const uri = `sip:${user}@10.0.0.1`;
    const dialog = this.#dialogOf(callId, '', `<sip:a@${address}>`, `<${uri}>`);
    this.#invite({ ...dialog, target: uri }, inviteFields(this.#parts.random));
    if (this.#chance(0.25)) this.#later(20_000, () => this.#cancel());
    if (this.#chance(0.05)) this.#later(3_000, () => this.#cancel());
  }

  /** Judges, and says nothing more. */
  stop(): void {
    const untilMs = this.#parts.clock.monotonicMs() - PATIENCE_MS;
    if (this.#parts.isJudge && !this.#isGone && !this.#isIllegal) {
      for (const [what, { isDone, atMs }] of this.#sent) {
        if (!isDone && atMs < untilMs) this.complaints.push(`no answer to ${what}`);
      }
      for (const { isFinal, isAcked, last, request } of this.#served.values()) {
        const isOwed = isFinal && !isAcked && !request.method.startsWith('BYE');
        if (isOwed) this.complaints.push(`no ACK to ${last.slice(8, 11)}`);
      }
      for (const { isConfirmed, isOver } of this.#dialogs.values()) {
        if (isConfirmed && !isOver) this.complaints.push('a dialog still stands');
      }
    }
    this.#isGone = true;
  }

  // --- Hearing --------------------------------------------------------------------------------

  take(text: string): void {
    const { weather, clock } = this.#parts;
    if (this.#isGone || this.#chance(weather.loss)) return;
    if (weather.delayMsMax === 0) this.#hear(heard(text));
    else {
      clock.timer(this.#any(weather.delayMsMax), () => {
        if (!this.#isGone) this.#hear(heard(text));
      });
    }
  }

  #hear(message: Heard): void {
    if (!message.isRequest) this.#onResponse(message);
    else if (message.method === 'ACK') this.#onAck(message);
    else this.#onRequest(message);
  }

  #onResponse(message: Heard): void {
    const sent = this.#sent.get(`${message.cseq} ${message.of}`);
    if (sent === undefined) return;
    sent.isHeard = true;
    if (message.of === 'INVITE') this.#onInviteResponse(message, sent);
    else if (message.status >= 200) {
      sent.isDone = true;
      const isGone = message.status === 481 || message.status === 408;
      if (sent.dialog !== null && (isGone || message.of === 'BYE')) sent.dialog.isOver = true;
    }
  }

  #onInviteResponse(message: Heard, sent: Sent): void {
    const { status } = message;
    if (status >= 300) {
      sent.isDone = true;
      if (this.#chance(0.95)) this.#ackRefusal(message, sent);
      else this.#isIllegal = true;
      if (sent.dialog !== null && status === 481) sent.dialog.isOver = true;
      return;
    }
    if (status === 100) return;
    const dialog = sent.dialog?.isConfirmed ? sent.dialog : this.#answeredBy(message);
    if (status < 200) {
      if (has(message, 'require', '100rel')) this.#later(400, () => this.#prack(message, dialog));
      this.#earlyMoves(dialog);
      return;
    }
    sent.isDone = true;
    const isNew = !dialog.isConfirmed;
    dialog.isConfirmed = true;
    this.#ack(message, sent, dialog);
    if (isNew) this.#moves(dialog);
  }

  /** The dialog that a response of theirs begins or goes on with. */
  #answeredBy(message: Heard): Dialog {
    const remoteTag = tagOf(field(message, 'to'));
    const known = this.#dialogs.get(remoteTag);
    const dialog = known ?? {
      ...this.#dialogOf(
        field(message, 'call-id'),
        remoteTag,
        field(message, 'from'),
        field(message, 'to'),
      ),
      localTag: tagOf(field(message, 'from')),
      cseq: message.cseq,
    };
    const contact = field(message, 'contact');
    if (contact !== '') dialog.target = uriOf(contact);
    this.#dialogs.set(remoteTag, dialog);
    return dialog;
  }

  #onAck(message: Heard): void {
    for (const served of this.#served.values()) {
      if (served.request.cseq === message.cseq && served.isFinal) served.isAcked = true;
    }
  }

  #onRequest(message: Heard): void {
    const { method } = message;
    const branch = `${branchOf(message)} ${method}`;
    const again = method === 'INVITE' ? this.#served.get(branch)?.last : this.#replies.get(branch);
    if (again !== undefined) {
      if (again !== '' && this.#chance(0.9)) this.#out(again);
      return;
    }
    if (method === 'CANCEL') this.#onCancel(message, branch);
    else if (method === 'INVITE') this.#onInvite(message, branch);
    else this.#onDialogRequest(message, branch);
  }

  // --- Their INVITE ---------------------------------------------------------------------------

  #onInvite(request: Heard, branch: string): void {
    const served: Served = {
      ...{ request, last: '', isFinal: false, isCancelled: false, isAcked: false, rseq: 0 },
    };
    this.#served.set(branch, served);
    const dialog = this.#dialogs.get(tagOf(field(request, 'to')));
    const isAgain = tagOf(field(request, 'to')) !== '';
    if (isAgain && dialog === undefined) {
      this.#serve(served, {
        afterMs: 0,
        status: 481,
        tag: 0,
        sdp: '',
        isReliable: false,
        more: [],
      });
      return;
    }
    const { steps, isIllegal } = stepsFor(this.#parts.random, {
      isAgain,
      hasReliable: has(request, 'supported', '100rel') || has(request, 'require', '100rel'),
      hasTimer: field(request, 'session-expires'),
    });
    this.#isIllegal ||= isIllegal;
    let afterMs = 0;
    for (const step of steps) {
      afterMs += step.afterMs;
      this.#parts.clock.timer(afterMs, () => this.#serve(served, step));
    }
  }

  #serve(served: Served, step: Step): void {
    if (this.#isGone || (served.isCancelled && served.isFinal)) return;
    const { request } = served;
    const ownTag = tagOf(field(request, 'to'));
    const tag = ownTag === '' ? `t${step.tag}` : ownTag;
    const fields: Field[] = [...step.more];
    if (step.isReliable) {
      served.rseq += 1;
      fields.push(['Require', '100rel'], ['RSeq', String(served.rseq)]);
    }
    const body = step.sdp === '' ? '' : this.#sdp(step.sdp);
    const text = this.#reply(request, step.status, { tag, fields, body });
    served.last = text;
    if (step.status > 100 && step.status < 300) this.#servedDialog(request, tag, step.status);
    if (step.status < 200) {
      if (step.isReliable) this.#insist(text, () => served.isFinal || served.rseq < 0);
      return;
    }
    served.isFinal = true;
    this.#insist(text, () => served.isAcked);
  }

  #servedDialog(request: Heard, tag: string, status: number): void {
    const known = this.#dialogs.get(tag);
    const from = field(request, 'from');
    const dialog = known ?? {
      ...this.#dialogOf(field(request, 'call-id'), tagOf(from), field(request, 'to'), from),
      localTag: tag,
      localParty: `${field(request, 'to')};tag=${tag}`,
    };
    this.#dialogs.set(tag, dialog);
    dialog.target = uriOf(field(request, 'contact'));
    if (status < 200) this.#earlyMoves(dialog);
    else if (!dialog.isConfirmed) {
      dialog.isConfirmed = true;
      this.#moves(dialog);
    }
  }

  #onCancel(message: Heard, branch: string): void {
    const served = this.#served.get(branch.replace('CANCEL', 'INVITE'));
    if (this.#chance(0.04)) return;
    this.#answer(message, branch, served === undefined || this.#chance(0.03) ? 481 : 200);
    if (served === undefined || served.isFinal) return;
    if (this.#chance(0.08)) {
      this.#isIllegal = true;
      return;
    }
    const step = { afterMs: 0, tag: 0, sdp: '', isReliable: false, more: [] };
    this.#serve(served, { ...step, status: 487 });
    served.isCancelled = true;
  }

  #onDialogRequest(message: Heard, branch: string): void {
    const dialog = this.#dialogs.get(tagOf(field(message, 'to')));
    const known = dialog ?? this.#dialogs.get(tagOf(field(message, 'from')));
    if (this.#chance(0.05)) {
      this.#isIllegal = true;
      return;
    }
    if (known === undefined) {
      this.#answer(message, branch, 481);
      return;
    }
    if (message.method === 'BYE') known.isOver = true;
    if (message.method === 'PRACK') for (const one of this.#served.values()) one.rseq = -1;
    const status = this.#chance(0.85)
      ? 200
      : (this.#of([202, 481, 488, 491, 500, 501, 603]) ?? 500);
    const fields: Field[] = status === 500 ? [['Retry-After', '1']] : [];
    const timer = field(message, 'session-expires');
    if (timer !== '' && status === 200 && this.#chance(0.7)) {
      fields.push(['Session-Expires', timer], ['Require', 'timer']);
    }
    const body = message.body !== '' && status === 200 ? this.#sdp(this.#anySdp()) : '';
    if (status === 481) known.isOver = true;
    this.#answer(message, branch, status, { fields, body });
  }

  #answer(
    request: Heard,
    branch: string,
    status: number,
    more: { fields?: readonly Field[]; body?: string } = {},
  ): void {
    const tag = tagOf(field(request, 'to')) || 't0';
    this.#replies.set(branch, this.#reply(request, status, { fields: [], body: '', ...more, tag }));
  }

  #reply(
    request: Heard,
    status: number,
    { tag, fields, body }: { tag: string; fields: readonly Field[]; body: string },
  ): string {
    const to = field(request, 'to');
    const text = written(
      `SIP/2.0 ${status} So`,
      [
        ...(request.fields.get('via') ?? []).map((via): Field => ['Via', via]),
        ['From', field(request, 'from')],
        ['To', tagOf(to) === '' && status > 100 ? `${to};tag=${tag}` : to],
        ['Call-ID', field(request, 'call-id')],
        ['CSeq', field(request, 'cseq')],
        ['Contact', this.#contact()],
        ...fields,
        ...typed(body),
      ],
      body,
    );
    this.#out(text);
    return text;
  }

  // --- Our requests ---------------------------------------------------------------------------

  #invite(dialog: Dialog, fields: readonly Field[]): void {
    const kind = this.#chance(0.15) ? '' : this.#anySdp();
    const body = kind === '' ? '' : this.#sdp(kind);
    this.#request('INVITE', dialog, { fields, body, hasOffer: body !== '' });
  }

  #request(
    method: string,
    dialog: Dialog,
    given: { fields?: readonly Field[]; body?: string; hasOffer?: boolean; cseq?: number } = {},
  ): Sent {
    const { fields = [], body = '', hasOffer = false } = given;
    const cseq = given.cseq ?? dialog.cseq + 1;
    dialog.cseq = Math.max(dialog.cseq, cseq);
    const branch = this.#newBranch();
    const text = this.#written(method, dialog, { branch, cseq, fields, body });
    const atMs = this.#parts.clock.monotonicMs();
    const known = dialog.remoteTag === '' ? null : dialog;
    const sent = { text, branch, atMs, dialog: known, hasOffer, isHeard: false, isDone: false };
    this.#sent.set(`${cseq} ${method}`, sent);
    this.#out(text);
    this.#insist(text, () => sent.isDone || (sent.isHeard && method === 'INVITE'));
    return sent;
  }

  #written(
    method: string,
    dialog: Dialog,
    given: { branch: string; cseq: number; fields: readonly Field[]; body: string },
  ): string {
    const { branch, cseq, fields, body } = given;
    const hasHops = fields.some(([name]) => name === 'Max-Forwards');
    return written(
      `${method} ${dialog.target} SIP/2.0`,
      [
        ['Via', `SIP/2.0/UDP ${this.#parts.address}:5060;branch=${branch}`],
        ...(hasHops ? [] : [['Max-Forwards', '70'] as const]),
        ['From', withTag(dialog.localParty, dialog.localTag)],
        ['To', withTag(dialog.remoteParty, dialog.remoteTag)],
        ['Call-ID', dialog.callId],
        ['CSeq', `${cseq} ${method}`],
        ['Contact', this.#contact()],
        ...fields,
        ...typed(body),
      ],
      body,
    );
  }

  #ack(message: Heard, sent: Sent, dialog: Dialog): void {
    // Theirs was the offer: the answer belongs here.
    const isAnswer = !sent.hasOffer && message.body !== '' && this.#chance(0.95);
    const body = isAnswer ? this.#sdp(this.#chance(0.95) ? 'plain' : 'unknown') : '';
    const given = { branch: this.#newBranch(), cseq: message.cseq, fields: [], body };
    const send = (): void => this.#out(this.#written('ACK', dialog, given));
    if (this.#chance(0.85)) send();
    else if (this.#chance(0.7)) this.#later(40_000, send);
    else this.#isIllegal = true;
  }

  #ackRefusal(message: Heard, sent: Sent): void {
    const lines = sent.text.slice(0, sent.text.indexOf('\r\nContact:')).split('\r\n');
    const text = lines
      .map((line) => {
        if (line.startsWith('INVITE ')) return line.replace('INVITE', 'ACK');
        if (line.startsWith('To: ')) return `To: ${field(message, 'to')}`;
        return line.startsWith('CSeq: ') ? line.replace('INVITE', 'ACK') : line;
      })
      .join('\r\n');
    this.#out(`${text}\r\nContent-Length: 0\r\n\r\n`);
  }

  #prack(message: Heard, dialog: Dialog): void {
    if (this.#chance(0.1)) {
      this.#isIllegal = true;
      return;
    }
    const rseq = this.#chance(0.95) ? field(message, 'rseq') : '77';
    const rack = `${rseq} ${message.cseq} INVITE`;
    const [first] = this.#sent.values();
    const isAnswer = first?.hasOffer === false && message.body !== '';
    const body = isAnswer || this.#chance(0.05) ? this.#sdp('plain') : '';
    this.#request('PRACK', dialog, { fields: [['RAck', rack]], body });
  }

  #cancel(): void {
    const [first] = this.#sent.values();
    if (first === undefined) return;
    const [cseq = ''] = this.#sent.keys();
    const head = first.text.slice(0, first.text.indexOf('\r\nContact:'));
    const text = head.replace('INVITE', 'CANCEL').replace(/CSeq: (\d+) INVITE/, 'CSeq: $1 CANCEL');
    const whole = `${text}\r\nContent-Length: 0\r\n\r\n`;
    const atMs = this.#parts.clock.monotonicMs();
    const { branch } = first;
    const sent: Sent = {
      ...{ text: whole, branch, atMs, dialog: null, hasOffer: false },
      ...{ isHeard: false, isDone: false },
    };
    this.#sent.set(`${Number.parseInt(cseq, 10)} CANCEL`, sent);
    this.#out(whole);
    this.#insist(whole, () => sent.isDone);
  }

  // --- Moves ----------------------------------------------------------------------------------

  #earlyMoves(dialog: Dialog): void {
    if (!this.#chance(0.15)) return;
    this.#later(4_000, () => {
      if (dialog.isOver || !this.#isBusy()) return;
      if (this.#chance(0.6)) this.#request('UPDATE', dialog, { body: this.#sdp(this.#anySdp()) });
      else if (this.#chance(0.5)) this.#bye(dialog);
      else this.#move(dialog);
    });
  }

  #moves(dialog: Dialog): void {
    for (let left = Math.floor(this.#any(4)); left > 0; left -= 1) {
      this.#later(30_000, () => {
        if (!dialog.isOver && this.#isBusy()) this.#move(dialog);
      });
    }
    if (this.#chance(0.7)) {
      this.#later(this.#chance(0.5) ? 2_000 : 40_000, () => {
        if (!dialog.isOver) this.#bye(dialog);
      });
    }
    if (this.#chance(0.03)) {
      this.#later(20_000, () => {
        this.#isGone = true;
      });
    }
  }

  #bye(dialog: Dialog): void {
    if (dialog.isConfirmed) dialog.isOver = true;
    this.#request('BYE', dialog);
  }

  #move(dialog: Dialog): void {
    const move = this.#any(100);
    if (move < 25) this.#invite(dialog, []);
    else if (move < 40) this.#request('UPDATE', dialog, { body: this.#sdp(this.#anySdp()) });
    else if (move < 45) this.#request('UPDATE', dialog);
    else if (move < 52) this.#request('INFO', dialog, INFO);
    else if (move < 57) this.#request('OPTIONS', dialog);
    else if (move < 67) this.#request('REFER', dialog, { fields: this.#referTo() });
    else if (move < 70) this.#request('SUBSCRIBE', dialog, { fields: [['Event', 'refer']] });
    else if (move < 73) this.#request('MESSAGE', dialog, { fields: [], body: '' });
    else if (move < 76) this.#request('NOTIFY', dialog, { fields: [['Event', 'refer']] });
    else if (move < 79) this.#request('JUMP', dialog);
    else if (move < 82) this.#request('PRACK', dialog, { fields: [['RAck', '9 9 INVITE']] });
    else if (move < 86) this.#request('INFO', dialog, { cseq: Math.max(1, dialog.cseq - 1) });
    else if (move < 90) this.#request('BYE', { ...dialog, ...NOBODY });
    else this.#again();
  }

  /** Something said before, once more. */
  #again(): void {
    const text = this.#of(this.#history);
    if (text !== undefined) this.#out(text);
  }

  #referTo(): Field[] {
    const user = `+1${Math.floor(this.#any(6))}${String(Math.floor(this.#any(1e8))).padStart(8, '0')}`;
    const target = this.#of([`sip:${user}@10.0.0.1`, 'sip:x@10.0.9.9', 'tel:+15550199', 'garbage']);
    return [['Refer-To', `<${target}>`]];
  }

  // --- Sending --------------------------------------------------------------------------------

  /** Says it again until it need not (RFC 3261 §17). */
  #insist(text: string, isDone: () => boolean): void {
    let waitMs = 500;
    let left = RETRIES_MAX;
    const again = (): void => {
      if (isDone() || this.#isGone || left === 0) return;
      left -= 1;
      waitMs = Math.min(waitMs * 2, 4_000);
      this.#out(text);
      this.#parts.clock.timer(waitMs, again);
    };
    this.#parts.clock.timer(waitMs, again);
  }

  #out(text: string): void {
    const { weather, clock, transmit } = this.#parts;
    this.#texts += 1;
    if (this.#isGone || this.#texts > TEXTS_MAX) return;
    if (this.#history.length < 20) this.#history.push(text);
    const copies = this.#chance(weather.duplication) ? 2 : 1;
    for (let i = 0; i < copies; i += 1) {
      if (this.#chance(weather.loss)) continue;
      if (weather.delayMsMax === 0) transmit(text);
      else clock.timer(this.#any(weather.delayMsMax), () => transmit(text));
    }
  }

  #dialogOf(callId: string, remoteTag: string, localParty: string, remoteParty: string): Dialog {
    this.#tags += 1;
    const localTag = `${this.#parts.name}-${this.#tags}`;
    const state = { target: NODE_URI, cseq: 0, isConfirmed: false, isOver: false };
    return { localTag, remoteTag, localParty, remoteParty, callId, ...state };
  }

  #sdp(kind: string): string {
    this.#version += 1;
    return sdp(this.#parts.address, kind, this.#version);
  }

  #anySdp(): string {
    if (this.#chance(0.75)) return 'plain';
    if (this.#chance(0.85)) return this.#of(SDP_KINDS) ?? 'plain';
    return this.#chance(0.5) ? 'unknown' : 'broken';
  }

  #contact(): string {
    return `<sip:x@${this.#parts.address}:5060>`;
  }

  #newBranch(): string {
    this.#branches += 1;
    return `z9hG4bK-${this.#parts.name}-${this.#branches}`;
  }

  #isBusy(): boolean {
    return this.#parts.clock.monotonicMs() - this.#bornMs < BUSY_MS;
  }

  #later(withinMs: number, fn: () => void): void {
    this.#parts.clock.timer(this.#any(withinMs), () => {
      if (!this.#isGone) fn();
    });
  }

  #any(max: number): number {
    return this.#parts.random() * max;
  }

  #chance(share: number): boolean {
    return share > 0 && this.#parts.random() < share;
  }

  #of<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.#any(list.length))];
  }
}

/** A dialog that the node never had. */
const NOBODY = { remoteTag: 'nobody', remoteParty: '<sip:nobody@10.0.0.1>' };

const INFO = {
  fields: [['Content-Type', 'application/dtmf-relay'] as const],
  body: 'Signal=5\r\nDuration=100\r\n',
};

function typed(body: string): Field[] {
  return body.startsWith('v=') ? [['Content-Type', 'application/sdp']] : [];
}

function withTag(party: string, tag: string): string {
  return tag === '' || tagOf(party) !== '' ? party : `${party};tag=${tag}`;
}

/** What an INVITE of theirs says beside what it must. */
function inviteFields(random: () => number): Field[] {
  const fields: Field[] = [];
  const roll = random();
  if (roll < 0.35) fields.push(['Supported', '100rel, timer']);
  else if (roll < 0.45) fields.push(['Require', '100rel']);
  else if (roll < 0.6) {
    fields.push(['Supported', 'timer'], ['Session-Expires', random() < 0.8 ? '90' : '30']);
  } else if (roll < 0.62) fields.push(['Require', 'magic']);
  else if (roll < 0.64) fields.push(['Max-Forwards', '0']);
  else if (roll < 0.66) fields.push(['Replaces', 'nobody;to-tag=a;from-tag=b']);
  fields.push(['Allow', 'INVITE, ACK, CANCEL, BYE, UPDATE, PRACK, INFO, REFER, NOTIFY']);
  return fields;
}
