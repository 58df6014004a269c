/**
 * SDP: what is read, what is refused and why, and what offers and answers are made. The torture
 * set's sdp-* messages are judged here by parsing and answering them.
 */
import { existsSync, readFileSync } from 'node:fs';
import t from 'tap';
import { CODEC_NAMES, type CodecName } from '../src/core/codec.ts';
import { asGatewayError } from '../src/core/errors.ts';
import { DEFAULT_MEDIA_POLICY, type MediaPolicy, mediaAddress } from '../src/sdp/address.ts';
import {
  type AnswerOptions,
  acceptAnswer,
  answerOffer,
  judgeOffer,
  makeOffer,
  offeredFamily,
  writeAnswer,
} from '../src/sdp/offer-answer.ts';
import { parseSdp } from '../src/sdp/sdp.ts';
import { findSdp } from '../src/sip/multipart.ts';
import { parseMessage } from '../src/sip/parser.ts';

const LOCAL = { address: '192.0.2.20', family: 4, port: 30_000 } as const;
const BASE = { local: LOCAL, sessionId: '7', version: 1 } as const;

function description(media: readonly string[], session: readonly string[] = []): string {
  const head = ['v=0', 'o=a 1 1 IN IP4 198.51.100.1', 's=-', 'c=IN IP4 198.51.100.1', 't=0 0'];
  return [...head, ...session, ...media, ''].join('\r\n');
}

function answer(text: string, more: Partial<AnswerOptions> = {}): ReturnType<typeof answerOffer> {
  return answerOffer({
    offer: parseSdp(text),
    codecs: CODEC_NAMES,
    ...BASE,
    policy: DEFAULT_MEDIA_POLICY,
    ...more,
  });
}

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (thrown) {
    return asGatewayError(thrown).code;
  }
  return 'ok';
}

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (thrown) {
    return asGatewayError(thrown).message;
  }
  return '';
}

const DATA = new URL('../../shared/data/torture/', import.meta.url);
const HAS_DATA = existsSync(new URL('index.json', DATA));

interface Entry {
  name: string;
  file: string;
  expect: 'accept' | 'reject' | 'error';
  status?: number;
}

/** Accepted by the set's main verdict, refused here by what it allows besides, and why. */
const REFUSED_ON_PURPOSE = new Map([['sdp-c-hostname', 'names are not resolved for media']]);

t.test(
  'torture messages with sdp verdicts',
  { skip: !HAS_DATA && 'no torture data' },
  async (t) => {
    const index = JSON.parse(readFileSync(new URL('index.json', DATA), 'utf8')) as Entry[];
    const wrong: string[] = [];
    let judged = 0;
    for (const entry of index.filter(({ name }) => name.startsWith('sdp-'))) {
      const result = parseMessage(readFileSync(new URL(entry.file, DATA), 'latin1'), {
        stream: false,
      });
      if (!result.ok) throw result.error;
      judged += 1;
      const local = { address: '127.0.0.1', family: 4, port: 30_000 } as const;
      const code = codeOf(() => answer(findSdp(result.message), { local }));
      const isAccepted = entry.expect === 'accept' && !REFUSED_ON_PURPOSE.has(entry.name);
      if ((code === 'ok') !== isAccepted) wrong.push(`${entry.name}: ${code}`);
    }
    t.same(wrong, []);
    t.ok(judged >= 25, `${judged} messages`);
  },
);

t.test('the offerer orders codecs, our list filters them', async (t) => {
  const text = description([
    'm=audio 40000 RTP/AVP 18 9 8 0 101',
    'a=rtpmap:101 telephone-event/8000',
  ]);
  t.equal(answer(text).media.codec, 'G722');
  t.equal(answer(text, { codecs: ['PCMU', 'PCMA'] }).media.codec, 'PCMA');
  const { sdp, media } = answer(text, { codecs: ['PCMU', 'PCMA'] });
  t.match(sdp, /m=audio 30000 RTP\/AVP 8 101\r\n/);
  t.same(media.otherPayloadTypes, [{ codec: 'PCMU', payloadType: 0 }]);
  t.same(media.dtmf, { payloadType: 101, receivePayloadType: 101, clockRateHz: 8000 });
  t.same(media.remote, {
    address: '198.51.100.1',
    port: 40_000,
    rtcpPort: 40_001,
    rtcpMux: false,
  });
});

