/**
 * What an element may look like: typed attributes with their defaults, allowed children, text.
 *
 * A row describes one element; `Reader` turns the XML of that element into the row's own type. What
 * does not fit is a warning, never a failure (existing apps rely on it): an unknown attribute is
 * ignored, a bad value gives way to the default or the nearest allowed value, a child that is not
 * allowed there is left out. Not the vocabulary: the rows stand beside the verbs they describe.
 */
import type { XmlElement } from './xml.ts';

/** A complaint the app's author should see; `number` is the one TwiML apps know. */
export interface Warning {
  readonly number: number;
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

type AttributeValue = string | number | boolean | null | readonly string[];

export interface Attribute<V extends AttributeValue> {
  readonly absent: V;
  /** Said in the warning: what would have been right. */
  readonly expects: string;
  /** Number of the warning; 12200 where the dictionary has none of its own. */
  readonly number: number;
  /** Known, but nothing here acts on it: said so where it is given. */
  readonly isWithoutEffect?: true;
  /** May hold what a caller keyed in, or a PIN: not repeated in warnings. */
  readonly isPrivate?: true;
  /** `isValid` false: `value` is used all the same, with a warning. */
  read(text: string): { readonly value: V; readonly isValid: boolean };
}

export type AttributeTable = Readonly<Record<string, Attribute<AttributeValue>>>;

export type Values<T extends AttributeTable> = {
  readonly [K in keyof T]: T[K] extends Attribute<infer V> ? V : never;
};

export interface ElementRow<T extends AttributeTable, A> {
  readonly name: string;
  readonly attributes: T;
  /** Names of the elements that may stand inside it. */
  readonly children: readonly string[];
  /** Number of the warning when another element stands inside it. */
  readonly nestingNumber?: number;
  /** Whether its own text means something. */
  readonly hasText: boolean;
  read(values: Values<T>, content: Content): A;
}

export interface Content {
  readonly element: XmlElement;
  /** Its own text, outer blanks removed; '' when the row has none. */
  readonly text: string;
  /** The children that are allowed, in order. */
  readonly children: readonly XmlElement[];
  readonly reader: Reader;
}

export const SCHEMA_WARNING = 12200;

/** A document with thousands of mistakes is told about this many. */
const WARNINGS_MAX = 100;

export class Reader {
  readonly warnings: Warning[] = [];

  read<T extends AttributeTable, A>(row: ElementRow<T, A>, element: XmlElement): A {
    const values = this.#attributes(row, element);
    const children: XmlElement[] = [];
    let text = '';
    for (const child of element.children) {
      if (typeof child === 'string') text += child;
      else if (row.children.includes(child.name)) children.push(child);
      else {
        const problem = `<${child.name}> is not allowed inside <${row.name}>; it is left out`;
        this.warn(child, row.nestingNumber ?? SCHEMA_WARNING, problem);
      }
    }
    text = text.trim();
    if (!row.hasText && text !== '') {
      this.warn(element, SCHEMA_WARNING, `<${row.name}> takes no text`);
      text = '';
    }
    return row.read(values, { element, text, children, reader: this });
  }

  warn(at: XmlElement, number: number, text: string): void {
    if (this.warnings.length >= WARNINGS_MAX) return;
    this.warnings.push({ number, text, line: at.line, column: at.column });
  }

  #attributes<T extends AttributeTable>(
    row: { readonly name: string; readonly attributes: T },
    element: XmlElement,
  ): Values<T> {
    for (const name of element.attributes.keys()) {
      // namespace declarations and foreign attributes come from XML tools, not from authors
      if (Object.hasOwn(row.attributes, name) || name === 'xmlns' || name.includes(':')) continue;
      this.warn(element, SCHEMA_WARNING, `<${row.name}> has no attribute "${name}"`);
    }
    const values: Record<string, AttributeValue> = {};
    for (const [name, attribute] of Object.entries(row.attributes)) {
      const text = element.attributes.get(name);
      if (text === undefined) {
        values[name] = attribute.absent;
        continue;
      }
      const { value, isValid } = attribute.read(text);
      values[name] = value;
      if (attribute.isWithoutEffect) {
        this.warn(element, attribute.number, `<${row.name} ${name}> has no effect here`);
      }
      if (isValid) continue;
      const used = value === null ? 'nothing' : `"${String(value)}"`;
      const given = attribute.isPrivate ? '…' : text.slice(0, 100);
      const problem = `<${row.name} ${name}="${given}">: expected ${attribute.expects}`;
      this.warn(element, attribute.number, `${problem}; ${used} is used`);
    }
    return values as Values<T>;
  }
}

