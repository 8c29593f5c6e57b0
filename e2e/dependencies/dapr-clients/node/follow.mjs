// Follows one key with the SDK of Dapr for JavaScript: follow.mjs STORE KEY. The ports are those of the environment. It
// prints a line for each step, and ends after the deletion of the key.
import { createRequire } from 'node:module';

const { CommunicationProtocolEnum, DaprClient } = createRequire(`${process.cwd()}/`)('@dapr/dapr');
const [store, key] = process.argv.slice(2);
const client = new DaprClient({
  daprPort: process.env.DAPR_GRPC_PORT,
  communicationProtocol: CommunicationProtocolEnum.GRPC,
});

await client.state.save('statestore', [{ key: 'greeting-node', value: 'hello' }]);
console.log(`state ${await client.state.get('statestore', 'greeting-node')}`);
const { items } = await client.configuration.get(store, [key]);
console.log(`have ${items[key].version} ${items[key].value}`);

const deleted = Promise.withResolvers?.() ?? deferred();
const stream = await client.configuration.subscribeWithKeys(store, [key], async (update) => {
  const { value, version, metadata } = update.items[key];
  if (metadata.deleted) {
    console.log(`gone ${version}`);
    deleted.resolve();
  } else {
    console.log(`item ${version} ${value}`);
  }
});
await deleted.promise;
await stream.stop();
console.log('unsubscribed');
await client.stop();

function deferred() {
  let resolve;
  const promise = new Promise((done) => { resolve = done; });
  return { promise, resolve };
}
