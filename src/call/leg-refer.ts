/**
 * Transfers as one leg sees them: a REFER of its peer becomes a question to the router and the
 * answers become NOTIFYs; a REFER of ours becomes events. Whom a Refer-To names is read here: a
 * number at our own address is a number, everything else an address (RFC 3515 §2.1). What becomes
 * of two calls is `transfer.ts`.
 */
import type { Bus } from '../bus/bus.ts';
import type { Clock, Timer } from '../core/clock.ts';
import { asGatewayError, describe, ERRORS } from '../core/errors.ts';
import type { CallSid } from '../core/sid.ts';
import { type HeaderField, parseUri } from '../sip/message.ts';
import { writeReplaces } from '../sip/replaces.ts';
import type { Session } from '../sip/session.ts';
import type { InfoMessage, ReferProgress, Referral } from '../sip/side-report.ts';
import { telephoneOf } from '../sip/uri.ts';
import type { ReferAction, ReferFact } from './referral.ts';
import type { DialTarget } from './route.ts';
import { type LegReferral, REFERRALS } from './transfer-order.ts';

export interface LegReferOwner {
  readonly callSid: CallSid;
  readonly referMode: 'refuse' | 'accept' | 'application';
  tell(fact: ReferFact, key: string | null): void;
  /** The transfer is done and told: the leg may go. */
  onTransferred(): void;
}

export interface LegReferDeps {
  readonly clock: Clock;
  readonly bus: Bus;
  /** Hosts that are this node: a number there is to be routed like any number. */
  readonly isOurs: (host: string) => boolean;
  /** The call whose leg has that dialog with us. */
  readonly callOf: (referral: Referral) => CallSid | null;
}

/** How long the router may take: REFER itself has to be answered in less (RFC 3515 §2.4.2). */
const VERDICT_MS = 5000;
/** After the last NOTIFY the peer gets so long to take it before the call ends. */
const GOODBYE_MS = 4000;

export class LegRefer {
  readonly #owner: LegReferOwner;
  readonly #deps: LegReferDeps;
  readonly #open = new Map<string, Referral>();
  readonly #own = new Map<number, string>();
  #session: Session | null = null;
  #goodbye: Timer | null = null;

  constructor(owner: LegReferOwner, deps: LegReferDeps) {
    this.#owner = owner;
    this.#deps = deps;
  }

  /** Somebody still waits for word of a transfer. */
  get isWaiting(): boolean {
    return this.#open.size > 0;
  }

  attach(session: Session): void {
    this.#session = session;
    session.on('refer', (referral) => void this.#onReferral(referral));
    session.on('referProgress', (progress) => this.#onProgress(progress));
    session.on('info', (info) => this.#owner.tell({ kind: 'info', ...info }, null));
  }

  obey(command: ReferAction & { readonly id: string }): void {
    switch (command.kind) {
      case 'referOutcome':
        this.#outcome(command.referId, command.sipStatus, command.isLast);
        return;
      case 'refer': {
        const { uri, headers, referredBy } = command;
        const { side } = this.#session ?? {};
        if (side === undefined) {
          this.#tellProgress(command.id, { status: 481, outcome: 0, isOver: true });
          return;
        }
        // Its first word may come before `refer` returns: there is no dialog then.
        const id = side.refer(uri, { headers, referredBy });
        this.#own.set(id, command.id);
        const early = this.#early;
        this.#early = null;
        if (early?.id === id) this.#onProgress(early);
        return;
      }
      case 'sendInfo':
        this.#session?.side.sendInfo(infoOf(command));
        return;
      default:
        command satisfies never;
    }
  }

  close(): void {
    this.#goodbye?.cancel();
  }

  #early: ReferProgress | null = null;

  #onProgress(progress: ReferProgress): void {
    const commandId = this.#own.get(progress.id);
    if (commandId === undefined) {
      this.#early = progress;
      return;
    }
    if (progress.isOver) this.#own.delete(progress.id);
    this.#tellProgress(commandId, progress);
  }

  #tellProgress(id: string, progress: Omit<ReferProgress, 'id'>): void {
    const { status: sipStatus, outcome: notifiedStatus, isOver } = progress;
    this.#owner.tell({ kind: 'referProgress', id, sipStatus, notifiedStatus, isOver }, null);
  }

  async #onReferral(referral: Referral): Promise<void> {
    const { referMode: mode, callSid } = this.#owner;
    if (mode === 'refuse') {
      referral.refuse(603);
      return;
    }
    const target = this.#targetOf(referral);
    const asked: LegReferral = {
      callSid,
      referId: referral.id,
      target,
      uri: referral.uri,
      replacedCallSid: this.#deps.callOf(referral),
      mode,
    };
    this.#open.set(referral.id, referral);
    try {
      const options = { timeoutMs: VERDICT_MS };
      const verdict = await this.#deps.bus.request(REFERRALS, asked, options);
      if (verdict.isTaken) {
        referral.accept();
        referral.whenTold(() => this.#open.delete(referral.id));
        return;
      }
      const { code, details } = verdict;
      referral.refuse(finalOf(ERRORS[code].sip), describe(code, details));
    } catch (thrown) {
      const { row, message } = asGatewayError(thrown);
      referral.refuse(finalOf(row.sip), message);
    }
    this.#open.delete(referral.id);
  }

  #outcome(referId: string, status: number, isLast: boolean): void {
    const referral = this.#open.get(referId);
    referral?.tell(status);
    if (!isLast) return;
    // RFC 5589 §6: the transferor may hang up by itself once it knows; we do when it has been told.
    const done = (): void => {
      this.#goodbye?.cancel();
      this.#owner.onTransferred();
    };
    this.#goodbye = this.#deps.clock.timer(GOODBYE_MS, done);
    if (referral === undefined) done();
    else referral.whenTold(done);
  }

  #targetOf({ uri, headers, replaces, referredBy }: Referral): DialTarget {
    const parsed = parseUri(uri);
    const phone = telephoneOf(parsed);
    const isNumber = phone !== null && /^\+?[0-9*#]{2,}$/.test(phone.number);
    const isHere = parsed.scheme === 'tel' || this.#deps.isOurs(parsed.host);
    if (isNumber && isHere) return { kind: 'number', number: phone.number };
    const fields: HeaderField[] = [...headers];
    if (referredBy !== '') fields.push(['Referred-By', referredBy]);
    const target = { kind: 'sip', uri, credentials: null, headers: fields } as const;
    return replaces === null ? target : { ...target, replaces: writeReplaces(replaces) };
  }
}

function infoOf({ package: name, contentType, body }: InfoMessage): InfoMessage {
  return { package: name, contentType, body };
}

/** A refusal of REFER has to be one. */
function finalOf(status: number): number {
  return status >= 300 ? status : 603;
}