t.test('no codec in common says what was offered', async (t) => {
  const text = description(['m=audio 40000 RTP/AVP 18 97', 'a=rtpmap:97 iLBC/8000']);
  t.equal(
    codeOf(() => answer(text)),
    'NO_COMMON_CODEC',
  );
  t.match(
    messageOf(() => answer(text)),
    /G729\/8000, iLBC\/8000/,
  );
  const names = description(['m=audio 40000 RTP/AVP 12']);
  t.match(
    messageOf(() => answer(names)),
    /offered 12/,
  );
});

t.test('a codec is its name, clock and channels together', async (t) => {
  const wrongClock = description(['m=audio 40000 RTP/AVP 96', 'a=rtpmap:96 opus/8000/2']);
  const mono = description(['m=audio 40000 RTP/AVP 96', 'a=rtpmap:96 opus/48000']);
  const remapped = description(['m=audio 40000 RTP/AVP 0', 'a=rtpmap:0 G726-32/8000']);
  const anyCase = description(['m=audio 40000 RTP/AVP 120', 'a=rtpmap:120 OPUS/48000/2']);
  t.equal(
    codeOf(() => answer(wrongClock)),
    'NO_COMMON_CODEC',
  );
  t.equal(
    codeOf(() => answer(mono)),
    'NO_COMMON_CODEC',
  );
  t.equal(
    codeOf(() => answer(remapped)),
    'NO_COMMON_CODEC',
  );
  t.equal(answer(anyCase).media.payloadType, 120);
});

t.test('events are taken at the clock of the codec', async (t) => {
  const media = [
    'm=audio 40000 RTP/AVP 111 0 101 110',
    'a=rtpmap:111 opus/48000/2',
    'a=fmtp:111 stereo=1; useinbandfec=1;maxaveragebitrate=24000;usedtx=0',
    'a=rtpmap:101 telephone-event/8000',
    'a=rtpmap:110 telephone-event/48000',
  ];
  const opus = answer(description(media)).media;
  t.equal(opus.dtmf?.payloadType, 110);
  t.same(opus.opus, { stereo: true, useInbandFec: true, dtx: false, maxAverageBitrate: 24_000 });
  const pcmu = answer(description(media), { codecs: ['PCMU'] }).media;
  t.equal(pcmu.dtmf?.payloadType, 101);
  t.equal(pcmu.opus, undefined);
  const only8000 = answer(description(media.filter((line) => !line.includes('110 tele')))).media;
  t.equal(only8000.dtmf?.clockRateHz, 8000);
});

t.test('directions answer each other, and hold has three spellings', async (t) => {
  const of = (lines: readonly string[], more: Partial<AnswerOptions> = {}): string => {
    const { media, sdp } = answer(description(['m=audio 40000 RTP/AVP 0', ...lines]), more);
    t.ok(sdp.includes(`a=${media.direction}\r\n`));
    return `${media.direction}${media.onHold ? ' held' : ''}`;
  };
  t.equal(of([]), 'sendrecv');
  t.equal(of(['a=sendonly']), 'recvonly held');
  t.equal(of(['a=recvonly']), 'sendonly');
  t.equal(of(['a=inactive']), 'inactive held');
  t.equal(of(['c=IN IP4 0.0.0.0']), 'recvonly held');
  t.equal(of(['c=IN IP4 0.0.0.0', 'a=recvonly']), 'inactive held');
  t.equal(of([], { direction: 'recvonly' }), 'recvonly');
  t.equal(of(['a=sendonly'], { direction: 'sendonly' }), 'inactive held');
  const session = description(['m=audio 40000 RTP/AVP 0'], ['a=sendonly']);
  t.equal(answer(session).media.direction, 'recvonly');
});

