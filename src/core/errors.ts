/**
 * The one table of errors: code, HTTP status, SIP status, number that existing apps know, and
 * whose fault it is. Bad input is one of these; a broken invariant is an assertion and ends the
 * call it happened in. `throw new Error` outside this file fails the tidy test.
 */

export type Fault = 'caller' | 'carrier' | 'app' | 'gateway';

export interface ErrorRow {
  /** Status when it is told over REST. */
  readonly http: number;
  /** Final status when it ends or refuses a SIP request (RFC 3261 §21). */
  readonly sip: number;
  /** Number in the dictionary that TwiML apps know; absent where none fits. */
  readonly number?: number;
  readonly fault: Fault;
  /** `%name` is replaced by the detail of that name. */
  readonly text: string;
}

export const ERRORS = {
  // Start and configuration
  CONFIG_UNKNOWN_KEY: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'unknown configuration key "%key"%hint',
  },
  CONFIG_BAD_VALUE: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'configuration key "%key": %problem',
  },
  CONFIG_UNREADABLE: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'configuration file %file: %problem',
  },
  LISTEN_FAILED: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'cannot listen on %address (key "%key"): %problem',
  },
  PORTS_IN_EPHEMERAL_RANGE: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: "media ports %range overlap the kernel's ephemeral ports %ephemeral: set media.portMin/media.portMax outside it, or run: %fix",
  },
  ADDON_MISSING: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'the media addon is not built: %problem',
  },
  BAD_ADDRESS: {
    http: 400,
    sip: 500,
    fault: 'app',
    text: '"%address" is not an IP address or CIDR',
  },
  // SIP input
  SIP_MALFORMED: {
    http: 400,
    sip: 400,
    number: 32100,
    fault: 'caller',
    text: 'malformed SIP message: %problem',
  },
  SIP_TOO_LARGE: {
    http: 413,
    sip: 513,
    number: 32100,
    fault: 'caller',
    text: 'SIP message over a limit: %problem',
  },
  SIP_URI_TOO_LONG: {
    http: 414,
    sip: 414,
    number: 32100,
    fault: 'caller',
    text: 'Request-URI over a limit: %problem',
  },
  SIP_VERSION: {
    http: 400,
    sip: 505,
    number: 32100,
    fault: 'caller',
    text: 'SIP version %version is not supported',
  },
  SIP_SCHEME: {
    http: 400,
    sip: 416,
    number: 32100,
    fault: 'caller',
    text: 'URI scheme "%scheme" is not supported',
  },
  SIP_METHOD_UNKNOWN: {
    http: 501,
    sip: 501,
    fault: 'caller',
    text: 'method %method is not implemented',
  },
  SIP_METHOD_REFUSED: {
    http: 405,
    sip: 405,
    fault: 'caller',
    text: 'method %method is not allowed here',
  },
  SIP_EXTENSION: {
    http: 400,
    sip: 420,
    fault: 'caller',
    text: 'required extension not supported: %option',
  },
  SIP_MEDIA_TYPE: {
    http: 415,
    sip: 415,
    fault: 'caller',
    text: 'body type %type is not supported',
  },
  SIP_NOT_ACCEPTABLE: {
    http: 406,
    sip: 406,
    fault: 'caller',
    text: 'the request accepts no application/sdp',
  },
  SIP_LOOP: { http: 400, sip: 482, fault: 'carrier', text: 'request looped or merged' },
  SIP_TOO_MANY_HOPS: {
    http: 400,
    sip: 483,
    number: 32006,
    fault: 'carrier',
    text: 'Max-Forwards used up',
  },
  SIP_NO_DIALOG: { http: 404, sip: 481, fault: 'caller', text: 'no such dialog or transaction' },
  SIP_DIALOG_OVER: { http: 404, sip: 603, fault: 'caller', text: 'that dialog has ended' },
  SIP_DIALOG_ANSWERED: {
    http: 409,
    sip: 486,
    fault: 'caller',
    text: 'that dialog is answered, and only an early one was to be replaced',
  },
  SIP_EVENT_UNKNOWN: {
    http: 404,
    sip: 489,
    fault: 'caller',
    text: 'nothing is notified here of that event',
  },
  REFER_REFUSED: {
    http: 403,
    sip: 603,
    fault: 'caller',
    text: 'not transferred: %problem',
  },
  REFER_NO_URL: {
    http: 400,
    sip: 603,
    number: 13802,
    fault: 'app',
    text: 'a transfer was asked for, and the application gave no referUrl',
  },
  REFER_NOT_SIP: {
    http: 400,
    sip: 488,
    number: 13801,
    fault: 'app',
    text: 'cannot refer to %uri',
  },
  SIP_AUTH_REQUIRED: { http: 401, sip: 401, fault: 'caller', text: 'authentication required' },
  SIP_FORBIDDEN: {
    http: 403,
    sip: 403,
    number: 32200,
    fault: 'caller',
    text: 'not allowed: %problem',
  },
  SIP_TIMEOUT: { http: 504, sip: 408, fault: 'carrier', text: 'no answer from %peer' },
  SIP_TRANSPORT: { http: 502, sip: 503, fault: 'carrier', text: 'cannot reach %peer: %problem' },
  SIP_REFUSED: { http: 502, sip: 500, fault: 'carrier', text: 'the peer answered %status %reason' },
  SIP_GLARE: { http: 409, sip: 491, fault: 'carrier', text: 'request pending' },
  SIP_NO_PRACK: {
    http: 504,
    sip: 504,
    fault: 'carrier',
    text: 'a reliable provisional response was never acknowledged',
  },
  SIP_SESSION_EXPIRED: {
    http: 504,
    sip: 408,
    fault: 'carrier',
    text: 'the session timer ran out',
  },
  // Media negotiation
  SDP_MALFORMED: {
    http: 400,
    sip: 488,
    fault: 'caller',
    text: 'unusable session description: %problem',
  },
  NO_COMMON_CODEC: {
    http: 422,
    sip: 488,
    fault: 'caller',
    text: 'no codec in common: offered %offered',
  },
  SDP_REFUSED: {
    http: 403,
    sip: 488,
    fault: 'caller',
    text: 'session description refused by policy: %problem',
  },
  SRTP_OFF: {
    http: 422,
    sip: 488,
    fault: 'caller',
    text: 'SRTP is off for this trunk (policy.srtp)',
  },
  SRTP_REQUIRED: {
    http: 422,
    sip: 488,
    fault: 'caller',
    text: 'SRTP is required for this trunk (policy.srtp), and none is offered',
  },
  SRTP_UNSUPPORTED: {
    http: 422,
    sip: 488,
    fault: 'gateway',
    text: 'SRTP is %mode for this trunk (policy.srtp), but this node cannot carry SRTP',
  },
  // Admission, routing
  NO_ROUTE: {
    http: 404,
    sip: 404,
    number: 13224,
    fault: 'caller',
    text: 'no application, number or trunk for %target',
  },
  TRUNK_LIMIT: {
    http: 503,
    sip: 503,
    fault: 'carrier',
    text: 'over a limit: %problem',
  },
  NOT_REGISTERED: {
    http: 404,
    sip: 480,
    number: 13224,
    fault: 'caller',
    text: '%uri is not registered',
  },
  // Registrations
  REGISTER_NO_DOMAIN: {
    http: 404,
    sip: 404,
    number: 32002,
    fault: 'caller',
    text: 'nobody registers at this domain here',
  },
  REGISTER_TOO_BRIEF: {
    http: 423,
    sip: 423,
    number: 32009,
    fault: 'caller',
    text: 'a registration lasts %minimum s at least',
  },
  REGISTER_CONTACTS: {
    http: 403,
    sip: 403,
    number: 32007,
    fault: 'caller',
    text: 'an address has %limit contacts at most',
  },
  REGISTER_RATE: {
    http: 503,
    sip: 503,
    number: 32008,
    fault: 'caller',
    text: 'more than %limit REGISTER requests a second for one address',
  },
  REGISTER_OUT_OF_ORDER: {
    http: 500,
    sip: 500,
    fault: 'caller',
    text: 'CSeq %cseq is not after the one of this binding',
  },
  REGISTER_FLOW_FAILED: {
    http: 480,
    sip: 430,
    number: 13224,
    fault: 'caller',
    text: 'the connection over which %uri registered is gone',
  },
  NO_TRUNK: { http: 400, sip: 404, number: 13224, fault: 'app', text: 'no trunk takes %target' },
  DRAIN_FINAL: {
    http: 409,
    sip: 500,
    number: 20409,
    fault: 'app',
    text: 'the process was told to end, which is not undone: start another',
  },
  ADMIN_ONLY: {
    http: 403,
    sip: 403,
    number: 20403,
    fault: 'app',
    text: 'this is for the first account, whose token is in data.dir',
  },
  DRAINING: { http: 503, sip: 503, fault: 'gateway', text: 'this node is draining' },
  NOT_READY: { http: 503, sip: 503, fault: 'gateway', text: 'this node is still starting' },
  OVERLOADED: { http: 503, sip: 503, fault: 'gateway', text: 'over capacity: %limit' },
  QUEUE_FULL: { http: 503, sip: 503, fault: 'gateway', text: '%depth commands wait already' },
  BUS_NO_RESPONDER: { http: 503, sip: 503, fault: 'gateway', text: 'nobody answers %subject' },
  BUS_TIMEOUT: {
    http: 504,
    sip: 503,
    fault: 'gateway',
    text: 'no answer on %subject within %timeoutMs ms',
  },
  MEDIA_UNAVAILABLE: { http: 503, sip: 503, fault: 'gateway', text: 'no media worker: %problem' },
  PORTS_EXHAUSTED: { http: 503, sip: 503, fault: 'gateway', text: 'no free media port in %range' },
  MEDIA_COMMAND: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'media worker refused %op: %problem',
  },
  DISK_FULL: { http: 507, sip: 500, fault: 'gateway', text: 'no room on disk for %path' },
  // Caller identity (RFC 8224 §6.2.2)
  STIR_NO_IDENTITY: {
    http: 403,
    sip: 428,
    fault: 'carrier',
    text: 'no Identity header field that can be verified: %problem',
  },
  STIR_STALE: {
    http: 403,
    sip: 403,
    fault: 'carrier',
    text: 'the signature of the caller is %ageSeconds s old, more than %limit s from now',
  },
  STIR_BAD_INFO: {
    http: 403,
    sip: 436,
    fault: 'carrier',
    text: 'the certificate %url of the caller cannot be used: %problem',
  },
  STIR_INFO_UNREACHABLE: {
    http: 403,
    sip: 436,
    fault: 'carrier',
    text: 'the certificate %url of the caller cannot be had now: %problem',
  },
  STIR_CREDENTIAL: {
    http: 403,
    sip: 437,
    fault: 'carrier',
    text: 'the certificate of the caller is not trusted: %problem',
  },
  STIR_INVALID: {
    http: 403,
    sip: 438,
    fault: 'carrier',
    text: 'the signature of the caller is not valid: %problem',
  },
  // Application server
  APP_URL: { http: 400, sip: 500, number: 11100, fault: 'app', text: 'invalid URL %url' },
  APP_STATUS: { http: 502, sip: 500, number: 11200, fault: 'app', text: '%url answered %status' },
  APP_TIMEOUT: {
    http: 504,
    sip: 500,
    number: 11205,
    fault: 'app',
    text: '%url did not answer within %timeoutMs ms',
  },
  APP_UNREACHABLE: {
    http: 502,
    sip: 500,
    number: 11205,
    fault: 'app',
    text: 'cannot connect to %url: %problem',
  },
  APP_ADDRESS_REFUSED: {
    http: 403,
    sip: 500,
    number: 11205,
    fault: 'app',
    text: '%url: address %address is private or link-local; allow it with http.client.allow',
  },
  APP_DNS: {
    http: 502,
    sip: 500,
    number: 11210,
    fault: 'app',
    text: '%url: name does not resolve: %problem',
  },
  APP_TLS: { http: 502, sip: 500, number: 11220, fault: 'app', text: '%url: TLS failed: %problem' },
  APP_PROTOCOL: {
    http: 502,
    sip: 500,
    number: 11206,
    fault: 'app',
    text: '%url broke HTTP: %problem',
  },
  APP_REDIRECTS: {
    http: 502,
    sip: 500,
    number: 11215,
    fault: 'app',
    text: '%url redirected more than %limit times',
  },
  APP_OVERRIDE: {
    http: 400,
    sip: 500,
    number: 11240,
    fault: 'app',
    text: '%url: bad connection override %override',
  },
  APP_OVERRIDE_VALUE: {
    http: 400,
    sip: 500,
    number: 11241,
    fault: 'app',
    text: '%url: connection override %override is not within %min..%max',
  },
  APP_OVERRIDE_POLICY: {
    http: 400,
    sip: 500,
    number: 11243,
    fault: 'app',
    text: '%url: connection override %override names no known retry policy',
  },
  APP_BODY_TOO_LARGE: {
    http: 502,
    sip: 500,
    number: 11750,
    fault: 'app',
    text: '%url answered more than %limit bytes',
  },
  APP_BODY_EMPTY: {
    http: 502,
    sip: 500,
    number: 11770,
    fault: 'app',
    text: '%url answered an empty body',
  },
  DOC_PARSE: {
    http: 400,
    sip: 500,
    number: 12100,
    fault: 'app',
    text: 'document does not parse: %problem',
  },
  DOC_ROOT: {
    http: 400,
    sip: 500,
    number: 12102,
    fault: 'app',
    text: 'document root is <%root>, not <Response>',
  },
  DOC_CONTENT_TYPE: {
    http: 400,
    sip: 500,
    number: 12300,
    fault: 'app',
    text: '%url answered content type %type',
  },
  DOC_SCHEMA: { http: 400, sip: 500, number: 12200, fault: 'app', text: '%problem' },
  DIAL_IN_WHISPER: {
    http: 400,
    sip: 500,
    number: 13201,
    fault: 'app',
    text: '<Dial> is not allowed in a whisper document',
  },
  DIAL_ADDRESS_REFUSED: {
    http: 403,
    sip: 403,
    number: 13224,
    fault: 'app',
    text: '%uri leads to an address that may not be called',
  },
  DIAL_NUMBER: { http: 400, sip: 484, number: 13223, fault: 'app', text: 'cannot dial %number' },
  DIAL_NOUN: {
    http: 501,
    sip: 501,
    number: 13215,
    fault: 'app',
    text: '<Dial> cannot reach a <%noun> here',
  },
  DIAL_SIP_URI: { http: 400, sip: 404, number: 13243, fault: 'app', text: 'cannot dial %uri' },
  PLAY_CONTENT: {
    http: 400,
    sip: 500,
    number: 13420,
    fault: 'app',
    text: '%url is not audio that can be played: %problem',
  },
  SAY_EMPTY: { http: 400, sip: 500, number: 13520, fault: 'app', text: '<Say> has no text' },
  SAY_TOO_LONG: {
    http: 400,
    sip: 500,
    number: 13521,
    fault: 'app',
    text: '<Say> has more than %limit characters',
  },
  SAY_FAILED: {
    http: 500,
    sip: 500,
    number: 13500,
    fault: 'gateway',
    text: 'speech synthesis failed: %problem',
  },
  DOC_LOOP: {
    http: 508,
    sip: 500,
    fault: 'app',
    text: '%limit documents in a row in which nothing was heard, said or awaited',
  },
  RELATIVE_ACTION: {
    http: 400,
    sip: 500,
    number: 15004,
    fault: 'app',
    text: 'action "%url" must be absolute in an inline document',
  },
  CALLBACK_STATUS: {
    http: 502,
    sip: 500,
    number: 15003,
    fault: 'app',
    text: 'status callback %url answered %status',
  },
  REST_REFUSED: {
    http: 502,
    sip: 500,
    fault: 'app',
    text: 'the gateway answered %status: %problem',
  },
  // Call endings
  CALL_COMPLETED: { http: 200, sip: 200, fault: 'caller', text: 'completed' },
  CALL_CANCELED: { http: 200, sip: 487, fault: 'caller', text: 'canceled before answer' },
  CALL_REJECTED: { http: 200, sip: 603, fault: 'app', text: 'rejected by the application' },
  CALL_BUSY: { http: 200, sip: 486, fault: 'caller', text: 'busy' },
  CALL_NO_ANSWER: { http: 200, sip: 480, fault: 'caller', text: 'not answered in time' },
  CALL_TIME_LIMIT: {
    http: 200,
    sip: 200,
    number: 32015,
    fault: 'app',
    text: 'time limit of %seconds s reached',
  },
  LEG_LOST: { http: 503, sip: 500, fault: 'gateway', text: 'the leg of the call is gone' },
  CALL_NO_ACK: {
    http: 504,
    sip: 408,
    number: 32022,
    fault: 'carrier',
    text: 'the answer was never acknowledged',
  },
  // REST
  REST_BAD_PARAMETER: { http: 400, sip: 500, number: 20001, fault: 'app', text: '%problem' },
  REST_AUTH: { http: 401, sip: 500, number: 20003, fault: 'app', text: 'Authenticate' },
  REST_METHOD: {
    http: 405,
    sip: 500,
    number: 20004,
    fault: 'app',
    text: 'method %method is not allowed on %path',
  },
  REST_PAGE_SIZE: {
    http: 400,
    sip: 500,
    number: 20007,
    fault: 'app',
    text: 'PageSize is at most %limit',
  },
  REST_STILL_LIVE: {
    http: 400,
    sip: 500,
    number: 20009,
    fault: 'app',
    text: 'a resource in use cannot be deleted',
  },
  REST_NOT_FOUND: {
    http: 404,
    sip: 500,
    number: 20404,
    fault: 'app',
    text: 'The requested resource %path was not found',
  },
  REST_BODY: { http: 400, sip: 500, number: 20001, fault: 'app', text: 'request body: %problem' },
  REST_TOO_MANY: { http: 429, sip: 500, number: 20429, fault: 'app', text: 'Too many requests' },
  CALL_NO_TO: { http: 400, sip: 500, number: 21201, fault: 'app', text: 'no To is given' },
  CALL_BAD_URL: {
    http: 400,
    sip: 500,
    number: 21205,
    fault: 'app',
    text: 'Url is not a valid URL: %url',
  },
  CALL_SEND_DIGITS: {
    http: 400,
    sip: 500,
    number: 21206,
    fault: 'app',
    text: 'SendDigits is not valid: %digits',
  },
  CALL_BAD_TIMEOUT: {
    http: 400,
    sip: 500,
    number: 21208,
    fault: 'app',
    text: 'Timeout is not valid: %value',
  },
  CALL_BAD_TO: { http: 400, sip: 500, number: 21211, fault: 'app', text: 'To is not valid: %to' },
  CALL_BAD_FROM: {
    http: 400,
    sip: 500,
    number: 21212,
    fault: 'app',
    text: 'From is not valid: %from',
  },
  CALL_NO_FROM: { http: 400, sip: 500, number: 21213, fault: 'app', text: 'no From is given' },
  CALL_APPLICATION: {
    http: 400,
    sip: 500,
    number: 21218,
    fault: 'app',
    text: 'ApplicationSid is not valid: %sid',
  },
  CALL_NOT_LIVE: {
    http: 400,
    sip: 500,
    number: 21220,
    fault: 'app',
    text: 'the call is not in a state for this: %status',
  },
  TWIML_TOO_LONG: {
    http: 400,
    sip: 500,
    number: 32018,
    fault: 'app',
    text: 'Twiml has more than %limit characters',
  },
  STORE_FAILED: { http: 503, sip: 500, fault: 'gateway', text: 'the store failed: %problem' },
  REST_ACCOUNT_INACTIVE: {
    http: 403,
    sip: 500,
    number: 20005,
    fault: 'app',
    text: 'the account is %status',
  },
  REST_BODY_TOO_LARGE: {
    http: 413,
    sip: 500,
    number: 20001,
    fault: 'app',
    text: 'request body has more than %limit bytes',
  },
  REST_MEDIA_TYPE: {
    http: 415,
    sip: 500,
    number: 20001,
    fault: 'app',
    text: 'send application/x-www-form-urlencoded',
  },
  REST_TOKEN_REUSED: {
    http: 409,
    sip: 500,
    number: 20409,
    fault: 'app',
    text: 'the idempotency token was used for another request',
  },
  NUMBER_INVALID: {
    http: 400,
    sip: 500,
    number: 21421,
    fault: 'app',
    text: 'PhoneNumber is not valid: %phoneNumber',
  },
  NUMBER_TAKEN: {
    http: 400,
    sip: 500,
    number: 21422,
    fault: 'app',
    text: 'PhoneNumber is in use: %phoneNumber',
  },
  STORE_CONFLICT: {
    http: 409,
    sip: 500,
    number: 20409,
    fault: 'app',
    text: 'another row of %table has the same key',
  },
  STORE_NEWER: {
    http: 500,
    sip: 500,
    fault: 'gateway',
    text: 'the database has schema version %found, this program knows up to %known: start the newer program or restore an older backup',
  },
  SIP_DOMAIN_INVALID: {
    http: 400,
    sip: 500,
    number: 21231,
    fault: 'app',
    text: 'DomainName is not valid: "%name": %problem',
  },
  SIP_DOMAIN_TAKEN: {
    http: 400,
    sip: 500,
    number: 21231,
    fault: 'app',
    text: 'the domain name %name is taken',
  },
  TRUNK_DOMAIN_TAKEN: {
    http: 400,
    sip: 500,
    number: 21248,
    fault: 'app',
    text: 'the domain name %name is taken',
  },
  SIP_LIST_MAPPED: {
    http: 400,
    sip: 500,
    number: 21231,
    fault: 'app',
    text: '%list is already associated with %owner',
  },
  SIP_USERNAME_INVALID: {
    http: 400,
    sip: 500,
    number: 21222,
    fault: 'app',
    text: 'Username is not valid: %problem',
  },
  SIP_PASSWORD_WEAK: {
    http: 400,
    sip: 500,
    number: 21224,
    fault: 'app',
    text: 'Password is not valid: %problem',
  },
  SIP_USERNAME_TAKEN: {
    http: 409,
    sip: 500,
    number: 20409,
    fault: 'app',
    text: 'the list has a user "%username" already',
  },
  REST_IN_USE: {
    http: 400,
    sip: 500,
    number: 20009,
    fault: 'app',
    text: '%sid is used by %user and cannot be deleted',
  },
  REST_LIMIT: {
    http: 400,
    sip: 500,
    number: 20001,
    fault: 'app',
    text: 'no more than %limit %things are possible',
  },
  TRUNK_HEALTH_UNKNOWN: {
    http: 503,
    sip: 500,
    fault: 'gateway',
    text: 'this node does not watch the health of trunks',
  },
  INTERNAL: {
    http: 500,
    sip: 500,
    number: 12400,
    fault: 'gateway',
    text: 'internal error: %problem',
  },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

export class GatewayError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, details: ErrorDetails = {}, options: { cause?: unknown } = {}) {
    super(
      describe(code, details),
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = 'GatewayError';
    this.code = code;
    this.details = details;
  }

  get row(): ErrorRow {
    return ERRORS[this.code];
  }
}

/** The text of `code` with its details filled in; a missing detail is left out. */
export function describe(code: ErrorCode, details: ErrorDetails = {}): string {
  return ERRORS[code].text.replace(/%([a-zA-Z]+)/g, (_, name: string) =>
    String(details[name] ?? ''),
  );
}

/** Any thrown thing as a GatewayError; what is not ours becomes INTERNAL with its cause kept. */
export function asGatewayError(thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown;
  const problem = thrown instanceof Error ? thrown.message : String(thrown);
  return new GatewayError('INTERNAL', { problem }, { cause: thrown });
}
