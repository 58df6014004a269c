/**
 * Parameters of a request, from form or query text to typed values: the only reader of what a REST
 * client sends. A schema says what each parameter is; text becomes that type, then the schema is
 * checked, so that resources never see text where they expect a number. Repeated keys are arrays;
 * of a repeated key that is not an array the last counts. Empty text leaves out anything but text,
 * where it means "cleared".
 */
import { type Static, type TObject, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { GatewayError } from '../core/errors.ts';

/**
 * A number, or a pattern of numbers, without the punctuation that people write into it. A plus that
 * is not escaped is a space once a form is read, and nobody begins a number with one: it is a plus.
 */
export function unpunctuated(value: string): string {
  return value.replace(/^ +(?=[\d*(])/, '+').replace(/[\s().-]/g, '');
}

/** Every key with every text it came with, in order. */
export type RawForm = Readonly<Record<string, readonly string[]>>;

/** Longest text of any parameter; the body's own limit bounds how many there are. */
const TEXT_MAX = 8_192;

export const text = Type.String({ maxLength: TEXT_MAX });
export const optionalText = Type.Optional(text);
export const httpMethod = Type.Union([Type.Literal('GET'), Type.Literal('POST')]);
export const optionalMethod = Type.Optional(httpMethod);
export const optionalBoolean = Type.Optional(Type.Boolean());
export const optionalTexts = Type.Optional(Type.Array(text));

/** Makes the error for one parameter; `value` is null when it is missing. */
export type ParameterError = (value: string | null) => GatewayError;

export interface Parsed<S extends TObject> {
  readonly values: Static<S>;
  /** Names that the schema does not have. */
  readonly ignored: readonly string[];
}

/** What a query or form parser gives: text or a list of texts by key. */
export function rawForm(source: unknown): RawForm {
  const form: Record<string, readonly string[]> = Object.create(null);
  if (source === null || typeof source !== 'object') return form;
  for (const [key, value] of Object.entries(source)) {
    form[key] = Array.isArray(value) ? value.map(String) : [String(value)];
  }
  return form;
}

/** The part of a JSON schema by which text finds its type. */
interface Shape {
  readonly type?: string;
  readonly items?: Shape;
  readonly anyOf?: readonly { readonly const?: string }[];
}

type Value = string | number | boolean;

export class Parameters<S extends TObject> {
  readonly #schema: S;
  readonly #check;
  readonly #errors: { readonly [key: string]: ParameterError | undefined };

  constructor(o: { schema: S; errors: { readonly [K in keyof Static<S>]?: ParameterError } }) {
    this.#schema = o.schema;
    this.#check = Compile(o.schema);
    this.#errors = o.errors as { readonly [key: string]: ParameterError | undefined };
  }

  parse(raw: RawForm, defaults: Readonly<Record<string, string>>): Parsed<S> {
    const values: Record<string, Value | Value[]> = {};
    for (const [key, shape] of Object.entries(this.#schema.properties)) {
      const texts = raw[key] ?? (defaults[key] === undefined ? undefined : [defaults[key]]);
      if (texts === undefined) continue;
      const value = interpret(shape as Shape, texts);
      if (value !== undefined) values[key] = value;
    }
    const candidate: unknown = values;
    if (!this.#check.Check(candidate)) throw this.#refusal(raw, candidate);
    const ignored = Object.keys(raw).filter((key) => !(key in this.#schema.properties));
    return { values: candidate, ignored };
  }

  /** The first failure, in the words of the parameter it is about. */
  #refusal(raw: RawForm, candidate: unknown): GatewayError {
    const [first] = this.#check.Errors(candidate);
    const { requiredProperties } = (first?.params ?? {}) as { requiredProperties?: string[] };
    const key = requiredProperties?.[0] ?? first?.instancePath.split('/')[1] ?? '';
    const value = raw[key]?.at(-1) ?? null;
    const own = this.#errors[key];
    if (own) return own(value);
    if (value === null) return badParameter(key, 'is required');
    const words = wordsOf(this.#schema.properties[key] as Shape | undefined);
    if (words.length > 0) return badParameter(key, `must be one of ${words.join(', ')}`);
    return badParameter(key, first?.message ?? 'is not valid');
  }
}

export function badParameter(key: string, problem: string): GatewayError {
  return new GatewayError('REST_BAD_PARAMETER', { problem: `${key} ${problem}` });
}

function interpret(shape: Shape, texts: readonly string[]): Value | Value[] | undefined {
  if (shape.type === 'array') return texts.map((one) => single(shape.items ?? {}, one) ?? one);
  return single(shape, texts.at(-1) ?? '');
}

/** What a parameter may say, when that is a closed set of words. */
function wordsOf(shape: Shape | undefined): readonly string[] {
  return shape?.anyOf?.flatMap((one) => one.const ?? []) ?? [];
}

/** Text that is not what its shape says stays text, and so fails the schema. */
function single(shape: Shape, value: string): Value | undefined {
  if (shape.type === 'string') return value;
  if (value === '') return undefined;
  if (shape.type === 'integer') return /^[+-]?\d{1,15}$/.test(value) ? Number(value) : value;
  const lower = value.toLowerCase();
  if (shape.type === 'boolean') {
    if (lower === 'true' || lower === 'false') return lower === 'true';
    return value;
  }
  const known = shape.anyOf?.find((one) => one.const?.toLowerCase() === lower);
  return known?.const ?? value;
}

/** An absolute HTTP URL as it was given, or null; '' is null too. */
export function httpUrl(value: string): string | null {
  const url = URL.parse(value);
  return url?.protocol === 'http:' || url?.protocol === 'https:' ? value : null;
}

/** As `httpUrl`, but null only for what was not given or is empty; what is no URL is refused. */
export function optionalUrl(value: string | undefined): string | null {
  if (value === undefined || value === '') return null;
  const url = httpUrl(value);
  if (url === null) throw new GatewayError('CALL_BAD_URL', { url: value.slice(0, 256) });
  return url;
}
