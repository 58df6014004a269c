/**
 * Hundreds of calls between two endpoints over a network that loses, doubles and reorders, with
 * everything at once: reliable responses, late offers, UPDATE before and after the answer,
 * re-INVITE, glare, session timers. Whatever happened, two sides that still talk must agree on what
 * each of them said last; and nothing may be left behind.
 */
import t from 'tap';
import type { ReliableMode } from '../src/sip/reliable.ts';
import type { Offer, Session } from '../src/sip/session.ts';
import { SDP } from './support/script-peer.ts';
import { SEED, seededRandom } from './support/sim.ts';
import { isEmpty, timerPolicy } from './support/sip-scene.ts';
import { SipWorld, Witness } from './support/sip-world.ts';

const MODES: readonly ReliableMode[] = ['off', 'support', 'require'];
const CALLS = 400;
/** After this nobody changes anything of his own accord. */
const BUSY_MS = 60_000;

let descriptions = 0;

/** One that was never used before. */
function describe(): string {
  descriptions += 1;
  return SDP.replace('o=- 1 1', `o=- ${descriptions} 1`);
}

/** One side of a call: what it said and heard last. */
class Side {
  readonly witness: Witness;
  own = '';
  theirs = '';
  /** Offers that were answered, by the peer or by us. */
  exchanges = 0;
  refusals = 0;
  readonly #world: SipWorld;
  readonly #random: () => number;

  constructor(options: { world: SipWorld; random: () => number; session: Session }) {
    this.#world = options.world;
    this.#random = options.random;
    const { session } = options;
    this.witness = new Witness(session);
    session.on('offer', (offer) => this.later(400, () => this.#answer(offer)));
    session.on('reoffered', ({ sdp, offer, isRefresh }) => {
      if (!isRefresh) this.exchanges += 1;
      this.own = offer;
      this.theirs = sdp;
    });
    session.on('reofferFailed', () => {
      this.refusals += 1;
    });
    session.on('acknowledged', ({ sdp }) => {
      if (sdp !== null) this.theirs = sdp;
    });
    session.on('earlyAnswer', ({ sdp }) => {
      this.theirs = sdp;
    });
    session.on('provisional', ({ sdp, isReliable }) => {
      if (sdp === null || !isReliable) return;
      this.theirs = sdp;
      if (this.#random() < 0.5) this.reofferLater(2000);
    });
    session.on('answered', ({ sdp }) => {
      if (sdp !== '') this.theirs = sdp;
    });
  }

  get session(): Session {
    return this.witness.session;
  }

  later(withinMs: number, fn: () => void): void {
    this.#world.clock.timer(this.#random() * withinMs, fn);
  }

  /** The called side, before its answer. */
  decide(): void {
    const { session } = this;
    this.theirs = session.offer;
    const late = session.offer === '';
    const mine = describe();
    this.later(1500, () => {
      if (session.state !== 'early') return;
      if (late && session.earlyOffer === 'no') session.progress(180);
      else {
        this.own = mine;
        session.progress(183, { sdp: mine });
        if (session.hasDescribed && this.#random() < 0.5) this.reofferLater(3000);
      }
      this.later(6000, () => {
        if (session.state !== 'early') return;
        if (!session.hasDescribed) this.own = mine;
        session.accept(session.hasDescribed ? '' : mine);
      });
    });
  }

  reofferLater(withinMs: number): void {
    this.later(withinMs, () => {
      const isUpdate = this.session.state === 'early' || this.#random() < 0.5;
      this.session.reoffer(describe(), { method: isUpdate ? 'UPDATE' : 'INVITE' });
    });
  }

  #answer(offer: Offer): void {
    if (offer.sdp !== '' && this.session.state === 'confirmed' && this.#random() < 0.2) {
      offer.refuse(488, 'not now');
      return;
    }
    if (this.session.state === 'terminated') return;
    this.own = describe();
    if (offer.sdp !== '') this.theirs = offer.sdp;
    this.exchanges += 1;
    offer.answer(this.own);
  }
}

t.test(`${CALLS} calls in bad weather agree, end once, and leave nothing`, async (t) => {
  const random = seededRandom(SEED);
  const weather = { loss: 0.15, duplication: 0.1, delayMinMs: 5, delayMaxMs: 250 };
  const world = new SipWorld({ weather });
  world.network.isRecording = false;
  const sessionTimer = timerPolicy({ mode: 'accept' });
  const near = await world.endpoint('10.0.0.1');
  const far = await world.endpoint('10.0.0.2', {
    session: { policy: { reliable: 'support', sessionTimer } },
  });
  const callers: Side[] = [];
  const called = new Map<string, Side>();
  far.on('invite', (session) => {
    const side = new Side({ world, random, session });
    called.set(session.callId, side);
    side.decide();
  });
  for (let i = 0; i < CALLS; i += 1) {
    world.clock.timer(random() * 20_000, () => {
      const sdp = random() < 0.25 ? '' : describe();
      const session = near.invite({
        uri: 'sip:them@10.0.0.2;transport=udp',
        from: { uri: 'sip:us@10.0.0.1' },
        sdp,
        reliable: MODES[Math.floor(random() * 3)] ?? 'off',
        sessionTimer: timerPolicy({
          mode: random() < 0.7 ? 'request' : 'off',
          expiresS: 90 + Math.floor(random() * 60),
          refresher: random() < 0.5 ? 'uac' : 'uas',
        }),
        ringTimeoutMs: 30_000,
      });
      const side = new Side({ world, random, session });
      side.own = sdp;
      callers.push(side);
      if (random() < 0.1) side.later(8000, () => session.hangup());
      session.on('answered', () => side.reofferLater(15_000));
      session.on('answered', () => called.get(session.callId)?.reofferLater(15_000));
    });
  }
  await world.clock.advance(BUSY_MS + 600_000);

  const seed = `seed ${SEED}`;
  const standing = callers.filter(({ session }) => session.state === 'confirmed');
  t.ok(standing.length > CALLS * 0.7, `${standing.length} calls stand, ${seed}`);
  const timed = standing.filter(({ session }) => session.record().timer !== undefined);
  t.ok(timed.length > CALLS * 0.3, `${timed.length} of them for ten minutes by refreshes, ${seed}`);
  for (const caller of standing) {
    const other = called.get(caller.session.callId);
    const isSame = other?.own === caller.theirs && other?.theirs === caller.own;
    if (!isSame) t.fail(`they disagree: ${caller.witness.events.join(', ')}, ${seed}`);
  }
  const sides = [...callers, ...called.values()];
  const exchanges = sides.reduce((sum, side) => sum + side.exchanges, 0);
  const refusals = sides.reduce((sum, side) => sum + side.refusals, 0);
  t.ok(exchanges > CALLS, `${exchanges} offers were answered, ${seed}`);
  t.ok(refusals > 10, `${refusals} were not, ${seed}`);

  for (const { session } of sides) session.hangup();
  await world.clock.advance(300_000);
  for (const { witness } of sides) {
    if (witness.ends !== 1) t.fail(`${witness.events.join(', ')}, ${seed}`);
  }
  isEmpty(t, near);
  isEmpty(t, far);
  await world.close();
});