t.test('port 0 within a call stops its audio, and a later offer brings it back', async (t) => {
  const before = answer(description(['m=audio 40000 RTP/AVP 0'])).media;
  const stopped = description(['m=audio 0 RTP/AVP 0', 'm=video 0 RTP/AVP 97']);
  const { sdp, media } = answer(stopped, { previous: before });
  t.match(media, { direction: 'inactive', onHold: true, codec: 'PCMU' });
  t.match(sdp, /m=audio 0 RTP\/AVP 0\r\nm=video 0 RTP\/AVP 97/);
  const back = answer(description(['m=audio 40000 RTP/AVP 0']), { previous: media });
  t.match(back.media, { direction: 'sendrecv', onHold: false });
  t.match(back.sdp, /m=audio 30000/);
  t.throws(() => answer(stopped), { code: 'SDP_REFUSED' }, 'a call does not begin like that');
});

t.test('every m= line is answered in its place', async (t) => {
  const text = description([
    'm=video 50000 RTP/AVP 97',
    'a=rtpmap:97 H264/90000',
    'm=audio 0 RTP/AVP 0',
    'm=audio 40000 RTP/SAVP 0',
    'm=audio 40002 RTP/AVP 0',
    'm=image 40004 udptl t38',
    'm=audio 40006 RTP/AVP 8',
  ]);
  const { sdp, media } = answer(text);
  t.same(
    sdp.split('\r\n').filter((line) => line.startsWith('m=')),
    [
      'm=video 0 RTP/AVP 97',
      'm=audio 0 RTP/AVP 0',
      'm=audio 0 RTP/SAVP 0',
      'm=audio 30000 RTP/AVP 0',
      'm=image 0 udptl t38',
      'm=audio 0 RTP/AVP 8',
    ],
  );
  t.equal(media.remote.port, 40_002);
  t.equal(parseSdp(sdp).media.length, 6);
});

t.test('a secure-only offer is refused, not answered in the clear', async (t) => {
  const text = description(['m=audio 40000 RTP/SAVP 0', 'a=crypto:1 X inline:abc']);
  for (const [srtp, code] of [
    ['off', 'SRTP_OFF'],
    ['preferred', 'SRTP_UNSUPPORTED'],
    ['required', 'SRTP_UNSUPPORTED'],
  ] as const) {
    t.equal(
      codeOf(() => answer(text, { srtp })),
      code,
    );
  }
  t.equal(
    codeOf(() => answer(text)),
    'SRTP_OFF',
  );
});

t.test('keys for SRTP beside plain RTP are answered in plain, unless SRTP must be', async (t) => {
  const keys = description(['m=audio 40000 RTP/AVP 0', 'a=crypto:1 X inline:abc']);
  const both = description(['m=audio 40000 RTP/SAVP 0', 'm=audio 40002 RTP/AVP 0']);
  const plain = description(['m=audio 40000 RTP/AVP 0']);
  for (const srtp of ['off', 'preferred'] as const) {
    t.notMatch(answer(keys, { srtp }).sdp, /crypto/);
    t.equal(answer(both, { srtp }).media.remote.port, 40_002);
  }
  const codes = [keys, both, plain].map((text) => codeOf(() => answer(text, { srtp: 'required' })));
  t.same(codes, ['SRTP_UNSUPPORTED', 'SRTP_UNSUPPORTED', 'SRTP_REQUIRED']);
});

t.test('the peer names the packet time, else we do; Opus has frames of its own', async (t) => {
  const timeOf = (lines: readonly string[], ptimeMs: number, formats = 'RTP/AVP 0'): number =>
    answer(description([`m=audio 40000 ${formats}`, ...lines]), { ptimeMs }).media.ptimeMs;

  t.equal(timeOf([], 30), 30);
  t.equal(timeOf(['a=ptime:10'], 30), 10);
  t.equal(timeOf(['a=maxptime:20'], 30), 20);
  const opus = ['a=rtpmap:96 opus/48000/2'];
  const times = [10, 20, 30, 40, 50, 60, 100].map((ms) => timeOf(opus, ms, 'RTP/AVP 96'));
  t.same(times, [10, 20, 20, 40, 40, 60, 60]);
});

