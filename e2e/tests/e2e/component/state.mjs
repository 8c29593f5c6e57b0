// The state API of a sidecar from Node.js, without a library: a version is changed once.
//
//   node state.mjs http://127.0.0.1:3500/v1.0/state/free

const [, , store] = process.argv;
const headers = { "content-type": "application/json" };

async function save(item, expected) {
  const answer = await fetch(store, { method: "POST", headers, body: JSON.stringify([{ key: "node", ...item }]) });
  if (answer.status !== expected) throw new Error(`${answer.status}, expected ${expected}: ${await answer.text()}`);
}

await save({ value: { n: 1 } }, 204);
const answer = await fetch(`${store}/node`);
const etag = answer.headers.get("etag");
const { n } = await answer.json();
await save({ value: { n: n + 1 }, etag, options: { concurrency: "first-write" } }, 204);
await save({ value: { n: 9 }, etag, options: { concurrency: "first-write" } }, 409);
console.log((await (await fetch(`${store}/node`)).json()).n);
