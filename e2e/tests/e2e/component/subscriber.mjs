// The subscriber of the source document in Node.js (requirement A20 to A27): Express and the CloudEvents SDK, one class
// for each collection, and the configuration API for what an event does not carry. It knows nothing of Confcast.
//
// The routes below "For the test" show what it received, and make it fail; a service would not have them.
//
//   PORT=… TOPICS=A,B PUBSUB=… API_URL=http://… node subscriber.mjs

import { HTTP } from "cloudevents";
import express from "express";

const { PORT, TOPICS, PUBSUB, API_URL } = process.env;
const received = [];
let fault = { kind: "none", times: 0 };

class BaseConfiguration {
  documents = new Map();

  constructor(collection) {
    this.path = `${API_URL}/v1/collections/${collection}/documents`;
  }

  async load() {
    const answer = await fetch(this.path);
    if (!answer.ok) throw new Error(`load: ${answer.status}`);
    const { items } = await answer.json();
    this.documents = new Map(items.map(({ id, configData }) => [id, configData]));
  }

  async loadById(id) {
    const answer = await fetch(`${this.path}/${id}`);
    if (!answer.ok) throw new Error(`loadById: ${answer.status}`);
    this.documents.set(id, (await answer.json()).configData);
  }

  addLocal(id, configData) {
    if (configData === undefined) return false;
    this.documents.set(id, configData);
    return true;
  }

  removeLocal(id) {
    return this.documents.delete(id);
  }

  async updateConfiguration({ op, id, configData }) {
    try {
      switch (op) {
        case "Create":
        case "Update":
          if (!this.addLocal(id, configData)) await this.loadById(id).catch(() => this.load());
          break;
        case "Delete":
          if (!this.removeLocal(id)) {
            console.warn(`${id} was not there`);
            await this.load();
          }
          break;
        default:
          console.warn(`unknown operation ${op}`);
      }
    } catch (error) {
      console.error(`${op} ${id}: ${error.stack}`);
    }
  }
}

const collections = Object.fromEntries(TOPICS.split(",").map((topic) => [topic, new BaseConfiguration(topic)]));
const app = express();
app.use(express.json({ type: ["application/json", "application/cloudevents+json"] }));

app.get("/dapr/subscribe", (_request, response) =>
  response.json(
    TOPICS.split(",").map((topic) => ({
      pubsubname: PUBSUB,
      topic,
      routes: { default: "/dapr/processConfigurationEvents" },
    })),
  ),
);

app.post("/dapr/processConfigurationEvents", async (request, response) => {
  if (await failed(response)) return;
  try {
    const event = HTTP.toEvent({ headers: request.headers, body: request.body });
    const configuration = collections[event.data.collection];
    if (configuration) await configuration.updateConfiguration(event.data);
    else console.warn(`unknown collection ${event.data.collection}`);
    received.push(event);
    response.json({ status: "SUCCESS" });
  } catch (error) {
    console.error(error.stack);
    response.status(500).json({ status: "DROP", error: "Internal Server Error" });
  }
});

// For the test.

/** Whether the event was answered with a fault instead. */
async function failed(response) {
  if (fault.times <= 0) return false;
  fault.times -= 1;
  // A request that hangs ends with the connection.
  if (fault.kind === "hang") await new Promise(() => {});
  response.status(500).json({ status: "DROP", error: "Internal Server Error" });
  return true;
}

app.get("/events", (_request, response) => response.json(received));
app.get("/documents/:collection", (request, response) =>
  response.json(Object.fromEntries(collections[request.params.collection].documents)),
);
app.post("/fault", (request, response) => {
  fault = request.body;
  response.json(fault);
});

app.listen(Number(PORT), "127.0.0.1");