t.test('keys are no events where the trunk has them in another way', async (t) => {
  const text = description(['m=audio 40000 RTP/AVP 0 101', 'a=rtpmap:101 telephone-event/8000']);
  const answered = answer(text, { events: false });
  t.equal(answered.media.dtmf, null);
  t.notMatch(answered.sdp, /telephone-event/);
  const { sdp, formats } = makeOffer({ ...BASE, codecs: ALL, events: false });
  t.notMatch(sdp, /telephone-event/);
  t.equal(formats.length, ALL.length);
});

t.test('RTCP goes where the offer says', async (t) => {
  const of = (lines: readonly string[], more: Partial<AnswerOptions> = {}): unknown =>
    answer(description(['m=audio 40000 RTP/AVP 0', ...lines]), more).media.remote;
  const remote = { address: '198.51.100.1', port: 40_000 };
  t.same(of(['a=rtcp:41000']), { ...remote, rtcpPort: 41_000, rtcpMux: false });
  t.same(of(['a=rtcp-mux']), { ...remote, rtcpPort: 40_000, rtcpMux: true });
  t.same(of(['a=rtcp-mux'], { rtcpMux: false }), { ...remote, rtcpPort: 40_001, rtcpMux: false });
  t.same(of(['a=rtcp:41000 IN IP4 198.51.100.1']), { ...remote, rtcpPort: 41_000, rtcpMux: false });
  t.equal(
    codeOf(() => of(['a=rtcp:41000 IN IP4 198.51.100.2'])),
    'SDP_REFUSED',
  );
  t.equal(
    codeOf(() => of(['a=rtcp:53'])),
    'SDP_REFUSED',
  );
  t.match(answer(description(['m=audio 40000 RTP/AVP 0'])).sdp, /a=rtcp:30001\r\n/);
  t.notMatch(answer(description(['m=audio 40000 RTP/AVP 0', 'a=rtcp-mux'])).sdp, /a=rtcp:/);
});

t.test('packet time is bounded, whole tens, and below maxptime', async (t) => {
  const of = (...lines: readonly string[]): number =>
    answer(description(['m=audio 40000 RTP/AVP 0', ...lines])).media.ptimeMs;
  t.equal(of(), 20);
  t.equal(of('a=ptime:0'), 20);
  t.equal(of('a=ptime:30'), 30);
  t.equal(of('a=ptime:1'), 10);
  t.equal(of('a=ptime:45.5'), 40);
  t.equal(of('a=ptime:5000'), 120);
  t.equal(of('a=ptime:60', 'a=maxptime:40'), 40);
  t.equal(of('a=maxptime:5'), 10);
});

t.test('media policy is about the address, not its spelling', async (t) => {
  const strict: MediaPolicy = {
    allowPrivateMedia: false,
    allowLoopbackMedia: false,
    remotePortMin: 1024,
  };
  const of = (host: string, policy: MediaPolicy): string =>
    codeOf(() => mediaAddress(host, policy));
  for (const host of ['224.0.0.1', '255.255.255.255', '169.254.169.254', 'ff02::1', 'fe80::1']) {
    t.equal(of(host, DEFAULT_MEDIA_POLICY), 'SDP_REFUSED', host);
  }
  for (const host of [
    '::ffff:127.0.0.1',
    '::ffff:7f00:1',
    '::ffff:10.0.0.1',
    '0::ffff:127.0.0.1',
  ]) {
    t.equal(of(host, DEFAULT_MEDIA_POLICY), 'SDP_REFUSED', host);
  }
  for (const host of ['10.1.1.1', '172.20.0.1', '192.168.1.1', '100.64.0.1', 'fd00::1']) {
    t.equal(of(host, DEFAULT_MEDIA_POLICY), 'ok', host);
    t.equal(of(host, strict), 'SDP_REFUSED', host);
  }
  for (const host of ['127.0.0.1', '::1']) {
    t.equal(of(host, DEFAULT_MEDIA_POLICY), 'ok', host);
    t.equal(of(host, strict), 'SDP_REFUSED', host);
  }
  t.same(mediaAddress('::ffff:192.0.2.9', strict), { address: '192.0.2.9', family: 4 });
  t.same(mediaAddress('2001:db8::1', strict), { address: '2001:db8::1', family: 6 });
  t.equal(of('localhost', strict), 'SDP_REFUSED');
  const low = description(['m=audio 53 RTP/AVP 0']);
  t.equal(
    codeOf(() => answer(low)),
    'SDP_REFUSED',
  );
});

