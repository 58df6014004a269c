/**
 * Which espeak-ng voice speaks for the voice and language an application names. Applications are
 * written for `man`, `woman`, `alice`, `Polly.*` and `Google.*`; of these, espeak-ng can honour
 * language and gender. Tables only; speaking is `speech.ts`.
 */

export interface Voice {
  /** Language of espeak-ng. */
  readonly language: string;
  readonly isMale: boolean;
}

const FALLBACK_LANGUAGE = 'en-us';

/** Where the language tag alone does not name espeak-ng's voice. Lower case. */
const LANGUAGES: Readonly<Record<string, string>> = {
  'en-us': 'en-us',
  'en-ca': 'en-us',
  'fil-ph': 'en-us',
  en: 'en-gb',
  'es-es': 'es',
  es: 'es-419',
  'gl-es': 'es',
  fr: 'fr-fr',
  'fr-be': 'fr-be',
  'fr-ch': 'fr-ch',
  'pt-br': 'pt-br',
  pt: 'pt',
  arb: 'ar',
  zh: 'cmn',
  cmn: 'cmn',
  'zh-hk': 'yue',
  yue: 'yue',
  no: 'nb',
  iw: 'he',
};

/** Languages whose espeak-ng voice bears their own two- or three-letter name. */
const DIRECT = new Set(
  (
    'af am ar az be bg bn bs ca cs cy da de el et eu fa fi ga gd gu he hi hr hu hy id is it ja ka ' +
    'kk kn ko ku ky la lb lt lv mi mk ml mr ms mt my nb ne nl or pa pl ro ru sd si sk sl sq sr sv ' +
    'sw ta te th tk tr tt uk ur uz vi'
  ).split(' '),
);

/** Polly voices by language; men are marked with a star. */
const POLLY_VOICES: Readonly<Record<string, string>> = {
  'ar-AE': 'Hala Zayd*',
  arb: 'Zeina',
  'ca-ES': 'Arlet',
  'cmn-CN': 'Zhiyu',
  'cy-GB': 'Gwyneth',
  'da-DK': 'Mads* Naja Sofie',
  'de-AT': 'Hannah',
  'de-DE': 'Daniel* Hans* Marlene Vicki',
  'en-AU': 'Nicole Olivia Russell*',
  'en-GB': 'Amy Arthur* Brian* Emma',
  'en-GB-WLS': 'Geraint*',
  'en-IE': 'Niamh',
  'en-IN': 'Aditi Kajal Raveena',
  'en-NZ': 'Aria',
  'en-US':
    'Danielle Gregory* Ivy Joanna Joey* Justin* Kendra Kevin* Kimberly Matthew* Ruth Salli Stephen*',
  'en-ZA': 'Ayanda',
  'es-ES': 'Conchita Enrique* Lucia Sergio* Raul*',
  'es-MX': 'Andres* Mia Mía',
  'es-US': 'Lupe Miguel* Pedro* Penelope',
  'fi-FI': 'Suvi',
  'fr-BE': 'Isabelle',
  'fr-CA': 'Chantal Gabrielle Liam*',
  'fr-FR': 'Celine Lea Mathieu* Remi* Rémi*',
  'is-IS': 'Dora Karl*',
  'it-IT': 'Adriano* Bianca Carla Giorgio*',
  'ja-JP': 'Kazuha Mizuki Takumi* Tomoko',
  'ko-KR': 'Seoyeon',
  'nb-NO': 'Ida Liv',
  'nl-BE': 'Lisa',
  'nl-NL': 'Laura Lotte Ruben*',
  'pl-PL': 'Ewa Jacek* Jan* Maja Ola',
  'pt-BR': 'Camila Ricardo* Thiago* Vitoria',
  'pt-PT': 'Cristiano* Ines',
  'ro-RO': 'Carmen',
  'ru-RU': 'Maxim* Tatyana',
  'sv-SE': 'Astrid Elin',
  'tr-TR': 'Burcu Filiz',
  'yue-HK': 'Hiujin',
};

const POLLY = new Map<string, { readonly tag: string; readonly isMale: boolean }>();
for (const [tag, names] of Object.entries(POLLY_VOICES)) {
  for (const name of names.split(' ')) {
    POLLY.set(name.replace('*', '').toLowerCase(), { tag, isMale: name.endsWith('*') });
  }
}

/** Google's Chirp voices have names, the older ones a letter; B, D, I and J are men. */
const GOOGLE_MEN = new Set(['b', 'd', 'i', 'j', 'charon', 'fenrir', 'orus', 'puck']);

/** `tag` (BCP 47) as espeak-ng knows it; what it cannot speak is read as American English. */
export function espeakLanguage(tag: string): string {
  const lower = tag.toLowerCase();
  const primary = lower.split('-')[0] ?? '';
  const region = lower.split('-').slice(0, 2).join('-');
  const known = LANGUAGES[lower] ?? LANGUAGES[region] ?? LANGUAGES[primary];
  return known ?? (DIRECT.has(primary) ? primary : FALLBACK_LANGUAGE);
}

/** A voice that has a language of its own keeps it; else `language` counts. */
export function resolveVoice(voice: string, language: string): Voice {
  const [family = '', name = ''] = splitOnce(voice, '.');
  if (family.toLowerCase() === 'polly') {
    const row = POLLY.get((name.split('-')[0] ?? '').toLowerCase());
    if (row !== undefined) return { language: espeakLanguage(row.tag), isMale: row.isMale };
  }
  if (family.toLowerCase() === 'google') {
    const parts = name.split('-');
    const last = (parts.at(-1) ?? '').toLowerCase();
    const tag = parts.slice(0, 2).join('-');
    // The first American voice of Google's older sets is a man.
    const isMale = GOOGLE_MEN.has(last) || (last === 'a' && tag === 'en-US');
    return { language: espeakLanguage(tag), isMale };
  }
  return { language: espeakLanguage(language), isMale: voice === 'man' };
}

function splitOnce(text: string, at: string): [string, string] {
  const index = text.indexOf(at);
  return index < 0 ? [text, ''] : [text.slice(0, index), text.slice(index + 1)];
}
