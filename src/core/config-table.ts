/**
 * The rows of the configuration table, in the order a newcomer meets them. Reading and checking
 * is `config.ts`.
 */
export type ConfigType = 'string' | 'integer' | 'number' | 'boolean' | 'list' | 'secret';

export interface ConfigRow {
  readonly type: ConfigType;
  /** For numbers: what a value of 1 means. Also the last word of the key. */
  readonly unit?: string;
  readonly min?: number;
  readonly max?: number;
  /** For strings: the only values allowed. */
  readonly oneOf?: readonly string[];
  readonly default: string | number | boolean | readonly string[];
  /** One sentence: what it is and why the default is what it is. */
  readonly doc: string;
}

export const CONFIG_ROWS = {
  'node.name': {
    type: 'string',
    default: '',
    doc: 'Name of this node in records and logs; empty: the host name.',
  },
  'node.region': {
    type: 'string',
    default: 'local',
    doc: 'Region of this node; media stays near its endpoint.',
  },
  'data.dir': {
    type: 'string',
    default: './data',
    doc: 'Database, journal, prompt cache, recordings and generated keys.',
  },
  'log.level': {
    type: 'string',
    oneOf: ['debug', 'info', 'warn', 'error', 'silent'],
    default: 'info',
    doc: 'debug shows protocol messages, info the life of calls.',
  },
  'sip.listen': {
    type: 'list',
    default: ['udp://127.0.0.1:5060', 'tcp://127.0.0.1:5060'],
    doc: 'Where SIP is listened for; loopback until you open it. IPv6: udp://[::1]:5060.',
  },
  'sip.advertise': {
    type: 'string',
    default: '',
    doc: 'Host put into Via and Contact: the public IP on a cloud VM; empty: the listen address.',
  },
  'sip.trusted': {
    type: 'list',
    default: ['127.0.0.0/8', '::1/128'],
    doc: 'Sources whose calls reach app.url when no number or trunk claims them.',
  },
  'sip.allow': {
    type: 'list',
    default: [],
    doc: 'Private or loopback networks that dialled SIP URIs may lead to; loopback is allowed while tandem itself listens on loopback only.',
  },
  'sip.strangersPerSecondMax': {
    type: 'integer',
    unit: 'requests per second',
    min: 1,
    max: 100_000,
    default: 50,
    doc: 'Requests of one unknown source that get an answer; the rest are dropped.',
  },
  'sip.transactionsMax': {
    type: 'integer',
    min: 100,
    max: 10_000_000,
    default: 200_000,
    doc: 'Live transactions; above it new requests get 503.',
  },
  'sip.ringTimeoutMs': {
    type: 'integer',
    unit: 'ms',
    min: 1_000,
    max: 600_000,
    default: 180_000,
    doc: 'How long an INVITE may ring before it is given up (RFC 3261 16.6, timer C).',
  },
  'sip.codecs': {
    type: 'list',
    default: ['opus', 'G722', 'PCMU', 'PCMA'],
    doc: 'Codecs offered and accepted, best first.',
  },
  'sip.connectionsMax': {
    type: 'integer',
    min: 1,
    max: 1_000_000,
    default: 10_000,
    doc: 'TCP connections in all.',
  },
  'sip.connectionsPerSourceMax': {
    type: 'integer',
    min: 1,
    max: 1_000_000,
    default: 100,
    doc: 'TCP connections of one source address.',
  },
  'media.address': { type: 'string', default: '127.0.0.1', doc: 'Address RTP ports are bound to.' },
  'media.advertise': {
    type: 'string',
    default: '',
    doc: 'Address put into session descriptions; empty: media.address.',
  },
  'media.portMin': {
    type: 'integer',
    min: 1024,
    max: 65_532,
    default: 20_000,
    doc: "First RTP port; keep outside the kernel's ephemeral range.",
  },
  'media.portMax': {
    type: 'integer',
    min: 1027,
    max: 65_535,
    default: 29_999,
    doc: 'Last RTP port.',
  },
  'media.workers': {
    type: 'integer',
    min: 0,
    max: 256,
    default: 0,
    doc: 'Media worker processes; 0: one per core.',
  },
  'media.quarantineMs': {
    type: 'integer',
    unit: 'ms',
    min: 0,
    max: 600_000,
    default: 30_000,
    doc: 'A closed port rests this long, so that a new call never hears an old peer.',
  },
  'media.silentTimeoutMs': {
    type: 'integer',
    unit: 'ms',
    min: 1_000,
    max: 3_600_000,
    default: 15_000,
    doc: 'No RTP for so long is reported; it never ends a call.',
  },
  'media.allowPrivate': {
    type: 'boolean',
    default: true,
    doc: 'Whether audio may be sent to private addresses that a peer names: phones and trunks in your own network.',
  },
  'media.inbandDtmf': {
    type: 'boolean',
    default: true,
    doc: 'Listen for keys in the audio of peers that do not offer telephone-event.',
  },
  'http.listen': { type: 'string', default: '127.0.0.1:8080', doc: 'REST, health and metrics.' },
  'http.publicUrl': {
    type: 'string',
    default: '',
    doc: 'Base of URLs told to applications; empty: http:// and http.listen.',
  },
  'http.bodyBytesMax': {
    type: 'integer',
    unit: 'bytes',
    min: 1_024,
    max: 16_777_216,
    default: 262_144,
    doc: 'Largest REST request body.',
  },
  'http.requestsPerSecondMax': {
    type: 'integer',
    unit: 'requests per second',
    min: 1,
    max: 1_000_000,
    default: 200,
    doc: 'REST requests of one account and address; above it 429.',
  },
  'http.client.allow': {
    type: 'list',
    default: [],
    doc: 'Private, loopback or link-local networks that webhooks and media may be fetched from.',
  },
  'http.client.connectionsPerOriginMax': {
    type: 'integer',
    min: 1,
    max: 10_000,
    default: 64,
    doc: 'Sockets to one application server.',
  },
  'webhook.connectMs': {
    type: 'integer',
    unit: 'ms',
    min: 100,
    max: 10_000,
    default: 2_000,
    doc: 'Time to connect to an application server; #ct= overrides it.',
  },
  'webhook.readMs': {
    type: 'integer',
    unit: 'ms',
    min: 100,
    max: 15_000,
    default: 4_500,
    doc: 'Time for its answer; #rt= overrides it.',
  },
  'webhook.totalMs': {
    type: 'integer',
    unit: 'ms',
    min: 100,
    max: 15_000,
    default: 4_500,
    doc: 'Time for all tries; below 5 s, so that the secondary URI is always asked within 5 s.',
  },
  'webhook.bodyBytesMax': {
    type: 'integer',
    unit: 'bytes',
    min: 1_024,
    max: 16_777_216,
    default: 1_048_576,
    doc: 'Largest answer of an application server.',
  },
  'webhook.callbacksMax': {
    type: 'integer',
    min: 100,
    max: 1_000_000,
    default: 20_000,
    doc: 'Status callbacks that may wait in all.',
  },
  'app.url': {
    type: 'string',
    default: '',
    doc: 'Application of calls that no number claims, from trusted sources; empty: the built-in demo.',
  },
  'app.method': {
    type: 'string',
    oneOf: ['GET', 'POST'],
    default: 'POST',
    doc: 'Method of app.url.',
  },
  'app.fallbackUrl': {
    type: 'string',
    default: '',
    doc: 'Secondary URI, asked when app.url fails.',
  },
  'app.statusCallbackUrl': { type: 'string', default: '', doc: 'Told how calls of app.url end.' },
  'account.sid': {
    type: 'string',
    default: '',
    doc: 'First account; empty: made at the first start and kept in data.dir.',
  },
  'account.authToken': {
    type: 'secret',
    default: '',
    doc: 'Its token; empty: made at the first start and printed once.',
  },
  'store.url': {
    type: 'string',
    default: 'sqlite:',
    doc: 'sqlite: is a file in data.dir; sqlite::memory: keeps nothing.',
  },
  'store.flushMs': {
    type: 'integer',
    unit: 'ms',
    min: 1,
    max: 10_000,
    default: 50,
    doc: 'Writes are gathered this long into one transaction.',
  },
  'store.queueMax': {
    type: 'integer',
    min: 100,
    max: 10_000_000,
    default: 100_000,
    doc: 'Rows that may wait to be written.',
  },
  'bus.url': {
    type: 'string',
    oneOf: ['local:'],
    default: 'local:',
    doc: 'Message bus between calls and legs; local: is inside this process.',
  },
  'journal.flushMs': {
    type: 'integer',
    unit: 'ms',
    min: 1,
    max: 1_000,
    default: 10,
    doc: 'Call, leg and port records are gathered this long before they are written.',
  },
  'call.liveMax': {
    type: 'integer',
    min: 1,
    max: 1_000_000,
    default: 10_000,
    doc: 'Live call legs on this node; above it new calls get 503.',
  },
  'call.perSecondMax': {
    type: 'integer',
    unit: 'calls per second',
    min: 1,
    max: 100_000,
    default: 500,
    doc: 'New calls of one account per second.',
  },
  'call.commandsMax': {
    type: 'integer',
    min: 8,
    max: 10_000,
    default: 256,
    doc: 'Commands and session events that may wait for one leg.',
  },
  'call.traceMax': {
    type: 'integer',
    min: 10,
    max: 100_000,
    default: 400,
    doc: 'Trace entries kept of one call.',
  },
  'call.timeLimitSeconds': {
    type: 'integer',
    unit: 's',
    min: 1,
    max: 86_400,
    default: 14_400,
    doc: 'Longest call.',
  },
  'call.documentsMax': {
    type: 'integer',
    min: 10,
    max: 100_000,
    default: 1_000,
    doc: 'Documents in a row in which nothing is heard, said or awaited; a loop ends with an error.',
  },
  'drain.deadlineMs': {
    type: 'integer',
    unit: 'ms',
    min: 0,
    max: 86_400_000,
    default: 60_000,
    doc: 'After SIGTERM live calls may go on this long, then they are hung up.',
  },
  'speech.command': { type: 'string', default: 'espeak-ng', doc: 'Program of the default voice.' },
  'ffmpeg.command': {
    type: 'string',
    default: 'ffmpeg',
    doc: 'Program that transcodes prompts and recordings.',
  },
  'ffmpeg.jobsMax': {
    type: 'integer',
    min: 1,
    max: 64,
    default: 2,
    doc: 'Transcoding jobs at one time.',
  },
  'cache.bytesMax': {
    type: 'integer',
    unit: 'bytes',
    min: 1_048_576,
    max: 1_099_511_627_776,
    default: 1_073_741_824,
    doc: 'Prompt cache on disk.',
  },
  'prompt.bytesMax': {
    type: 'integer',
    unit: 'bytes',
    min: 1_024,
    max: 1_073_741_824,
    default: 104_857_600,
    doc: 'Largest audio file that is fetched.',
  },
} as const satisfies Record<string, ConfigRow>;