t.test('IPv6 offers get IPv6 answers, and only those', async (t) => {
  const text = description(['m=audio 40000 RTP/AVP 0', 'c=IN IP6 2001:db8::5']);
  const local = { address: '2001:db8::20', family: 6, port: 30_000 } as const;
  t.equal(offeredFamily(parseSdp(text)), 6);
  t.match(answer(text, { local }).sdp, /c=IN IP6 2001:db8::20\r\n/);
  t.equal(answer(text, { local }).media.remote.address, '2001:db8::5');
  t.equal(
    codeOf(() => answer(text)),
    'SDP_REFUSED',
  );
});

t.test('malformed descriptions are refused with the reason', async (t) => {
  const good = description(['m=audio 40000 RTP/AVP 0']);
  const of = (text: string): string => codeOf(() => parseSdp(text));
  t.equal(of(good), 'ok');
  t.equal(of(good.replaceAll('\r\n', '\n')), 'ok');
  t.equal(of(''), 'SDP_MALFORMED');
  t.equal(of(good.replace('t=0 0\r\n', '')), 'SDP_MALFORMED');
  t.equal(of(good.replace('c=IN IP4 198.51.100.1', 'c=IN IP4 127.1')), 'SDP_MALFORMED');
  t.equal(of(good.replace('c=IN IP4 198.51.100.1', 'c=IN IP4 0x7f.1')), 'SDP_MALFORMED');
  t.equal(of(good.replace('c=IN IP4', 'c=IN IP6')), 'SDP_MALFORMED');
  t.equal(of(good.replace('s=-', 's=-\rx')), 'SDP_MALFORMED');
  t.equal(of(`${good}v=0\r\n`), 'SDP_MALFORMED');
  t.equal(of(good.replace('audio 40000', 'audio 65536')), 'SDP_MALFORMED');
  t.equal(of(`${good}a=${'x'.repeat(9000)}\r\n`), 'SDP_MALFORMED');
  t.equal(of(description(Array(33).fill('m=audio 40000 RTP/AVP 0'))), 'SDP_MALFORMED');
  t.equal(of('x'.repeat(70_000)), 'SDP_MALFORMED');
  const huge = good.replace('o=a 1 1', `o=a ${'9'.repeat(40)} 1`);
  t.equal(parseSdp(huge).origin.sessionId, '9'.repeat(40));
});

t.test('an encoding may be named by digits', async (t) => {
  const text = description(['m=audio 40000 RTP/AVP 97 8', 'a=rtpmap:97 123/8000']);
  t.equal(parseSdp(text).media[0]?.codecs[0]?.encoding, '123');
  t.equal(answer(text).media.codec, 'PCMA');
});

/** A rich description, so that a change anywhere in it meets some rule. */
const RICH = description(
  [
    'm=audio 40000/2 RTP/AVP 111 0 101',
    'c=IN IP6 2001:db8::1',
    'a=mid:0',
    'a=rtpmap:111 opus/48000/2',
    'a=fmtp:111 minptime=10;useinbandfec=1',
    'a=rtpmap:101 telephone-event/8000',
    'a=ptime:20',
    'a=maxptime:60.5',
    'a=rtcp:40001 IN IP6 2001:db8::1',
    'a=rtcp-mux',
    'm=image 40004 udptl t38',
    'a=mid:1',
    'a=T38FaxMaxBuffer:200',
  ],
  ['a=group:FID 0 1', 'a=sendonly'],
);

