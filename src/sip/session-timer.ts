/**
 * Session timers (RFC 4028): how two user agents agree on how long a session lives without a word,
 * who renews it, and the one deadline that follows. Reads and writes Session-Expires and Min-SE;
 * how a refresh is sent (UPDATE or re-INVITE) and how a session ends is the session's.
 */
import type { HeaderField, SipMessage } from './message.ts';
import { Deadline, type Wheel } from './wheel.ts';

/** `accept`: what the peer asks; `request`: we ask; `require`: 421 without it. */
export interface SessionTimerPolicy {
  readonly mode: 'off' | 'accept' | 'request' | 'require';
  readonly expiresS: number;
  readonly minSeS: number;
  readonly refresher: 'auto' | 'uac' | 'uas';
}

export const DEFAULT_SESSION_TIMER: SessionTimerPolicy = {
  mode: 'accept',
  expiresS: 1800,
  minSeS: 90,
  refresher: 'auto',
};

/** What is agreed, as plain data. */
export interface TimerAgreement {
  readonly expiresS: number;
  /** We send the refreshes. */
  readonly isRefresher: boolean;
}

/** A timer as a journal keeps it. */
export interface SessionTimerRecord extends TimerAgreement {
  readonly policy: SessionTimerPolicy;
  /** The larger of our Min-SE and what a 422 told us. */
  readonly minSeS: number;
  /** Wall clock: when it was agreed or renewed last. */
  readonly renewedAtMs: number;
}

export interface SessionTimerOwner {
  /** Half of the time is gone, and it is ours to renew (§7.2, §10). */
  onRefreshDue(): void;
  /** Nobody renewed it (§10). */
  onSessionExpired(): void;
}

/** §4: no interval is shorter, unless policy itself asks for less. */
const FLOOR_S = 90;
/** A week: more is no timer, and keeps the arithmetic small. */
const CEILING_S = 604_800;
/** A refresh that met glare or another change is tried again so much later. */
const POSTPONE_MS = 5000;

interface Asked {
  readonly expiresS: number;
  readonly refresher: 'uac' | 'uas' | null;
}

export function supports(message: SipMessage, option: string): boolean {
  return message.list('Supported').some((name) => name.toLowerCase() === option);
}

export function requires(message: SipMessage, option: string): boolean {
  return message.list('Require').some((name) => name.toLowerCase() === option);
}

/** Session-Expires; null when there is none, or none that can be read. */
function sessionExpiresOf(message: SipMessage): Asked | null {
  const match = /^(\d{1,10})\s*(?:;(.*))?$/s.exec(message.header('Session-Expires') ?? '');
  if (match === null) return null;
  const refresher = /(?:^|;)\s*refresher\s*=\s*(uac|uas)\s*(?:;|$)/i.exec(match[2] ?? '')?.[1];
  const expiresS = Math.min(Number(match[1]), CEILING_S);
  return { expiresS, refresher: (refresher?.toLowerCase() ?? null) as Asked['refresher'] };
}

function minSeOf(message: SipMessage): number | null {
  const match = /^(\d{1,10})\s*(?:;|$)/.exec(message.header('Min-SE') ?? '');
  return match === null ? null : Math.min(Number(match[1]), CEILING_S);
}

export type TimerVerdict =
  | { readonly kind: 'refused'; readonly status: 421 | 422; readonly headers: HeaderField[] }
  /** `headers` are for the 2xx. */
  | {
      readonly kind: 'agreed';
      readonly agreement: TimerAgreement | null;
      readonly headers: HeaderField[];
    };

/** What we, as UAS, make of an INVITE or UPDATE (§9). `current`: what holds until now. */
export function judgeTimer(
  request: SipMessage,
  policy: SessionTimerPolicy,
  current: TimerAgreement | null,
): TimerVerdict {
  if (policy.mode === 'off') return { kind: 'agreed', agreement: null, headers: [] };
  const isSupported = supports(request, 'timer') || requires(request, 'timer');
  const asked = sessionExpiresOf(request);
  if (policy.mode === 'require' && !isSupported && request.toTag === '') {
    return { kind: 'refused', status: 421, headers: [['Require', 'timer']] };
  }
  // §9: who does not know timers would not know what 422 means; a proxy asked for it.
  if (asked !== null && asked.expiresS < policy.minSeS && isSupported) {
    return { kind: 'refused', status: 422, headers: [['Min-SE', String(policy.minSeS)]] };
  }
  const isWanted = policy.mode !== 'accept' || current !== null;
  if (asked === null && !isWanted) return { kind: 'agreed', agreement: null, headers: [] };
  const own = Math.max(current?.expiresS ?? policy.expiresS, minSeOf(request) ?? 0);
  const expiresS = floored(asked?.expiresS ?? own, policy);
  const refresher = refresherFor(asked, isSupported, policy, current);
  const headers: HeaderField[] = [['Session-Expires', `${expiresS};refresher=${refresher}`]];
  // §9: the UAC must know that the task is its own.
  if (refresher === 'uac') headers.push(['Require', 'timer']);
  return { kind: 'agreed', agreement: { expiresS, isRefresher: refresher === 'uas' }, headers };
}

/** §9, table 2: what the UAC says holds; who knows no timers cannot be told to refresh. */
function refresherFor(
  asked: Asked | null,
  isSupported: boolean,
  policy: SessionTimerPolicy,
  current: TimerAgreement | null,
): 'uac' | 'uas' {
  if (!isSupported) return 'uas';
  if (asked !== null && asked.refresher !== null) return asked.refresher;
  if (current !== null) return current.isRefresher ? 'uas' : 'uac';
  return policy.refresher === 'uas' ? 'uas' : 'uac';
}

