/**
 * Writing rows: each is inserted, or replaces the one of its key. The text of the statement, and
 * the way that any database takes it; a database that has a quicker one brings it along.
 */
import { CompiledQuery, type Kysely } from 'kysely';
import type { SqlSchema, SqlValue, TableShape } from './schema.ts';

/** One row to be written, free of its type; its values are made when the batch is written. */
export interface RowWrite {
  readonly table: TableShape;
  /** In the order of the table's columns. */
  values(): SqlValue[];
}

/** Rows of one statement: at 30 columns far below what SQLite (32,766) and PostgreSQL bind. */
const STATEMENT_ROWS_MAX = 32;

/** For values in the order of the columns, row after row. */
export function upsertText(db: Kysely<SqlSchema>, table: TableShape, rows: number): string {
  const blank = Object.fromEntries(table.columns.map((name) => [name, null]));
  const changing = table.columns.filter((name) => !table.key.includes(name));
  const { sql } = db
    .insertInto(table.name)
    .values(Array.from({ length: rows }, () => blank))
    .onConflict((conflict) =>
      conflict.columns([...table.key]).doUpdateSet((excluded) => {
        const set: Record<string, ReturnType<typeof excluded.ref>> = {};
        for (const name of changing) set[name] = excluded.ref(`excluded.${name}`);
        return set;
      }),
    )
    .compile();
  return sql;
}

/**
 * Through Kysely: rows in order, runs of one table in one statement each. Building a statement
 * costs ten times what running it does, so its text is built once for each table and length.
 */
export class Upserts {
  readonly #db: Kysely<SqlSchema>;
  readonly #texts = new Map<string, string>();

  constructor(db: Kysely<SqlSchema>) {
    this.#db = db;
  }

  write(rows: readonly RowWrite[]): Promise<void> {
    return this.#db.transaction().execute(async (transaction) => {
      let start = 0;
      while (start < rows.length) {
        const { table } = rows[start] as RowWrite;
        const values: SqlValue[] = [];
        const first = start;
        while (start - first < STATEMENT_ROWS_MAX && rows[start]?.table === table) {
          values.push(...(rows[start] as RowWrite).values());
          start += 1;
        }
        const text = this.#text(table, start - first);
        await transaction.executeQuery(CompiledQuery.raw(text, values));
      }
    });
  }

  #text(table: TableShape, rows: number): string {
    const name = `${table.name}/${rows}`;
    let text = this.#texts.get(name);
    if (text === undefined) {
      text = upsertText(this.#db, table, rows);
      this.#texts.set(name, text);
    }
    return text;
  }
}
