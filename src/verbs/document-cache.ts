/**
 * Documents already read, by their text: most calls of an application are given the same one, and
 * reading it costs more than anything else a short call does. A document is never changed by who
 * runs it, what a run keeps is in its flow; so all calls share it. Bounded; one that cannot be read
 * is not kept.
 */
import { LRUCache } from 'lru-cache';
import { type Document, parseDocument, type VerbReaders } from './document.ts';
import type { XmlLimits } from './xml.ts';

export interface DocumentCacheOptions {
  readonly documentsMax: number;
  /** Length of all their texts together. */
  readonly charsMax: number;
}

export const DEFAULT_DOCUMENT_CACHE: DocumentCacheOptions = {
  documentsMax: 1_000,
  charsMax: 1_048_576,
};

export class DocumentCache<V> {
  readonly #readers: VerbReaders<V>;
  readonly #limits: XmlLimits;
  readonly #documents: LRUCache<string, Document<V>>;

  constructor(parts: {
    readers: VerbReaders<V>;
    limits: XmlLimits;
    options: DocumentCacheOptions;
  }) {
    const { documentsMax: max, charsMax } = parts.options;
    this.#readers = parts.readers;
    this.#limits = parts.limits;
    this.#documents = new LRUCache({
      max,
      maxSize: charsMax,
      // One document must not push out all others.
      maxEntrySize: Math.ceil(charsMax / 16),
      sizeCalculation: (_, text) => Math.max(1, text.length),
    });
  }

  /** As `parseDocument`; `url` is for messages only. */
  read(text: string, url: string): Document<V> {
    const known = this.#documents.get(text);
    if (known !== undefined) return known;
    const document = parseDocument({ text, url, readers: this.#readers, limits: this.#limits });
    this.#documents.set(text, document);
    return document;
  }
}
