/**
 * Text to a tree of elements, with the line and column of each: the only reader of XML bytes.
 *
 * Strict XML 1.0 (saxes), with less than XML allows: a DOCTYPE is refused outright, so there are no
 * entities to expand beyond the five predefined ones and character references, and size, depth,
 * nodes and attributes are capped before a tree of that size exists. Knows no verbs: what elements
 * mean is `document.ts`.
 */
import { SaxesParser } from 'saxes';
import { GatewayError } from '../core/errors.ts';
import { shown } from '../http/url.ts';

export interface XmlLimits {
  /** Size of the text in UTF-8; more is refused before a byte is parsed. */
  readonly documentBytesMax: number;
  readonly depthMax: number;
  /** Elements, texts, comments and processing instructions of one document. */
  readonly nodesMax: number;
  /** Attributes of one element. */
  readonly attributesMax: number;
}

export const DEFAULT_XML_LIMITS: XmlLimits = {
  documentBytesMax: 65_536, // what existing apps are told: 64 kB
  depthMax: 32,
  nodesMax: 10_000,
  attributesMax: 64, // the largest element of the vocabulary has 20
};

export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlNode[];
  /** Where its name ends, from 1. */
  readonly line: number;
  readonly column: number;
}

/** Text stands as it is, character references replaced, CDATA included. */
export type XmlNode = XmlElement | string;

interface OpenElement {
  readonly element: XmlElement;
  readonly children: XmlNode[];
}

/** Throws DOC_PARSE (with line and column), APP_BODY_TOO_LARGE or APP_BODY_EMPTY. */
export function parseXml(text: string, url: string, limits: XmlLimits): XmlElement {
  // length <= bytes, so the cheap test comes first and nothing huge is measured
  const limit = limits.documentBytesMax;
  if (text.length > limit || Buffer.byteLength(text) > limit) {
    throw new GatewayError('APP_BODY_TOO_LARGE', { url: shown(url), limit });
  }
  if (text.trim() === '') throw new GatewayError('APP_BODY_EMPTY', { url: shown(url) });
  // saxes pairs up any two halves; XML's characters have none (§2.2)
  if (!text.isWellFormed()) throw new GatewayError('DOC_PARSE', { problem: 'not Unicode text' });
  return new TreeBuilder(limits).parse(text);
}

class TreeBuilder {
  readonly #limits: XmlLimits;
  readonly #parser = new SaxesParser({ xmlns: false, position: true });
  readonly #open: OpenElement[] = [];
  #root: XmlElement | null = null;
  #nodes = 0;
  #attributes = 0;
  #line = 1;
  #column = 1;

  constructor(limits: XmlLimits) {
    this.#limits = limits;
    const parser = this.#parser;
    // saxes goes on after an error unless its handler throws; what it throws names line:column
    parser.on('error', (error) => {
      throw new GatewayError('DOC_PARSE', { problem: error.message });
    });
    parser.on('doctype', () => this.#refuse('a DOCTYPE is not allowed'));
    parser.on('processinginstruction', () => this.#count());
    parser.on('comment', () => this.#count());
    parser.on('text', (value) => this.#text(value));
    parser.on('cdata', (value) => this.#text(value));
    parser.on('opentagstart', () => {
      this.#attributes = 0;
      this.#line = parser.line;
      this.#column = parser.column;
    });
    parser.on('attribute', () => {
      this.#attributes += 1;
      if (this.#attributes > limits.attributesMax) {
        this.#refuse(`more than ${limits.attributesMax} attributes`);
      }
    });
    parser.on('opentag', (tag) => this.#start(tag.name, tag.attributes));
    parser.on('closetag', () => this.#end());
  }

  parse(text: string): XmlElement {
    this.#parser.write(text).close();
    if (this.#root === null) this.#refuse('no root element');
    return this.#root;
  }

  #start(name: string, attributes: Record<string, string>): void {
    this.#count();
    if (this.#open.length >= this.#limits.depthMax) {
      this.#refuse(`more than ${this.#limits.depthMax} levels`);
    }
    const children: XmlNode[] = [];
    const element: XmlElement = {
      name,
      attributes: new Map(Object.entries(attributes)),
      children,
      line: this.#line,
      column: this.#column,
    };
    this.#open.at(-1)?.children.push(element);
    this.#open.push({ element, children });
  }

  #end(): void {
    const closed = this.#open.pop();
    if (closed !== undefined && this.#open.length === 0) this.#root = closed.element;
  }

  #text(value: string): void {
    this.#count();
    this.#open.at(-1)?.children.push(value);
  }

  #count(): void {
    this.#nodes += 1;
    if (this.#nodes > this.#limits.nodesMax)
      this.#refuse(`more than ${this.#limits.nodesMax} nodes`);
  }

  #refuse(problem: string): never {
    const { line, column } = this.#parser;
    throw new GatewayError('DOC_PARSE', { problem: `${line}:${column}: ${problem}` });
  }
}