t.test('whatever is changed in a description, it is refused or within bounds', async (t) => {
  let seed = 1;
  const draw = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 8) % below;
  };
  const pieces = ['\r', '\n', '\0', ' ', ':', '/', '9', '-1', 'a=', 'm=', 'c=', '99999', '\u00ff'];
  const verdicts = new Map<string, number>();
  const wrong: string[] = [];
  for (let round = 0; round < 5_000; round += 1) {
    let text = RICH;
    for (let changes = 1 + draw(3); changes > 0; changes -= 1) {
      const at = draw(text.length);
      text = text.slice(0, at) + (pieces[draw(pieces.length)] ?? '') + text.slice(at + draw(3));
    }
    const code = codeOf(() => {
      for (const { port, codecs } of parseSdp(text).media) {
        const isSound = port <= 65_535 && codecs.every(({ payloadType }) => payloadType <= 127);
        if (!isSound) wrong.push(text);
      }
    });
    verdicts.set(code, (verdicts.get(code) ?? 0) + 1);
  }
  t.same(wrong, []);
  t.same([...verdicts.keys()].sort(), ['SDP_MALFORMED', 'ok']);
  t.ok((verdicts.get('ok') ?? 0) > 500, 'not only refusals were seen');
});

const ALL: readonly CodecName[] = ['opus', 'G722', 'PCMA', 'PCMU'];

t.test('an offer lists our order and events for each clock', async (t) => {
  const { sdp } = makeOffer({ ...BASE, codecs: ALL });
  t.match(sdp, /m=audio 30000 RTP\/AVP 96 9 8 0 110 101\r\n/);
  t.match(sdp, /a=rtpmap:96 opus\/48000\/2\r\n/);
  t.match(sdp, /a=rtpmap:110 telephone-event\/48000\r\na=fmtp:110 0-15\r\n/);
  t.match(sdp, /a=ptime:20\r\n/);
  t.match(sdp, /a=rtcp:30001\r\n/);
  t.match(makeOffer({ ...BASE, codecs: ['PCMU'] }).sdp, /RTP\/AVP 0 101\r\n/);
});

t.test('an answer may renumber: we send theirs and receive ours', async (t) => {
  const offer = makeOffer({ ...BASE, codecs: ALL }).sdp;
  const text = description([
    'm=audio 40000 RTP/AVP 107 0 98',
    'a=rtpmap:107 opus/48000/2',
    'a=rtpmap:98 telephone-event/48000',
    'a=ptime:40',
  ]);
  const accepted = acceptAnswer({ offer, answer: parseSdp(text), policy: DEFAULT_MEDIA_POLICY });
  t.equal(accepted.codec, 'opus');
  t.equal(accepted.payloadType, 107);
  t.equal(accepted.receivePayloadType, 96);
  t.same(accepted.dtmf, { payloadType: 98, receivePayloadType: 110, clockRateHz: 48_000 });
  t.equal(accepted.ptimeMs, 40);
  t.same(accepted.otherPayloadTypes, [{ codec: 'PCMU', payloadType: 0 }]);
});

t.test('an answer that is none is refused', async (t) => {
  const offer = makeOffer({ ...BASE, codecs: ['PCMU'] }).sdp;
  const of = (media: readonly string[]): string =>
    codeOf(() =>
      acceptAnswer({ offer, answer: parseSdp(description(media)), policy: DEFAULT_MEDIA_POLICY }),
    );
  t.equal(of([]), 'SDP_MALFORMED');
  t.equal(of(['m=audio 0 RTP/AVP 0']), 'SDP_REFUSED');
  t.equal(of(['m=audio 40000 RTP/AVP 8']), 'NO_COMMON_CODEC');
  t.equal(of(['m=video 40000 RTP/AVP 0']), 'SDP_REFUSED');
  t.equal(of(['m=audio 40000 RTP/AVP 0', 'c=IN IP6 2001:db8::1']), 'SDP_REFUSED');
  t.equal(of(['m=audio 40000 RTP/AVP 0']), 'ok');
});

t.test('a held answer stops our sending', async (t) => {
  const of = (direction: 'sendrecv' | 'sendonly', lines: readonly string[]): string => {
    const offer = makeOffer({ ...BASE, codecs: ['PCMU'], direction }).sdp;
    const answered = parseSdp(description(['m=audio 40000 RTP/AVP 0', ...lines]));
    return acceptAnswer({ offer, answer: answered, policy: DEFAULT_MEDIA_POLICY }).direction;
  };
  t.equal(of('sendrecv', ['a=sendonly']), 'recvonly');
  t.equal(of('sendrecv', ['a=inactive']), 'inactive');
  t.equal(of('sendrecv', ['c=IN IP4 0.0.0.0']), 'recvonly');
  t.equal(of('sendonly', ['a=recvonly']), 'sendonly');
  t.equal(of('sendonly', []), 'sendonly');
});

