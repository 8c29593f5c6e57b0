// A subscriber in Node.js as the source document suggests it: Express, the CloudEvents SDK, and a Map for each
// collection. `make bench` compares ours with it. It has none of our guarantees: the last event wins.
//
//   PORT=8081 node server.mjs

import { HTTP } from "cloudevents";
import express from "express";

const caches = { FreeForm: new Map() };
let applied = 0;

const app = express();
app.use(express.json({ type: ["application/json", "application/cloudevents+json"] }));

app.post("/dapr/processConfigurationEvents", (request, response) => {
  const { data } = HTTP.toEvent({ headers: request.headers, body: request.body });
  const cache = caches[data.collection];
  switch (data.collection) {
    case "FreeForm":
      if (data.op === "Delete") {
        cache.delete(data.id);
      } else {
        cache.set(data.id, data.configData);
      }
      applied += 1;
      break;
    default:
      console.warn(`this subscriber does not follow ${data.collection}`);
  }
  response.json({ status: "SUCCESS" });
});

// The proof that the events were applied.
app.get("/v1/status", (_request, response) => response.json({ events: { applied }, count: caches.FreeForm.size }));

app.listen(Number(process.env.PORT), "127.0.0.1");
