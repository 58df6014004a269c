/**
 * Ringing tones by country, as `ringTone` names them: frequencies and cadence after the national
 * tables of ITU-T E.180. A double ring is given as one ring of the same length, because the engine
 * plays one burst and one pause; frequencies stand for the modulated tones of some networks.
 */

export interface RingingTone {
  readonly hz: readonly number[];
  readonly onMs: number;
  readonly offMs: number;
}

function ring(hz: readonly number[], onMs: number, offMs: number): RingingTone {
  return { hz, onMs, offMs };
}

const EUROPE = ring([425], 1000, 4000);
const NORTH_AMERICA = ring([440, 480], 2000, 4000);
const DOUBLE = ring([400, 450], 1000, 2000);

export const RINGING_TONES = {
  at: ring([420], 1000, 5000),
  au: ring([413, 438], 1000, 2000),
  bg: EUROPE,
  br: EUROPE,
  be: ring([425], 1000, 3000),
  ch: EUROPE,
  cl: ring([400], 1000, 3000),
  cn: ring([450], 1000, 4000),
  cz: EUROPE,
  de: EUROPE,
  dk: EUROPE,
  ee: EUROPE,
  es: ring([425], 1500, 3000),
  fi: EUROPE,
  fr: ring([440], 1500, 3500),
  gr: EUROPE,
  hu: ring([425], 1250, 3750),
  il: ring([400], 1000, 3000),
  in: DOUBLE,
  it: EUROPE,
  lt: EUROPE,
  jp: ring([400], 1000, 2000),
  mx: EUROPE,
  my: ring([425], 1000, 2000),
  nl: EUROPE,
  no: EUROPE,
  nz: DOUBLE,
  ph: NORTH_AMERICA,
  pl: EUROPE,
  pt: ring([425], 1000, 5000),
  ru: ring([425], 800, 3200),
  se: ring([425], 1000, 5000),
  sg: ring([425], 1000, 2000),
  th: ring([400], 1000, 4000),
  uk: DOUBLE,
  us: NORTH_AMERICA,
  'us-old': NORTH_AMERICA,
  tw: ring([440, 480], 1000, 2000),
  ve: EUROPE,
  za: ring([400], 1000, 2000),
} as const satisfies Record<string, RingingTone>;

export type RingToneName = keyof typeof RINGING_TONES;
export const RING_TONE_NAMES = Object.keys(RINGING_TONES) as readonly RingToneName[];
