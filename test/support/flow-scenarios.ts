/**
 * Calls as apps script them, each with what must come of it. Used twice: as they are, and with the
 * gateway dropped at every step on the way.
 */
import type { ErrorCode } from '../../src/core/errors.ts';
import { type FakeLeg, World, type WorldOptions } from './flow-world.ts';

export interface Scenario extends Omit<WorldOptions, 'crashAt'> {
  readonly name: string;
  /** What people and REST do, and when. Calls come in by themselves unless this says otherwise. */
  readonly script?: (world: World, leg: FakeLeg) => void;
  readonly begin?: (world: World) => void;
  readonly effects: readonly string[];
  readonly asked: readonly string[];
  readonly told?: readonly string[];
  readonly reports?: readonly (number | null)[];
  /** Code of the call that ended last. */
  readonly end?: ErrorCode;
}

export async function runScenario(scenario: Scenario, crashAt = -1): Promise<World> {
  const world = new World({ ...scenario, crashAt });
  if (scenario.begin !== undefined) scenario.begin(world);
  else {
    const leg = await world.callIn();
    scenario.script?.(world, leg);
  }
  return world.run();
}

const SORRY = 'in: play say:We are sorry. An application error has occurred. Goodbye. x1';
const DONE = ['in: hangup CALL_COMPLETED', 'in: ended local'];
const RINGBACK = 'in: tone 440+480 x0';
const JOINED = ['in: stop ringback', 'in: bridge'];
const invited = (who: string): string => `${who}: invited from sip:+15550002`;
const TALK = { ringAfterMs: 1000, answerAfterMs: 2000, hangupAfterMs: 12_000 };