interface AttributeOptions<V> {
  readonly absent: V;
  readonly number?: number;
}

/** Any text. */
export function text<V extends string | null>(options: AttributeOptions<V>): Attribute<V | string> {
  return {
    absent: options.absent,
    number: options.number ?? SCHEMA_WARNING,
    expects: 'text',
    read: (value) => ({ value, isValid: true }),
  };
}

/** What apps may write and this gateway does not do. */
export function withoutEffect(): Attribute<string | null> {
  return { ...text<string | null>({ absent: null }), isWithoutEffect: true };
}

/** A URL, maybe relative: whether it can be used is known when it is resolved. */
export function url(): Attribute<string | null> {
  return text<string | null>({ absent: null });
}

export function method(
  absent: 'GET' | 'POST' = 'POST',
  number?: number,
): Attribute<'GET' | 'POST'> {
  return {
    absent,
    number: number ?? SCHEMA_WARNING,
    expects: 'GET or POST',
    read(value) {
      const upper = value.trim().toUpperCase();
      if (upper === 'GET' || upper === 'POST') return { value: upper, isValid: true };
      return { value: absent, isValid: false };
    },
  };
}

export function flag(options: AttributeOptions<boolean>): Attribute<boolean> {
  return {
    absent: options.absent,
    number: options.number ?? SCHEMA_WARNING,
    expects: 'true or false',
    read(value) {
      const lower = value.trim().toLowerCase();
      if (lower === 'true' || lower === 'false') return { value: lower === 'true', isValid: true };
      return { value: options.absent, isValid: false };
    },
  };
}

/** A whole number; one out of range becomes the nearest that is allowed. */
export function whole<V extends number | null>(
  options: AttributeOptions<V> & { readonly min: number; readonly max: number },
): Attribute<V | number> {
  const { absent, min, max } = options;
  return {
    absent,
    number: options.number ?? SCHEMA_WARNING,
    expects: `a whole number from ${min} to ${max}`,
    read(value) {
      const digits = value.trim();
      if (!/^-?[0-9]{1,9}$/.test(digits)) return { value: absent, isValid: false };
      const parsed = Number(digits);
      const nearest = Math.min(max, Math.max(min, parsed));
      return { value: nearest, isValid: nearest === parsed };
    },
  };
}

/** One word of a closed set; `aliases` are other spellings of them. */
export function oneOf<W extends string>(
  words: readonly W[],
  options: AttributeOptions<W> & { readonly aliases?: Readonly<Record<string, W>> },
): Attribute<W> {
  return {
    absent: options.absent,
    number: options.number ?? SCHEMA_WARNING,
    expects: `one of ${words.join(', ')}`,
    read(value) {
      const trimmed = value.trim();
      const word = words.find((w) => w === trimmed) ?? options.aliases?.[trimmed];
      return { value: word ?? options.absent, isValid: word !== undefined };
    },
  };
}

/** Several words of a closed set, separated by blanks; words that are not in it are left out. */
export function someOf<W extends string>(
  words: readonly W[],
  options: AttributeOptions<readonly W[]>,
): Attribute<readonly W[]> {
  return {
    absent: options.absent,
    number: options.number ?? SCHEMA_WARNING,
    expects: `some of ${words.join(', ')}`,
    read(value) {
      const given = value.split(/\s+/).filter((word) => word !== '');
      const known = words.filter((word) => given.includes(word));
      const isValid = given.length > 0 && given.every((word) => known.some((k) => k === word));
      return { value: known.length > 0 ? known : options.absent, isValid };
    },
  };
}

/** Text of the shape `pattern`, for instance a set of keys. */
export function matching<V extends string | null>(
  pattern: RegExp,
  expects: string,
  options: AttributeOptions<V> & { readonly isPrivate?: true },
): Attribute<V | string> {
  return {
    absent: options.absent,
    number: options.number ?? SCHEMA_WARNING,
    expects,
    ...(options.isPrivate ? { isPrivate: true } : {}),
    read(value) {
      return pattern.test(value)
        ? { value, isValid: true }
        : { value: options.absent, isValid: false };
    },
  };
}
