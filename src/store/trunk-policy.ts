/**
 * How a trunk wants its calls: the plain data that a trunk's row carries beside its addresses and
 * credentials, with the defaults of a trunk that says nothing. Not the row (`store.ts`), not its
 * parameters in the REST surface (`api/trunk-policy.ts`) and not what is done with it (`call/`).
 *
 * Every field is plain JSON (types, not interfaces, so that the compiler sees it). A row of an
 * older version lacks fields: `trunkPolicy` fills them in.
 */

export type SrtpMode = 'off' | 'preferred' | 'required';
export type DtmfMode = 'rfc4733' | 'info' | 'inband';

/** RFC 4028. `accept`: what the peer asks; `request`: we ask; `require`: 421 without it. */
export type SessionTimerPolicy = {
  readonly mode: 'off' | 'accept' | 'request' | 'require';
  readonly expiresS: number;
  readonly minSeS: number;
  readonly refresher: 'auto' | 'uac' | 'uas';
};

/** RFC 3262. `require` asks it of the peer; `support` lets the peer ask it of us. */
export type ReliableMode = 'off' | 'support' | 'require';

/** How numbers are written to the carrier and read from it. `as-is` changes nothing. */
export type NumberPolicy = {
  readonly inbound: 'as-is' | 'e164';
  readonly outbound: 'as-is' | 'e164' | 'plain' | 'international' | 'national';
  /** Digits of the country code, without plus; '' leaves national numbers as they are. */
  readonly countryCode: string;
  readonly internationalPrefix: string;
  readonly nationalPrefix: string;
  /** Leading digits taken away, then these put before; outbound, after the format. */
  readonly stripDigits: number;
  readonly addPrefix: string;
};

/** Who may be shown as the caller. `allowed`: the numbers listed, else `fallback`. */
export type CallerIdPolicy = {
  readonly mode: 'as-is' | 'fixed' | 'allowed';
  readonly allowed: readonly string[];
  /** Shown when the mode says so; '' withholds the number. */
  readonly fallback: string;
};

/** RFC 3325, 3323, 5806, 7044, 7433. */
export type IdentityPolicy = {
  /** Take P-Asserted-Identity, Remote-Party-ID and Privacy of this peer as true. */
  readonly trust: boolean;
  readonly send: 'none' | 'pai' | 'rpid' | 'both';
  readonly diversion: 'drop' | 'diversion' | 'history-info';
  readonly userToUser: 'drop' | 'pass';
};

/** RFC 8224. `report`: tell the application; `require`: refuse what is not verified (§6.2.2). */
export type StirPolicy = {
  readonly sign: boolean;
  readonly verify: 'off' | 'report' | 'require';
};

/** By parsed name, never raw. `set` overwrites, `remove` takes away, `pass` lets through. */
export type HeaderRule = {
  readonly direction: 'in' | 'out';
  readonly action: 'pass' | 'set' | 'remove';
  readonly name: string;
  readonly value: string;
};

/**
 * Fields of the transaction, the dialog and the body, short forms included: a rule on one of these
 * would break the protocol, so there is none. Lower case.
 */
export const PROTECTED_HEADERS: ReadonlySet<string> = new Set(
  (
    'via v from f to t call-id i cseq contact m route record-route path max-forwards ' +
    'content-length l content-type c content-encoding e require proxy-require supported k ' +
    'unsupported allow allow-events u event o rseq rack session-expires x min-se refer-to r ' +
    'replaces authorization proxy-authorization www-authenticate proxy-authenticate ' +
    'authentication-info identity y'
  ).split(' '),
);

/** RFC 3515, 3891. `accept`: the transfer is made by us; `application`: the app is asked. */
export type ReferMode = 'refuse' | 'accept' | 'application';

export type RedirectPolicy = {
  /** RFC 3261 §8.1.3.4: contacts of a 3xx that may be tried, when they are on this trunk. */
  readonly mode: 'refuse' | 'follow';
  readonly redirectsMax: number;
};

/** What makes the next gateway be tried. */
export type FailoverPolicy = {
  /** Statuses and classes: `503`, `5xx`, `408`. */
  readonly statuses: readonly string[];
  /** Statuses that end it all whatever the list above says. */
  readonly finalStatuses: readonly string[];
  /** Q.850 causes in a Reason field (RFC 3326) that make the next one be tried. */
  readonly causes: readonly number[];
  /** No provisional answer within this time is a failure of the gateway. */
  readonly noProvisionalMs: number;
  readonly triesMax: number;
};

