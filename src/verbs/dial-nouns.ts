/**
 * Whom `<Dial>` calls: `<Number>`, `<Sip>`, bare text, and the nouns that cannot be reached here.
 *
 * A noun becomes targets (several for a `<Sip>` with `<Uri>`s, in the order to try them) and what
 * to do with its call. What cannot be dialled keeps its place with an error, so that the app is
 * told about it in `action` like about any other call that failed.
 */
import type { DialTarget } from '../call/route.ts';
import type { ErrorCode, ErrorDetails } from '../core/errors.ts';
import { type Credentials, type HeaderPair, numberTarget, sipTarget } from './dial-target.ts';
import {
  type Content,
  type ElementRow,
  matching,
  method,
  type Reader,
  someOf,
  text,
  url,
  whole,
  withoutEffect,
} from './schema.ts';
import type { XmlElement } from './xml.ts';

export interface Noun {
  readonly kind: 'number' | 'sip' | 'other';
  /** What to try, in order; none when `problem` is set. */
  readonly candidates: readonly Candidate[];
  readonly problem: { readonly code: ErrorCode; readonly details: ErrorDetails } | null;
  readonly whisper: { readonly url: string; readonly method: 'GET' | 'POST' } | null;
  readonly statusCallback: {
    readonly url: string;
    readonly method: 'GET' | 'POST';
    readonly events: readonly ('initiated' | 'ringing' | 'answered' | 'completed')[];
  } | null;
  /** Keys sent once answered, before anybody is joined. */
  readonly sendDigits: string | null;
}

export interface Candidate {
  readonly target: DialTarget;
  /** Lower first; among equals drawn by weight. */
  readonly priority: number;
  readonly weight: number;
}

const LEG_ATTRIBUTES = {
  url: url(),
  method: method(),
  statusCallback: url(),
  statusCallbackMethod: method(),
  statusCallbackEvent: someOf(['initiated', 'ringing', 'answered', 'completed'], {
    absent: ['completed'],
  }),
};

/** Taken and set aside: nothing here tells a person from a machine. */
const MACHINE_ATTRIBUTES = {
  machineDetection: text({ absent: null }),
  machineDetectionTimeout: text({ absent: null }),
  machineDetectionSpeechThreshold: text({ absent: null }),
  machineDetectionSpeechEndThreshold: text({ absent: null }),
  machineDetectionSilenceTimeout: text({ absent: null }),
  amdStatusCallback: url(),
  amdStatusCallbackMethod: method(),
};

const NUMBER_ATTRIBUTES = {
  ...LEG_ATTRIBUTES,
  ...MACHINE_ATTRIBUTES,
  sendDigits: matching(/^[0-9*#wWA-D]{1,64}$/, 'keys 0-9 * # and pauses w W', {
    absent: null,
    number: 13222,
    isPrivate: true,
  }),
  byoc: withoutEffect(),
};

const SIP_ATTRIBUTES = {
  ...LEG_ATTRIBUTES,
  ...MACHINE_ATTRIBUTES,
  username: text({ absent: null }),
  password: text({ absent: null }),
};

const URI_ATTRIBUTES = {
  priority: whole({ absent: 0, min: 0, max: 65_535 }),
  weight: whole({ absent: 1, min: 0, max: 65_535 }),
  username: text({ absent: null }),
  password: text({ absent: null }),
};

interface SipUriEntry {
  readonly uri: string;
  readonly priority: number;
  readonly weight: number;
  readonly credentials: Credentials | null;
}

const URI_ROW: ElementRow<typeof URI_ATTRIBUTES, SipUriEntry> = {
  name: 'Uri',
  attributes: URI_ATTRIBUTES,
  children: [],
  hasText: true,
  read: (values, content) => ({
    uri: content.text,
    priority: values.priority,
    weight: values.weight,
    credentials: credentials(values),
  }),
};

const HEADER_ATTRIBUTES = { name: text({ absent: '' }), value: text({ absent: '' }) };

const HEADER_ROW: ElementRow<typeof HEADER_ATTRIBUTES, HeaderPair> = {
  name: 'Header',
  attributes: HEADER_ATTRIBUTES,
  children: [],
  hasText: false,
  read: (values) => [values.name, values.value],
};

const HEADERS_ROW: ElementRow<Record<never, never>, readonly HeaderPair[]> = {
  name: 'Headers',
  attributes: {},
  children: ['Header'],
  hasText: false,
  read: (_values, { children, reader }) => children.map((child) => reader.read(HEADER_ROW, child)),
};

