/**
 * A closed set of words as a schema: one of them, with the compiler knowing which.
 */
import { type TLiteral, type TUnion, Type } from 'typebox';

type Literals<Words extends readonly string[]> = {
  -readonly [K in keyof Words]: TLiteral<Words[K]>;
};

export function words<const Words extends readonly string[]>(
  ...all: Words
): TUnion<Literals<Words>> {
  const literals = all.map((word) => Type.Literal(word));
  return Type.Union(literals) as TUnion<Literals<Words>>;
}
