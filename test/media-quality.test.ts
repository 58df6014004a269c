/** What the figures of ended calls become: histograms of all, and a line of each call's trace. */
import t from 'tap';
import { type CallRecord, newCallRecord } from '../src/call/call-record.ts';
import type { CallNotice } from '../src/call/router.ts';
import { DEFAULT_TRACE, TraceBook } from '../src/call/trace.ts';
import { realClock } from '../src/core/clock.ts';
import { Metrics } from '../src/core/metrics.ts';
import { type AccountSid, newSid } from '../src/core/sid.ts';
import type { PortStats } from '../src/media/binding.ts';
import { MediaQuality } from '../src/node/media-quality.ts';

const STATS: PortStats = {
  packetsReceived: 950,
  bytesReceived: 152_000,
  packetsSent: 1_000,
  bytesSent: 160_000,
  packetsLost: 50,
  jitterMs: 3.25,
  roundTripMs: 42,
  remoteLossFraction: 0.015,
  lateDiscards: 0,
  concealedMs: 0,
  jitterBufferMs: 40,
  badPackets: 0,
  wrongSource: 0,
  mode: 'local',
  lastPacketAgoMs: 5,
  ssrcIn: 1,
  ssrcOut: 2,
  peerAddress: '127.0.0.1:9000',
};

function ended(stats: PortStats | null): CallNotice & { call: CallRecord } {
  const call = newCallRecord({
    sid: newSid('CA', realClock),
    accountSid: `AC${'a'.repeat(32)}` as AccountSid,
    direction: 'inbound',
    from: '+15550001',
    to: '+15550002',
    status: 'completed',
    createdAtMs: 0,
    end: {
      status: 'completed',
      code: 'CALL_COMPLETED',
      fault: 'caller',
      by: 'remote',
      sipStatus: 200,
      reason: '',
      sipHeaders: {},
      durationMs: 20_000,
      stats,
    },
  });
  return { type: 'call.completed', atMs: 0, call };
}

function world() {
  const metrics = new Metrics();
  const trace = new TraceBook({ clock: realClock, ...DEFAULT_TRACE });
  const quality = new MediaQuality({ metrics, trace });
  return {
    metrics,
    take(notice: CallNotice) {
      trace.open(notice.call.sid);
      trace.end(notice.call.sid);
      quality.take(notice);
      return trace.entries(notice.call.sid);
    },
  };
}

t.test('loss, jitter and round trip of an ended call are told in its trace', async (t) => {
  const { take } = world();

  t.match(take(ended(STATS)), [
    {
      kind: 'call',
      text: 'media',
      detail:
        'received 950, lost 50 (5.0 %), jitter 3.3 ms, sent 1000, peer lost 1.5 %, round trip 42.0 ms',
    },
  ]);
  t.match(
    take(ended({ ...STATS, packetsReceived: 0, packetsLost: 0, roundTripMs: -1 })),
    [{ detail: 'received 0, sent 1000, no report of the peer' }],
    'audio that went one way only is seen',
  );
});

t.test('histograms are of all calls, and know what was not measured', async (t) => {
  const { take, metrics } = world();

  take(ended(STATS));
  take(ended({ ...STATS, packetsLost: 0, roundTripMs: -1 }));
  take(ended({ ...STATS, packetsReceived: 0, packetsLost: 0, roundTripMs: -1 }));

  const text = await metrics.text();
  const value = (series: string): number => {
    const line = text.split('\n').find((one) => one.startsWith(`${series} `));
    return Number(line?.slice(series.length + 1));
  };
  t.equal(value('tandem_media_loss_ratio_count{way="in",direction="inbound"}'), 2);
  t.equal(value('tandem_media_loss_ratio_bucket{le="0",way="in",direction="inbound"}'), 1);
  t.equal(value('tandem_media_loss_ratio_bucket{le="0.05",way="in",direction="inbound"}'), 2);
  t.equal(value('tandem_media_loss_ratio_count{way="out",direction="inbound"}'), 1);
  t.equal(value('tandem_media_jitter_seconds_sum{direction="inbound"}'), 0.0065);
  t.equal(value('tandem_media_round_trip_seconds_sum{direction="inbound"}'), 0.042);
  t.notMatch(text, /CA[0-9a-f]{32}/, 'and no call is named');
});

t.test('calls without audio leave no mark', async (t) => {
  const { take, metrics } = world();

  t.strictSame(take(ended(null)), []);
  t.strictSame(take(ended({ ...STATS, packetsReceived: 0, packetsSent: 0 })), []);
  t.strictSame(take({ ...ended(STATS), type: 'call.status' }), []);

  t.notMatch(await metrics.text(), /tandem_media_\w+_count/);
});
