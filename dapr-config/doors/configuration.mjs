// An application that follows a collection by Dapr's Configuration API over HTTP (docs/dapr-configuration.md). Values are
// posted to it. It needs no packages.
import http from 'node:http';

const { APP_PORT, DAPR_HTTP_PORT } = process.env;
const STORE = 'SkillConfiguration';
const RETRY_MS = 1000;

// Refused while the subscriber starts, or has not loaded yet.
async function subscribe() {
  const url = `http://127.0.0.1:${DAPR_HTTP_PORT}/v1.0/configuration/${STORE}/subscribe`;
  const answer = await fetch(url).catch(() => undefined);
  if (!answer?.ok) setTimeout(subscribe, RETRY_MS);
}

http
  .createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      if (request.url.startsWith(`/configuration/${STORE}/`)) {
        for (const [id, { value, version, metadata }] of Object.entries(JSON.parse(body).items)) {
          console.log(`${STORE}/${id} at revision ${version}: ${metadata.deleted ? 'deleted' : value}`);
        }
      }
      response.end();
    });
  })
  .listen(Number(APP_PORT), '127.0.0.1', subscribe);