const NUMBER_ROW: ElementRow<typeof NUMBER_ATTRIBUTES, Noun> = {
  name: 'Number',
  attributes: NUMBER_ATTRIBUTES,
  children: [],
  hasText: true,
  read(values, content) {
    noMachineDetection(values.machineDetection, content);
    return { ...numberNoun(content.text), ...legOf(values), sendDigits: values.sendDigits };
  },
};

const SIP_ROW: ElementRow<typeof SIP_ATTRIBUTES, Noun> = {
  name: 'Sip',
  attributes: SIP_ATTRIBUTES,
  children: ['Uri', 'Headers'],
  hasText: true,
  read(values, content) {
    noMachineDetection(values.machineDetection, content);
    return { ...sipNoun(content, credentials(values)), ...legOf(values) };
  },
};

const SILENT_LEG = { whisper: null, statusCallback: null, sendDigits: null };

export const DIAL_NOUNS: readonly string[] = [
  'Application',
  'Client',
  'Conference',
  'Number',
  'Queue',
  'Sim',
  'Sip',
  'WhatsApp',
];

export function readNoun(element: XmlElement, reader: Reader): Noun {
  if (element.name === 'Number') return reader.read(NUMBER_ROW, element);
  if (element.name === 'Sip') return reader.read(SIP_ROW, element);
  reader.warn(element, 13215, `<Dial><${element.name}> is not available here`);
  return refused('other', 'DIAL_NOUN', { noun: element.name });
}

/** A number or an extension: which trunk takes it, and how it is then written, is routing. */
export function numberNoun(written: string): Noun {
  const target = numberTarget(written);
  if (target === null) return refused('number', 'DIAL_NUMBER', { number: written.slice(0, 64) });
  return {
    kind: 'number',
    candidates: [{ target, priority: 0, weight: 1 }],
    problem: null,
    ...SILENT_LEG,
  };
}

const HEADER_WARNING = 32113;

function sipNoun(content: Content, common: Credentials | null): Noun {
  const headers: HeaderPair[] = [];
  const entries: SipUriEntry[] = [];
  if (content.text !== '') {
    entries.push({ uri: content.text, priority: 0, weight: 1, credentials: common });
  }
  for (const child of content.children) {
    if (child.name === 'Uri') entries.push(content.reader.read(URI_ROW, child));
    else headers.push(...content.reader.read(HEADERS_ROW, child));
  }
  const onRefused = (header: string): void => {
    const problem = `<Sip> may not set header "${header.slice(0, 64)}"; it is left out`;
    content.reader.warn(content.element, HEADER_WARNING, problem);
  };
  const candidates: Candidate[] = [];
  for (const { uri, priority, weight, credentials: own } of entries) {
    const target = sipTarget(uri, own ?? common, headers, onRefused);
    if (target === null) return refused('sip', 'DIAL_SIP_URI', { uri: uri.slice(0, 64) });
    candidates.push({ target, priority, weight });
  }
  if (candidates.length === 0) return refused('sip', 'DIAL_SIP_URI', { uri: '' });
  return { kind: 'sip', candidates, problem: null, ...SILENT_LEG };
}

function legOf(values: {
  readonly url: string | null;
  readonly method: 'GET' | 'POST';
  readonly statusCallback: string | null;
  readonly statusCallbackMethod: 'GET' | 'POST';
  readonly statusCallbackEvent: readonly ('initiated' | 'ringing' | 'answered' | 'completed')[];
}): Pick<Noun, 'whisper' | 'statusCallback'> {
  return {
    whisper: values.url === null ? null : { url: values.url, method: values.method },
    statusCallback:
      values.statusCallback === null
        ? null
        : {
            url: values.statusCallback,
            method: values.statusCallbackMethod,
            events: values.statusCallbackEvent,
          },
  };
}

function credentials(values: {
  readonly username: string | null;
  readonly password: string | null;
}): Credentials | null {
  return values.username === null
    ? null
    : { username: values.username, password: values.password ?? '' };
}

function noMachineDetection(asked: string | null, content: Content): void {
  if (asked === null) return;
  content.reader.warn(content.element, 12200, 'machineDetection is not available here');
}

function refused(kind: Noun['kind'], code: ErrorCode, details: ErrorDetails): Noun {
  return { kind, candidates: [], problem: { code, details }, ...SILENT_LEG };
}