const OUTPUT: readonly Scenario[] = [
  {
    name: 'Say, Play and Pause follow one another and the call is hung up',
    app: {
      '/voice':
        '<Say loop="2">hi</Say><Play>tune.mp3</Play><Pause length="2"/><Play digits="1w2" loop="2"/>',
    },
    effects: [
      'in: answer',
      'in: play say:hi x2',
      'in: play http://app/tune.mp3 x1',
      'in: digits 1w21w2',
      ...DONE,
    ],
    asked: ['/voice'],
    end: 'CALL_COMPLETED',
  },
  {
    name: 'a Play that never ends is ended by the caller',
    app: { '/voice': '<Play loop="0">http://m/a.wav</Play><Say>never</Say>' },
    script: (world, leg) => world.at(60_000, () => leg.hangUp()),
    effects: ['in: answer', 'in: play http://m/a.wav x0', 'in: ended remote'],
    asked: ['/voice'],
  },
  {
    name: 'a first Pause lets the call ring on before it is answered',
    app: { '/voice': '<Pause length="3"/><Say>hi</Say>' },
    script: (world) =>
      world.at(2_900, () => world.effects.push(`at 2.9 s: ${world.effects.length} effects`)),
    effects: ['at 2.9 s: 0 effects', 'in: answer', 'in: play say:hi x1', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'an empty document answers and hangs up',
    app: { '/voice': '' },
    effects: ['in: answer', ...DONE],
    asked: ['/voice'],
    end: 'CALL_COMPLETED',
  },
  {
    name: 'verbs that do nothing are passed over with a warning',
    app: { '/voice': '<Say/><Play/><Enqueue>support</Enqueue><Leave/><Bogus/><Say>hi</Say>' },
    effects: ['in: answer', 'in: play say:hi x1', ...DONE],
    asked: ['/voice'],
    reports: [13520, 13410, 12200, 12200, 12200],
  },
  {
    name: 'an audio answer is played and the call is hung up',
    app: { '/voice': { type: 'audio/mpeg', body: 'ID3' } },
    effects: ['in: answer', 'in: play http://app/voice x1', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'a plain answer is read aloud',
    app: { '/voice': { type: 'text/plain', body: 'fish & chips' } },
    effects: ['in: answer', 'in: play say:fish & chips x1', ...DONE],
    asked: ['/voice'],
  },
];

const CONTROL: readonly Scenario[] = [
  {
    name: 'Reject refuses without answering',
    app: { '/voice': '<Reject/>' },
    effects: ['in: hangup CALL_REJECTED', 'in: ended local'],
    asked: ['/voice'],
    end: 'CALL_REJECTED',
  },
  {
    name: 'Reject reason busy says busy, also behind a Redirect and a Pause',
    app: { '/voice': '<Redirect>/next</Redirect>', '/next': '<Pause/><Reject reason="busy"/>' },
    effects: ['in: hangup CALL_BUSY', 'in: ended local'],
    asked: ['/voice', '/next'],
    end: 'CALL_BUSY',
  },
  {
    name: 'Reject of an answered call ends it',
    app: { '/voice': '<Say>hi</Say><Reject/><Say>never</Say>' },
    effects: ['in: answer', 'in: play say:hi x1', ...DONE],
    asked: ['/voice'],
    end: 'CALL_COMPLETED',
  },
  {
    name: 'Hangup as first verb answers first',
    app: { '/voice': '<Hangup/>' },
    effects: ['in: answer', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'Redirect follows methods and relative URLs; an empty one begins anew',
    app: {
      '/voice': (_params, visit) =>
        visit < 3 ? '<Redirect/>' : '<Redirect method="GET">dir/a?x=1</Redirect>',
      '/dir/a?x=1': '<Redirect>b</Redirect>',
      '/dir/b': '<Hangup/>',
    },
    effects: ['in: answer', ...DONE],
    asked: ['/voice', '/voice', '/voice', 'GET /dir/a?x=1', '/dir/b'],
  },
  {
    name: 'documents that only lead to each other are stopped',
    app: { '/voice': '<Redirect/>' },
    options: { documentsIdleMax: 25, errorText: '' },
    effects: ['in: hangup DOC_LOOP', 'in: ended local'],
    asked: Array.from({ length: 25 }, () => '/voice'),
    reports: [null],
    end: 'DOC_LOOP',
  },
  {
    name: 'an outgoing call is answered, sent its keys, and then asks',
    app: { '/out': '<Say>hi</Say>' },
    callees: { '77': { ringAfterMs: 500, answerAfterMs: 1000 } },
    begin: (world) => void world.originate('77', { url: 'http://app/out' }, 'ww1'),
    effects: [
      invited('77'),
      '77: digits ww1',
      '77: play say:hi x1',
      '77: hangup CALL_COMPLETED',
      '77: ended local',
    ],
    asked: ['/out'],
  },
];

const GATHER: readonly Scenario[] = [
  {
    name: 'Gather: the first key stops the prompts, the last wanted one asks action',
    app: {
      '/voice':
        '<Gather numDigits="3" action="/got"><Say>press</Say><Play>http://m/long.wav</Play></Gather>',
      '/got': '<Hangup/>',
    },
    durationsMs: { 'http://m/long.wav': 30_000 },
    script: (world, leg) => {
      world.at(5_000, () => leg.press('1'));
      world.at(9_000, () => leg.press('23'));
    },
    effects: [
      'in: answer',
      'in: play say:press x1',
      'in: play http://m/long.wav x1',
      'in: stop prompt1',
      ...DONE,
    ],
    asked: ['/voice', '/got Digits=123'],
  },
  {
    name: 'Gather: one key is enough when one is wanted',
    app: { '/voice': '<Gather numDigits="1"><Pause length="9"/></Gather><Say>x</Say>' },
    script: (world, leg) => {
      world.at(2_000, () => leg.press('5'));
      world.at(3_000, () => leg.hangUp());
    },
    effects: ['in: answer', 'in: ended remote'],
    asked: ['/voice', '/voice Digits=5'],
  },
  {
    name: 'Gather: the finishing key ends the input and is not part of it',
    app: {
      '/voice': '<Gather action="http://app/got?a=1" method="GET" finishOnKey="*"/>',
      '/got?a=1': '<Hangup/>',
    },
    script: (world, leg) => world.at(1_000, () => leg.press('12#*')),
    effects: ['in: answer', ...DONE],
    asked: ['/voice', 'GET /got?a=1 Digits=12#'],
  },
  {
    name: 'Gather: time runs from the last key on, and what was pressed is told',
    app: { '/voice': '<Gather timeout="3" action="/got" finishOnKey=""/>', '/got': '<Hangup/>' },
    script: (world, leg) => {
      world.at(2_500, () => leg.press('1'));
      world.at(5_000, () => leg.press('#'));
    },
    effects: ['in: answer', ...DONE],
    asked: ['/voice', '/got Digits=1#'],
  },
  {
    name: 'Gather: a prompt behind a long pause is still there when its turn comes',
    app: {
      '/voice':
        '<Gather timeout="1"><Pause length="300"/><Play loop="500">http://m/a.wav</Play></Gather>',
    },
    effects: ['in: answer', 'in: play http://m/a.wav x500', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'Gather: with no key the next verb runs',
    app: { '/voice': '<Gather timeout="2"><Say>press</Say></Gather><Say>bye</Say>' },
    effects: ['in: answer', 'in: play say:press x1', 'in: play say:bye x1', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'Gather: the finishing key alone is no input, unless empty input is asked for',
    app: {
      '/voice': '<Gather/><Gather actionOnEmptyResult="true" action="/got"/>',
      '/got': '<Hangup/>',
    },
    script: (world, leg) => {
      world.at(1_000, () => leg.press('#'));
      world.at(2_000, () => leg.press('#'));
    },
    effects: ['in: answer', ...DONE],
    asked: ['/voice', '/got Digits='],
  },
  {
    name: 'Gather: asked for, no key at all is told as empty input',
    app: { '/voice': '<Gather timeout="1" actionOnEmptyResult="true" action="/g"/>', '/g': '' },
    effects: ['in: answer', ...DONE],
    asked: ['/voice', '/g Digits='],
  },
  {
    name: 'Gather: keys pressed before it began do not count',
    app: { '/voice': '<Say>hi</Say><Gather timeout="1"/><Say>bye</Say>' },
    script: (world, leg) => world.at(500, () => leg.press('123#')),
    effects: ['in: answer', 'in: play say:hi x1', 'in: play say:bye x1', ...DONE],
    asked: ['/voice'],
  },
  {
    name: 'Gather: with speech alone keys are not taken',
    app: { '/voice': '<Gather input="speech" timeout="1"><Say>talk</Say></Gather><Hangup/>' },
    script: (world, leg) => world.at(500, () => leg.press('1')),
    effects: ['in: answer', 'in: play say:talk x1', ...DONE],
    asked: ['/voice'],
    reports: [12200],
  },
];

const RECORD: readonly Scenario[] = [
  {
    name: 'Record: beep, then a key ends it and the app is told',
    app: {
      '/voice':
        '<Record action="/rec" recordingStatusCallback="/s" recordingStatusCallbackEvent="in-progress completed"/>',
      '/rec': '<Hangup/>',
    },
    script: (world, leg) => world.at(5_400, () => leg.press('7')),
    effects: [
      'in: answer',
      'in: tone 1000 x1',
      'in: record in 1ch silence 5000 trim true',
      'in: recorded stopped',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/rec RecordingUrl=http://gw/Recordings/RE RecordingSid=RE RecordingDuration=5 Digits=7',
    ],
    told: [
      'http://app/s RecordingSid=RE RecordingUrl=http://gw/Recordings/RE RecordingStatus=in-progress RecordingDuration=0 RecordingChannels=1 RecordingStartTime=Fri, 20 Nov 2026 12:00:00 +0000 RecordingSource=RecordVerb RecordingTrack=inbound',
      'http://app/s RecordingSid=RE RecordingUrl=http://gw/Recordings/RE RecordingStatus=completed RecordingDuration=5 RecordingChannels=1 RecordingStartTime=Fri, 20 Nov 2026 12:00:00 +0000 RecordingSource=RecordVerb RecordingTrack=inbound',
    ],
  },
  {
    name: 'Record: silence ends it',
    app: { '/voice': '<Record playBeep="false" timeout="3" action="/rec"/>', '/rec': '' },
    heardMs: 4_000,
    effects: [
      'in: answer',
      'in: record in 1ch silence 3000 trim true',
      'in: recorded silence',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/rec RecordingUrl=http://gw/Recordings/RE RecordingSid=RE RecordingDuration=4 Digits=',
    ],
  },
  {
    name: 'Record: its greatest length ends it; keys that are not asked for do not',
    app: {
      '/voice':
        '<Record playBeep="false" timeout="0" finishOnKey="" maxLength="10" trim="do-not-trim" action="/rec"/>',
      '/rec': '',
    },
    script: (world, leg) => world.at(2_000, () => leg.press('1#')),
    effects: [
      'in: answer',
      'in: record in 1ch silence 0 trim false',
      'in: recorded maxMs',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/rec RecordingUrl=http://gw/Recordings/RE RecordingSid=RE RecordingDuration=10 Digits=',
    ],
  },
  {
    name: 'Record: the app learns of a message whose caller hung up, and what it answers is not run',
    app: { '/voice': '<Record playBeep="false" action="/rec"/>', '/rec': '<Say>never</Say>' },
    script: (world, leg) => world.at(3_000, () => leg.hangUp()),
    effects: [
      'in: answer',
      'in: record in 1ch silence 5000 trim true',
      'in: recorded portClosed',
      'in: ended remote',
    ],
    asked: [
      '/voice',
      '/rec RecordingUrl=http://gw/Recordings/RE RecordingSid=RE RecordingDuration=3 Digits=hangup',
    ],
  },
  {
    name: 'Record: who says nothing is not told about, and the next verb runs',
    app: {
      '/voice':
        '<Record playBeep="false" recordingStatusCallback="/s" recordingStatusCallbackEvent="absent"/><Say>bye</Say>',
    },
    heardMs: 0,
    effects: [
      'in: answer',
      'in: record in 1ch silence 5000 trim true',
      'in: recorded silence',
      'in: play say:bye x1',
      ...DONE,
    ],
    asked: ['/voice'],
    told: [
      'http://app/s RecordingSid=RE RecordingUrl=http://gw/Recordings/RE RecordingStatus=absent RecordingDuration=0 RecordingChannels=1 RecordingStartTime=Fri, 20 Nov 2026 12:00:00 +0000 RecordingSource=RecordVerb RecordingTrack=inbound ErrorCode=16101',
    ],
  },
];

const ERRORS: readonly Scenario[] = [
  {
    name: 'a document that does not parse goes to the secondary, with its number and URL',
    app: { '/voice': '<Say>', '/fb': '<Say>plan b</Say>' },
    application: { fallbackUrl: 'http://app/fb' },
    effects: ['in: answer', 'in: play say:plan b x1', ...DONE],
    asked: ['/voice', '/fb ErrorCode=12100 ErrorUrl=http://app/voice'],
    reports: [12100],
    end: 'CALL_COMPLETED',
  },
  {
    name: 'an app that answers an error goes to the secondary',
    app: { '/voice': 500, '/fb': '<Say>plan b</Say>' },
    application: { fallbackUrl: 'http://app/fb', fallbackMethod: 'GET' },
    effects: ['in: answer', 'in: play say:plan b x1', ...DONE],
    asked: ['/voice', 'GET /fb ErrorCode=11200 ErrorUrl=http://app/voice'],
    reports: [11200],
  },
  {
    name: 'a content type that is no document goes to the secondary',
    app: { '/voice': { type: 'image/png', body: 'x' }, '/fb': '' },
    application: { fallbackUrl: 'http://app/fb' },
    effects: ['in: answer', ...DONE],
    asked: ['/voice', '/fb ErrorCode=12300 ErrorUrl=http://app/voice'],
    reports: [12300],
  },
  {
    name: 'a prompt that is missing goes to the secondary under its own URL',
    app: { '/voice': '<Say>hi</Say><Play>/missing.mp3</Play>', '/fb': '<Say>plan b</Say>' },
    application: { fallbackUrl: 'http://app/fb' },
    effects: ['in: answer', 'in: play say:hi x1', 'in: play say:plan b x1', ...DONE],
    asked: ['/voice', '/fb ErrorCode=11200 ErrorUrl=http://app/missing.mp3'],
    reports: [11200],
  },
  {
    name: 'when the secondary fails too the caller is told and the call ends with the error',
    app: { '/voice': '<Play>/missing.mp3</Play>', '/fb': '<Play>/missing.mp3</Play>' },
    application: { fallbackUrl: 'http://app/fb' },
    effects: ['in: answer', SORRY, 'in: hangup APP_STATUS', 'in: ended local'],
    asked: ['/voice', '/fb ErrorCode=11200 ErrorUrl=http://app/missing.mp3'],
    reports: [11200, 11200],
    end: 'APP_STATUS',
  },
  {
    name: 'an app that is down for good ends the call in words',
    app: {},
    effects: ['in: answer', SORRY, 'in: hangup APP_STATUS', 'in: ended local'],
    asked: ['/voice'],
    reports: [11200],
    end: 'APP_STATUS',
  },
  {
    name: 'without words configured a call that is not answered yet is refused',
    app: {},
    options: { errorText: '' },
    effects: ['in: hangup APP_STATUS', 'in: ended local'],
    asked: ['/voice'],
    reports: [11200],
  },
  {
    name: 'when even the apology fails the call still ends',
    app: {},
    options: { errorText: 'missing' },
    effects: ['in: answer', 'in: hangup APP_STATUS', 'in: ended local'],
    asked: ['/voice'],
    reports: [11200, 11200],
  },
  {
    name: 'an application without URL and document fails with a report',
    app: { '/fb': '<Hangup/>' },
    application: { url: null, fallbackUrl: 'http://app/fb' },
    effects: ['in: answer', ...DONE],
    asked: ['/fb ErrorCode=11100 ErrorUrl='],
    reports: [11100],
  },
  {
    name: 'an inline document runs; a relative action in it is an error',
    app: { '/fb': '<Hangup/>' },
    application: {
      url: null,
      document: '<Response><Say>in</Say><Record action="/r"/></Response>',
      fallbackUrl: 'http://app/fb',
    },
    effects: ['in: answer', 'in: play say:in x1', ...DONE],
    asked: ['/fb ErrorCode=15004 ErrorUrl=/r'],
    reports: [15004],
  },
  {
    name: 'an inline Gather without action fails only when there is something to tell',
    app: {},
    application: {
      url: null,
      document: '<Response><Gather timeout="1"/><Gather/><Say>x</Say></Response>',
    },
    script: (world, leg) => world.at(2_000, () => leg.press('1#')),
    effects: ['in: answer', SORRY, 'in: hangup APP_URL', 'in: ended local'],
    asked: [],
    reports: [11100],
  },
];

const DIAL: readonly Scenario[] = [
  {
    name: 'Dial: rings, joins, and tells action when the callee hangs up',
    app: { '/voice': '<Dial action="/done">+1 (555) 010-0100</Dial>', '/done': '<Say>bye</Say>' },
    callees: { '+15550100100': TALK },
    effects: [
      'in: answer',
      invited('+15550100100'),
      RINGBACK,
      ...JOINED,
      '+15550100100: bridge',
      '+15550100100: ended remote',
      'in: unbridge',
      'in: play say:bye x1',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=10 DialBridged=true',
    ],
  },
  {
    name: 'Dial: without action the next verb runs, here when the callee is busy',
    app: { '/voice': '<Dial ringTone="de" callerId="+15559">100</Dial><Say>busy</Say>' },
    callees: {
      '100': {
        ringAfterMs: 1000,
        refuse: { afterMs: 2000, sipStatus: 486, code: 'CALL_BUSY' },
      },
    },
    effects: [
      'in: answer',
      '100: invited from sip:+15559',
      'in: tone 425 x0',
      '100: ended remote',
      'in: stop ringback',
      'in: play say:busy x1',
      ...DONE,
    ],
    asked: ['/voice'],
  },
  {
    name: 'Dial: nobody answers in time',
    app: { '/voice': '<Dial timeout="10" action="/done">100</Dial>', '/done': '' },
    callees: { '100': { ringAfterMs: 1000 } },
    effects: [
      'in: answer',
      invited('100'),
      RINGBACK,
      '100: ended local',
      'in: stop ringback',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=no-answer DialCallSid=CA DialCallDuration=0 DialBridged=false',
    ],
  },
  {
    name: 'Dial: the first of several to answer wins',
    app: {
      '/voice':
        '<Dial action="/done"><Number>100</Number><Number>200</Number><Number>300</Number></Dial>',
      '/done': '',
    },
    callees: {
      '100': { ringAfterMs: 500, answerAfterMs: 5000 },
      '200': { ringAfterMs: 600, answerAfterMs: 2000, hangupAfterMs: 8000 },
      '300': { refuse: { afterMs: 300, sipStatus: 486, code: 'CALL_BUSY' } },
    },
    effects: [
      'in: answer',
      invited('100'),
      invited('200'),
      invited('300'),
      '300: ended remote',
      RINGBACK,
      '100: hangup CALL_CANCELED',
      '100: ended local',
      ...JOINED,
      '200: bridge',
      '200: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=6 DialBridged=true',
    ],
  },
  {
    name: 'Dial sequential: one after the other until one answers',
    app: {
      '/voice': '<Dial sequential="true"><Number>100</Number><Number>200</Number></Dial>',
    },
    callees: {
      '100': { refuse: { afterMs: 1000, sipStatus: 486, code: 'CALL_BUSY' } },
      '200': TALK,
    },
    effects: [
      'in: answer',
      invited('100'),
      '100: ended remote',
      invited('200'),
      RINGBACK,
      ...JOINED,
      '200: bridge',
      '200: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: ['/voice'],
  },
  {
    name: 'Dial: of several failures the most telling one is told',
    app: {
      '/voice': '<Dial action="/done"><Number>100</Number><Number>200</Number></Dial>',
      '/done': '',
    },
    callees: {
      '100': { refuse: { afterMs: 500, sipStatus: 486, code: 'CALL_BUSY' } },
      '200': { refuse: { afterMs: 900, sipStatus: 503, code: 'SIP_REFUSED' } },
    },
    effects: [
      'in: answer',
      invited('100'),
      invited('200'),
      '100: ended remote',
      '200: ended remote',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=busy DialCallSid=CA DialCallDuration=0 DialBridged=false',
    ],
  },
  {
    name: 'Dial Sip: credentials and headers go out, and what came back is told',
    app: {
      '/voice':
        '<Dial action="/done"><Sip username="u" password="p">sip:bob@pbx?X-A=1</Sip></Dial>',
      '/done': '',
    },
    callees: { 'sip:bob@pbx': { ...TALK, headers: { 'X-Agent': '7' } } },
    effects: [
      'in: answer',
      'sip:bob@pbx: invited from sip:+15550002 X-A=1 as u',
      RINGBACK,
      ...JOINED,
      'sip:bob@pbx: bridge',
      'sip:bob@pbx: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=10 DialBridged=true DialSipResponseCode=200 DialSipCallId=sip:bob@pbx-id DialSipHeader_X-Agent=7',
    ],
  },
  {
    name: 'Dial Sip: the next address is tried when one cannot be reached',
    app: {
      '/voice':
        '<Dial action="/done"><Sip><Uri priority="2">sip:b@x</Uri><Uri priority="1">sip:a@x</Uri></Sip></Dial>',
      '/done': '',
    },
    callees: {
      'sip:a@x': { refuse: { afterMs: 500, sipStatus: 503, code: 'SIP_REFUSED' } },
      'sip:b@x': { refuse: { afterMs: 500, sipStatus: 486, code: 'CALL_BUSY' } },
    },
    effects: [
      'in: answer',
      invited('sip:a@x'),
      'sip:a@x: ended remote',
      invited('sip:b@x'),
      'sip:b@x: ended remote',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=busy DialCallSid=CA DialCallDuration=0 DialBridged=false DialSipResponseCode=486 DialSipCallId=sip:b@x-id',
    ],
  },
  {
    name: 'Dial answerOnBridge: the caller is answered when the callee is',
    app: { '/voice': '<Dial answerOnBridge="true">100</Dial>' },
    callees: { '100': TALK },
    effects: [
      'in: ring',
      invited('100'),
      'in: answer',
      'in: bridge',
      '100: bridge',
      '100: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: ['/voice'],
  },
  {
    name: 'Dial: what has no effect here is said, one by one',
    app: {
      '/voice': '<Dial callReason="x" passports="y"><Number byoc="BY1">100</Number></Dial>',
    },
    callees: { '100': { answerAfterMs: 1000, hangupAfterMs: 2000 } },
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      '100: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: ['/voice'],
    reports: [12200, 12200, 12200],
  },
  {
    name: 'Dial answerOnBridge: a caller who gives up while it rings takes the callee along',
    app: {
      '/voice': '<Dial answerOnBridge="true" action="/done">100</Dial>',
      '/done': '<Hangup/>',
    },
    callees: { '100': { ringAfterMs: 500 } },
    script: (world, leg) => world.at(3_000, () => leg.hangUp()),
    effects: [
      'in: ring',
      invited('100'),
      'in: ended remote',
      '100: hangup CALL_CANCELED',
      '100: ended local',
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=canceled DialCallSid=CA DialCallDuration=0 DialBridged=false',
    ],
  },
  {
    name: 'Dial: a caller who hangs up ends the talk, and action is still told',
    app: { '/voice': '<Dial action="/done">100</Dial>', '/done': '<Say>never</Say>' },
    callees: { '100': { answerAfterMs: 1000 } },
    script: (world, leg) => world.at(6_000, () => leg.hangUp()),
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      'in: ended remote',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=5 DialBridged=true',
    ],
  },
  {
    name: 'Dial hangupOnStar: the caller drops the callee and goes on',
    app: { '/voice': '<Dial hangupOnStar="true">100</Dial><Say>still here</Say>' },
    callees: { '100': { answerAfterMs: 1000 } },
    script: (world, leg) => world.at(4_000, () => leg.press('1*')),
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
      'in: unbridge',
      'in: play say:still here x1',
      ...DONE,
    ],
    asked: ['/voice'],
  },
  {
    name: 'Dial timeLimit ends the talk',
    app: { '/voice': '<Dial timeLimit="4" action="/done">100</Dial>', '/done': '' },
    callees: { '100': { answerAfterMs: 1000 } },
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      '100: hangup CALL_TIME_LIMIT',
      '100: ended local',
      'in: unbridge',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=4 DialBridged=true',
    ],
  },
  {
    name: 'Dial record: both sides, from the answer on, told about when it is over',
    app: {
      '/voice':
        '<Dial record="record-from-answer-dual" recordingStatusCallback="/s" action="/done">100</Dial>',
      '/done': '',
    },
    callees: { '100': TALK },
    effects: [
      'in: answer',
      invited('100'),
      RINGBACK,
      'in: stop ringback',
      'in: record both 2ch silence 0 trim false',
      'in: bridge',
      '100: bridge',
      '100: ended remote',
      'in: unbridge',
      'in: recorded stopped',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=10 DialBridged=true RecordingUrl=http://gw/Recordings/RE',
    ],
    told: [
      'http://app/s RecordingSid=RE RecordingUrl=http://gw/Recordings/RE RecordingStatus=completed RecordingDuration=10 RecordingChannels=2 RecordingStartTime=Fri, 20 Nov 2026 12:00:02 +0000 RecordingSource=DialVerb RecordingTrack=both',
    ],
  },
  {
    name: 'Dial record from ringing: one track of the caller',
    app: {
      '/voice': '<Dial record="record-from-ringing-dual" recordingTrack="inbound">100</Dial>',
    },
    callees: { '100': TALK },
    script: (world, leg) => world.at(5_000, () => leg.hangUp()),
    effects: [
      'in: answer',
      invited('100'),
      RINGBACK,
      'in: record in 1ch silence 0 trim false',
      ...JOINED,
      '100: bridge',
      'in: recorded portClosed',
      'in: ended remote',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
    ],
    asked: ['/voice'],
  },
  {
    name: 'Dial Number: keys are sent and the whisper is heard before the two are joined',
    app: {
      '/voice': '<Dial><Number sendDigits="ww5" url="/whisper">100</Number></Dial>',
      '/whisper': '<Gather numDigits="1" action="/accept"><Say>press 1</Say></Gather><Hangup/>',
      '/accept': '<Say>connecting</Say>',
    },
    callees: { '100': { ...TALK, digits: [[1500, '1']] } },
    effects: [
      'in: answer',
      invited('100'),
      RINGBACK,
      '100: digits ww5',
      '100: play say:press 1 x1',
      '100: play say:connecting x1',
      ...JOINED,
      '100: bridge',
      '100: ended remote',
      'in: unbridge',
      ...DONE,
    ],
    asked: ['/voice', '/whisper', '/accept Digits=1'],
  },
  {
    name: 'Dial: a callee who declines in the whisper is not joined',
    app: {
      '/voice': '<Dial action="/done"><Number url="/whisper">100</Number></Dial>',
      '/whisper': '<Gather timeout="2"><Say>press 1</Say></Gather><Hangup/>',
      '/done': '<Say>sorry</Say>',
    },
    callees: { '100': { answerAfterMs: 1000 } },
    effects: [
      'in: answer',
      invited('100'),
      '100: play say:press 1 x1',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
      'in: play say:sorry x1',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/whisper',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=3 DialBridged=false',
    ],
  },
  {
    name: 'Dial: a Dial in the whisper is an error, and the callee is told so',
    app: {
      '/voice': '<Dial action="/done"><Number url="/whisper">100</Number></Dial>',
      '/whisper': '<Dial>200</Dial>',
      '/done': '',
    },
    callees: { '100': { answerAfterMs: 1000 } },
    effects: [
      'in: answer',
      invited('100'),
      `100: ${SORRY.slice(4)}`,
      '100: hangup DIAL_IN_WHISPER',
      '100: ended local',
      ...DONE,
    ],
    asked: [
      '/voice',
      '/whisper',
      '/done DialCallStatus=completed DialCallSid=CA DialCallDuration=1 DialBridged=false',
    ],
    reports: [13201],
  },
  {
    name: 'Dial: a number that no trunk takes fails with its number',
    app: { '/voice': '<Dial action="/done">99</Dial>', '/done': '' },
    effects: ['in: answer', ...DONE],
    asked: [
      '/voice',
      '/done DialCallStatus=failed DialCallSid=CA DialCallDuration=0 DialBridged=false ErrorCode=13224',
    ],
  },
  {
    name: 'Dial: nobody is called when what comes afterwards cannot be',
    app: { '/fb': '<Say>plan b</Say>' },
    application: {
      url: null,
      document: '<Response><Dial><Number url="/whisper">100</Number></Dial></Response>',
      fallbackUrl: 'http://app/fb',
    },
    effects: ['in: answer', 'in: play say:plan b x1', ...DONE],
    asked: ['/fb ErrorCode=15004 ErrorUrl=/whisper'],
    reports: [15004],
  },
  {
    name: 'Dial: an error on the way leaves nobody waiting',
    app: { '/voice': '<Dial answerOnBridge="true">100</Dial>' },
    callees: { '100': { answerAfterMs: 1000 } },
    options: { errorText: '' },
    answerFails: true,
    effects: [
      'in: ring',
      invited('100'),
      'in: answer',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
      'in: hangup CALL_NO_ACK',
      'in: ended local',
    ],
    asked: ['/voice'],
    reports: [32022],
  },
  {
    name: 'Dial: callbacks that cannot be told are reported, and the call is made all the same',
    app: {},
    application: {
      url: null,
      document:
        '<Response><Dial record="record-from-answer" recordingStatusCallback="/rec"><Number statusCallback="ftp://x">100</Number></Dial></Response>',
    },
    callees: { '100': { answerAfterMs: 1000, hangupAfterMs: 3000 } },
    effects: [
      'in: answer',
      invited('100'),
      'in: record both 1ch silence 0 trim false',
      'in: bridge',
      '100: bridge',
      '100: ended remote',
      'in: unbridge',
      'in: recorded stopped',
      ...DONE,
    ],
    asked: [],
    reports: [11100, 15004],
  },
  {
    name: 'Dial: nouns that cannot be reached here fail with their number',
    app: {
      '/voice': '<Dial action="/a"><Conference>room</Conference></Dial>',
      '/a': '<Dial action="/b">not a number</Dial>',
      '/b': '<Dial action="/c"><Sip>bob</Sip></Dial>',
      '/c': '',
    },
    effects: ['in: answer', ...DONE],
    asked: [
      '/voice',
      '/a DialCallStatus=failed DialCallDuration=0 DialBridged=false ErrorCode=13215',
      '/b DialCallStatus=failed DialCallDuration=0 DialBridged=false ErrorCode=13223',
      '/c DialCallStatus=failed DialCallDuration=0 DialBridged=false DialSipResponseCode=404 ErrorCode=13243',
    ],
    reports: [13215],
  },
];

const REDIRECTED: readonly Scenario[] = [
  {
    name: 'REST takes a call out of a Say',
    app: { '/voice': '<Say loop="0">wait</Say>', '/new': '<Say>new</Say>' },
    script: (world, leg) =>
      world.at(5_000, () => world.redirect(leg.callSid, { url: 'http://app/new' })),
    effects: [
      'in: answer',
      'in: play say:wait x0',
      'in: stop play',
      'in: play say:new x1',
      ...DONE,
    ],
    asked: ['/voice', '/new'],
  },
  {
    name: 'REST takes a call out of a Gather and gives it an inline document',
    app: { '/voice': '<Gather><Play loop="0">http://m/a.wav</Play></Gather>' },
    script: (world, leg) =>
      world.at(5_000, () =>
        world.redirect(leg.callSid, { document: '<Response><Say>new</Say></Response>' }),
      ),
    effects: [
      'in: answer',
      'in: play http://m/a.wav x0',
      'in: stop prompt0',
      'in: play say:new x1',
      ...DONE,
    ],
    asked: ['/voice'],
  },
  {
    name: 'REST takes a call out of a Record: what was recorded is kept and told about',
    app: {
      '/voice': '<Record playBeep="false" recordingStatusCallback="/s" action="/never"/>',
      '/new': '<Hangup/>',
    },
    script: (world, leg) =>
      world.at(4_000, () => world.redirect(leg.callSid, { url: 'http://app/new' })),
    effects: [
      'in: answer',
      'in: record in 1ch silence 5000 trim true',
      'in: recorded stopped',
      ...DONE,
    ],
    asked: ['/voice', '/new'],
    told: [
      'http://app/s RecordingSid=RE RecordingUrl=http://gw/Recordings/RE RecordingStatus=completed RecordingDuration=4 RecordingChannels=1 RecordingStartTime=Fri, 20 Nov 2026 12:00:00 +0000 RecordingSource=RecordVerb RecordingTrack=inbound',
    ],
  },
  {
    name: 'REST takes a caller out of a talk: the callee is hung up',
    app: { '/voice': '<Dial action="/never">100</Dial>', '/new': '<Say>new</Say>' },
    callees: { '100': { answerAfterMs: 1000 } },
    script: (world, leg) =>
      world.at(5_000, () => world.redirect(leg.callSid, { url: 'http://app/new' })),
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      'in: unbridge',
      '100: unbridge',
      '100: hangup CALL_COMPLETED',
      '100: ended local',
      'in: play say:new x1',
      ...DONE,
    ],
    asked: ['/voice', '/new'],
  },
  {
    name: 'REST takes a callee out of a talk: he goes his way and the caller his',
    app: {
      '/voice': '<Dial action="/done">100</Dial>',
      '/done': '<Say>alone</Say>',
      '/new': '<Say>hold on</Say><Pause length="5"/>',
    },
    callees: { '100': { answerAfterMs: 1000 } },
    script: (world) =>
      world.at(5_000, () => {
        const child = world.calls.find((call) => call.record.parentCallSid !== null);
        if (child) world.redirect(child.sid, { url: 'http://app/new' });
      }),
    effects: [
      'in: answer',
      invited('100'),
      'in: bridge',
      '100: bridge',
      '100: unbridge',
      'in: unbridge',
      '100: play say:hold on x1',
      'in: play say:alone x1',
      ...DONE,
      '100: hangup CALL_COMPLETED',
      '100: ended local',
    ],
    asked: ['/voice', '/new', '/done DialCallStatus=completed DialCallSid=CA DialBridged=true'],
  },
  {
    name: 'REST takes a call out of a first Pause, before the answer',
    app: { '/voice': '<Pause length="60"/>', '/new': '<Reject/>' },
    script: (world, leg) =>
      world.at(2_000, () => world.redirect(leg.callSid, { url: 'http://app/new' })),
    effects: ['in: hangup CALL_REJECTED', 'in: ended local'],
    asked: ['/voice', '/new'],
  },
];

export const SCENARIOS: readonly Scenario[] = [
  ...OUTPUT,
  ...CONTROL,
  ...GATHER,
  ...RECORD,
  ...DIAL,
  ...REDIRECTED,
  ...ERRORS,
];