t.test('a re-offer keeps codec, payload types and m= lines', async (t) => {
  const first = description([
    'm=video 50000 RTP/AVP 97',
    'm=audio 40000 RTP/AVP 8 115 100',
    'a=rtpmap:115 opus/48000/2',
    'a=rtpmap:100 telephone-event/8000',
  ]);
  const { sdp, media } = answer(first, { codecs: ['opus'] });
  const again = makeOffer({
    ...BASE,
    version: 2,
    codecs: ALL,
    previous: media,
    previousSdp: sdp,
    direction: 'sendonly',
  }).sdp;
  t.match(again, /o=- 7 2 IN IP4/);
  t.match(again, /m=video 0 RTP\/AVP 97\r\nm=audio 30000 RTP\/AVP 115 9 8 0 110 100\r\n/);
  t.match(again, /a=sendonly\r\n/);
  const reordered = description(['m=audio 40000 RTP/AVP 0 116', 'a=rtpmap:116 opus/48000/2']);
  t.equal(answer(reordered).media.codec, 'PCMU');
  t.equal(answer(reordered, { previous: media }).media.codec, 'opus');
  const gone = description(['m=audio 40000 RTP/AVP 0']);
  t.equal(answer(gone, { previous: media }).media.codec, 'PCMU');
});

t.test('our offer means the same when only its text is left', async (t) => {
  const video = description(['m=video 50000 RTP/AVP 97', 'm=audio 40000 RTP/AVP 0']);
  const local = { address: '2001:db8::20', family: 6, port: 30_000 } as const;
  const offers = [
    makeOffer({ ...BASE, codecs: ALL }),
    makeOffer({ ...BASE, codecs: ['PCMA'], direction: 'inactive', rtcpMux: true }),
    makeOffer({ ...BASE, codecs: ['opus'], previousSdp: video, direction: 'recvonly' }),
    makeOffer({ ...BASE, codecs: ['G722'], local }),
  ];
  const lines = [
    'm=audio 40000 RTP/AVP 8 9 107 98 99',
    'a=rtpmap:107 opus/48000/2',
    'a=rtpmap:98 telephone-event/8000',
    'a=rtpmap:99 telephone-event/48000',
    'a=rtcp-mux',
  ];
  for (const offer of offers) {
    const address = `c=IN IP${offer.family} ${offer.family === 4 ? '192.0.2.9' : '2001:db8::9'}`;
    const media = [...Array<string>(offer.index).fill('m=video 0 RTP/AVP 97'), ...lines, address];
    const common = { answer: parseSdp(description(media)), policy: DEFAULT_MEDIA_POLICY };
    const accepted = acceptAnswer({ ...common, offer });
    t.ok(accepted.dtmf);
    t.same(acceptAnswer({ ...common, offer: offer.sdp }), accepted);
  }
});

t.test('an offer is judged before there is a port, and answered with it', async (t) => {
  const offer = parseSdp(description(['m=video 50000 RTP/AVP 97', 'm=audio 40000 RTP/AVP 8 0']));
  const judged = judgeOffer({ offer, codecs: ALL, family: 4, policy: DEFAULT_MEDIA_POLICY });
  t.equal(judged.media.codec, 'PCMA');
  t.equal(writeAnswer(judged, BASE), answer(offer.text, { codecs: ALL }).sdp);
  t.match(writeAnswer(judged, BASE), /m=video 0 RTP\/AVP 97\r\nm=audio 30000 RTP\/AVP 8\r\n/);
});

t.test('an answer repeats the offer time and reads back as it was meant', async (t) => {
  const text = description(['m=audio 40000 RTP/AVP 0']).replace('t=0 0', 't=3149328700 0');
  const { sdp } = answer(text);
  const back = parseSdp(sdp);
  t.match(sdp, /t=3149328700 0\r\n/);
  t.same(back.origin, { sessionId: '7', version: '1', host: '192.0.2.20' });
  t.same(back.media[0]?.connection, { family: 4, host: '192.0.2.20' });
});