/** 0 is no bound beside the node's own. */
export type TrunkLimits = {
  readonly callsMax: number;
  readonly callsInMax: number;
  readonly callsOutMax: number;
  readonly callsPerSecondIn: number;
  readonly callsPerSecondOut: number;
};

export type HealthPolicy = {
  /** OPTIONS to each gateway this often; 0: never. */
  readonly optionsIntervalS: number;
  /** Probes in a row that change the verdict. */
  readonly failuresToDown: number;
  readonly successesToUp: number;
  /** Share of live tries that may fail (timeouts, 5xx) before a gateway rests, 0 to 1; 1: never. */
  readonly failureRateMax: number;
  /** Tries that make the share mean something. */
  readonly triesMin: number;
  readonly restS: number;
};

/** REGISTER towards the carrier. */
export type RegistrationPolicy = {
  readonly enabled: boolean;
  /** The address to register; '' : the trunk's user name at the registrar's host. */
  readonly addressOfRecord: string;
  readonly expiresS: number;
};

export type TrunkPolicy = {
  /** Codecs offered and accepted, best first; none: those of `sip.codecs`. */
  readonly codecs: readonly string[];
  readonly ptimeMs: number;
  readonly srtp: SrtpMode;
  readonly dtmf: DtmfMode;
  readonly sessionTimer: SessionTimerPolicy;
  readonly reliable: ReliableMode;
  readonly numbers: NumberPolicy;
  readonly callerId: CallerIdPolicy;
  readonly identity: IdentityPolicy;
  readonly stir: StirPolicy;
  readonly headers: readonly HeaderRule[];
  readonly refer: ReferMode;
  readonly redirect: RedirectPolicy;
  readonly failover: FailoverPolicy;
  readonly limits: TrunkLimits;
  readonly health: HealthPolicy;
  readonly registration: RegistrationPolicy;
};

export const DEFAULT_TRUNK_POLICY: TrunkPolicy = {
  codecs: [],
  ptimeMs: 20,
  srtp: 'off',
  dtmf: 'rfc4733',
  sessionTimer: { mode: 'accept', expiresS: 1800, minSeS: 90, refresher: 'auto' },
  reliable: 'support',
  numbers: {
    inbound: 'as-is',
    outbound: 'as-is',
    countryCode: '',
    internationalPrefix: '00',
    nationalPrefix: '0',
    stripDigits: 0,
    addPrefix: '',
  },
  callerId: { mode: 'as-is', allowed: [], fallback: '' },
  identity: { trust: false, send: 'none', diversion: 'drop', userToUser: 'pass' },
  stir: { sign: false, verify: 'off' },
  headers: [],
  refer: 'refuse',
  redirect: { mode: 'refuse', redirectsMax: 3 },
  failover: {
    statuses: ['408', '500', '502', '503', '504'],
    finalStatuses: ['486', '600', '603', '604', '606', '607', '608'],
    causes: [27, 34, 38, 41, 42, 44],
    noProvisionalMs: 5000,
    triesMax: 6,
  },
  limits: {
    callsMax: 0,
    callsInMax: 0,
    callsOutMax: 0,
    callsPerSecondIn: 0,
    callsPerSecondOut: 0,
  },
  health: {
    optionsIntervalS: 30,
    failuresToDown: 2,
    successesToUp: 1,
    failureRateMax: 0.5,
    triesMin: 10,
    restS: 30,
  },
  registration: { enabled: false, addressOfRecord: '', expiresS: 600 },
};

/** What may be left out: any section, and any field of a section. */
export type TrunkPolicyChange = {
  readonly [Section in keyof TrunkPolicy]?: TrunkPolicy[Section] extends
    | readonly unknown[]
    | string
    | number
    ? TrunkPolicy[Section]
    : Partial<TrunkPolicy[Section]>;
};

/** `base` with what `change` says; sections are merged field by field, lists replaced. */
export function trunkPolicy(
  change: TrunkPolicyChange,
  base: TrunkPolicy = DEFAULT_TRUNK_POLICY,
): TrunkPolicy {
  const merged: Record<string, unknown> = { ...base };
  for (const [section, value] of Object.entries(change)) {
    const known = merged[section];
    if (known === undefined) continue;
    const isSection = typeof known === 'object' && !Array.isArray(known);
    merged[section] = isSection ? { ...known, ...(value as object) } : value;
  }
  return merged as unknown as TrunkPolicy;
}