function floored(expiresS: number, policy: SessionTimerPolicy): number {
  return Math.max(expiresS, Math.min(FLOOR_S, policy.minSeS), 1);
}

/** The timer of one session: what we ask, what is agreed, and when something is due. */
export class SessionTimer extends Deadline {
  #policy: SessionTimerPolicy;
  readonly #wheel: Wheel;
  readonly #owner: SessionTimerOwner;
  readonly #wallClock: () => number;
  #agreement: TimerAgreement | null = null;
  /** Ours, or larger after a 422. */
  #minSeS: number;
  #renewedAtMs = 0;
  #expiresAtMs = Number.POSITIVE_INFINITY;
  #isRefreshing = false;

  constructor(options: {
    policy: SessionTimerPolicy;
    wheel: Wheel;
    owner: SessionTimerOwner;
    wallClock: () => number;
  }) {
    super();
    this.#policy = options.policy;
    this.#wheel = options.wheel;
    this.#owner = options.owner;
    this.#wallClock = options.wallClock;
    this.#minSeS = options.policy.minSeS;
  }

  get policy(): SessionTimerPolicy {
    return this.#policy;
  }

  /** The policy of the peer, once it is known who that is. */
  use(policy: SessionTimerPolicy): void {
    this.#policy = policy;
    this.#minSeS = policy.minSeS;
  }

  get agreement(): TimerAgreement | null {
    return this.#agreement;
  }

  record(): SessionTimerRecord | null {
    if (this.#agreement === null) return null;
    const { policy } = this;
    return {
      ...this.#agreement,
      policy,
      minSeS: this.#minSeS,
      renewedAtMs: this.#renewedAtMs,
    };
  }

  /** Goes on where a former process was. What ran out meanwhile is due at once. */
  restore(record: SessionTimerRecord): void {
    const { expiresS, isRefresher } = record;
    this.#policy = record.policy;
    this.#minSeS = record.minSeS;
    this.#start({ expiresS, isRefresher }, record.renewedAtMs);
  }

  /** The fields of a request of ours, first or within the dialog (§7.1, §7.4). */
  requestFields(): HeaderField[] {
    const { mode, refresher } = this.policy;
    if (mode === 'off') return [];
    const current = this.#agreement;
    const minSe: HeaderField[] =
      this.#minSeS > FLOOR_S || current !== null || mode !== 'accept'
        ? [['Min-SE', String(this.#minSeS)]]
        : [];
    if (current === null && mode === 'accept') return minSe;
    const expiresS = this.#asks();
    // Within a dialog the roles stay as they are: who asks this time is the UAC.
    const role = current === null ? refresher : current.isRefresher ? 'uac' : 'uas';
    const value = role === 'auto' ? String(expiresS) : `${expiresS};refresher=${role}`;
    const required: HeaderField[] =
      current === null && mode === 'require' ? [['Require', 'timer']] : [];
    return [['Session-Expires', value], ...minSe, ...required];
  }

  /** §7.3: a 422 to our request. False when asking again would not help. */
  raise(response: SipMessage): boolean {
    const minSeS = minSeOf(response);
    if (minSeS === null || minSeS <= this.#asks()) return false;
    this.#minSeS = minSeS;
    return true;
  }

  /** A 2xx to our request (§7.2): without Session-Expires there is no timer any more. */
  answered(response: SipMessage): void {
    const told = this.policy.mode === 'off' ? null : sessionExpiresOf(response);
    if (told === null) {
      this.agree(null);
      return;
    }
    const expiresS = floored(told.expiresS, this.policy);
    this.agree({ expiresS, isRefresher: told.refresher !== 'uas' });
  }

  /** What a 2xx of either side says from now on. */
  agree(agreement: TimerAgreement | null): void {
    if (agreement === null) this.stop();
    else this.#start(agreement, this.#wallClock());
  }

  /** The refresh could not be sent now, or was refused: once more before the time is over. */
  postpone(): void {
    if (this.#agreement === null) return;
    this.#isRefreshing = false;
    this.#wheel.set(this, Math.min(this.#wheel.nowMs() + POSTPONE_MS, this.#expiresAtMs));
  }

  stop(): void {
    this.#agreement = null;
    this.#wheel.clear(this);
  }

  override expire(nowMs: number): void {
    if (nowMs >= this.#expiresAtMs) {
      this.stop();
      this.#owner.onSessionExpired();
      return;
    }
    this.#wheel.set(this, this.#expiresAtMs);
    if (this.#isRefreshing) return;
    this.#isRefreshing = true;
    this.#owner.onRefreshDue();
  }

  #asks(): number {
    return Math.max(this.#agreement?.expiresS ?? this.policy.expiresS, this.#minSeS);
  }

  #start(agreement: TimerAgreement, renewedAtMs: number): void {
    this.#agreement = agreement;
    this.#renewedAtMs = renewedAtMs;
    this.#isRefreshing = false;
    const { expiresS, isRefresher } = agreement;
    const startMs = this.#wheel.nowMs() - Math.max(0, this.#wallClock() - renewedAtMs);
    // §10: a little before, so that the peer, whose clock runs too, still gets the BYE.
    this.#expiresAtMs = startMs + (expiresS - Math.min(32, expiresS / 3)) * 1000;
    const halfMs = startMs + expiresS * 500;
    this.#wheel.set(this, isRefresher ? halfMs : this.#expiresAtMs);
  }
}
