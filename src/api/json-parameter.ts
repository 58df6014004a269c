/**
 * Parameters whose text is JSON: read, checked against a schema, and refused in words that name
 * the field and what it may be. `Policy.dtmf must be one of rfc4733, info, inband` is an answer;
 * `must match a schema in anyOf` is not.
 */
import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import type { GatewayError } from '../core/errors.ts';
import { badParameter } from './parameters.ts';

/** Of what is wrong; a client may have named a field at any length. */
const NAME_MAX = 128;

/** The parts of a JSON schema that a refusal speaks of. */
interface Shape {
  readonly type?: string;
  readonly const?: string | number;
  readonly items?: Shape;
  readonly properties?: { readonly [name: string]: Shape };
  readonly anyOf?: readonly Shape[];
  readonly description?: string;
}

interface Failure {
  readonly instancePath: string;
  readonly message: string;
  readonly params: object;
}

export class JsonParameter<S extends TSchema> {
  readonly #name: string;
  readonly #shape: Shape;
  readonly #check;

  /** A schema's `description`, where there is one, is what is said of a value that is not so. */
  constructor(o: { name: string; schema: S }) {
    this.#name = o.name;
    this.#shape = o.schema as Shape;
    this.#check = Compile(o.schema);
  }

  parse(text: string): Static<S> {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw badParameter(this.#name, 'is not JSON');
    }
    if (this.#check.Check(value)) return value;
    throw this.#refusal(this.#check.Errors(value) as readonly Failure[]);
  }

  /** The failure that lies deepest says most: a choice of types fails together with its parts. */
  #refusal(failures: readonly Failure[]): GatewayError {
    const depth = (failure: Failure): number => failure.instancePath.split('/').length;
    const first = failures.reduce((best, one) => (depth(one) > depth(best) ? one : best));
    const steps = first.instancePath.split('/').slice(1);
    const place = steps.map((step) => (/^\d+$/.test(step) ? `[${step}]` : `.${step}`)).join('');
    const name = `${this.#name}${place}`.slice(0, NAME_MAX);
    const shape = steps.reduce<Shape | undefined>(inner, this.#shape);
    if (shape === undefined) {
      const above = steps.slice(0, -1).reduce<Shape | undefined>(inner, this.#shape);
      const known = Object.keys(above?.properties ?? {}).join(', ');
      return badParameter(name, `is unknown; there are ${known}`);
    }
    const missing = (first.params as { requiredProperties?: readonly string[] })
      .requiredProperties?.[0];
    if (missing !== undefined) return badParameter(`${name}.${missing}`, 'is required');
    return badParameter(name, problem(shape, first));
  }
}

function inner(shape: Shape | undefined, step: string): Shape | undefined {
  return /^\d+$/.test(step) ? shape?.items : shape?.properties?.[step];
}

function problem(shape: Shape, failure: Failure): string {
  const words = shape.anyOf?.flatMap((one) => one.const ?? []) ?? [];
  if (words.length > 0) return `must be one of ${words.join(', ')}`;
  if (shape.type === 'object') return 'must be a JSON object';
  return shape.description ?? failure.message;
}
