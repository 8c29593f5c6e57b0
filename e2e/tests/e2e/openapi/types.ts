// What a caller does with the types that openapi-typescript generates of the documents of both services. The compiler
// checks this file; it is never run.
import type * as publisher from "./publisher";
import type * as subscriber from "./subscriber";

/** The body of an answer with this status. */
type Answer<Operation, Status extends number> = Operation extends {
  responses: Record<Status, { content: { "application/json": infer Body } }>;
}
  ? Body
  : never;

/** The body of a request. */
type Body<Operation> = Operation extends { requestBody: { content: infer Content } } ? Content[keyof Content] : never;

type Published = Answer<publisher.operations["getDocument"], 200>;
type Held = Answer<subscriber.operations["getDocument"], 200>;

/** Members of a document have types, and its value is an object whose members may be anything. */
export function limit(document: Published | Held): number {
  const { id, revision, crc }: { id: string; revision: number; crc: string } = document;
  const { maxTokens } = document.configData;
  if (typeof maxTokens !== "number") throw new Error(`${id} at ${revision} (${crc}) has no number`);
  return maxTokens;
}

/** A service gives the same document as its publisher. */
export const held = (document: Published): Held => document;

/** Lists have typed items. */
export const ids = (list: Answer<subscriber.operations["listDocuments"], 200>): string[] =>
  list.items.map(({ id }) => id);

/** Values of any shape can be written. */
export const created: Body<publisher.operations["createDocument"]> = { id: "whatsapp-es", maxTokens: 512, tags: ["a"] };
export const put: Body<publisher.operations["putDocument"]> = { maxTokens: 512, nested: { on: true } };
export const patched: Body<publisher.operations["patchDocument"]> = { maxTokens: null };
export const set: Body<publisher.operations["commitChangeSet"]> = {
  changes: [{ collection: "ChannelConfiguration", op: "Create", id: "whatsapp-es", configData: { maxTokens: 512 } }],
};

/** An answer to a write names its revision. */
export const revision = (written: Answer<publisher.operations["putDocument"], 200>): number => written.revision;

// @ts-expect-error: an id is a text.
export const refused = (document: Published): number => document.id;
