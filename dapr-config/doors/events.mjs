// An application that subscribes to a topic of its sidecar, as to any broker (docs/dapr-component.md). It needs no packages.
import http from 'node:http';

const TOPIC = 'SkillConfiguration';
const ROUTE = '/events';

http
  .createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      response.setHeader('content-type', 'application/json');
      if (request.url === '/dapr/subscribe') {
        response.end(JSON.stringify([{ pubsubname: 'pubsub-config', topic: TOPIC, route: ROUTE }]));
      } else if (request.url === ROUTE) {
        const { op, id, revision, configData } = JSON.parse(body).data;
        console.log(`${op} of ${TOPIC}/${id} at revision ${revision}: ${JSON.stringify(configData)}`);
        response.end('{"status": "SUCCESS"}');
      } else {
        response.writeHead(request.url === '/healthz' ? 200 : 404).end();
      }
    });
  })
  .listen(Number(process.env.APP_PORT), '127.0.0.1');
