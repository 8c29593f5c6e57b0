// Prints the documents of a collection, then every change: node follow.mjs http://127.0.0.1:8081 ChannelConfiguration
import { readFile } from 'node:fs/promises'
import { EventSource } from 'eventsource' // browsers have it built in

const [base, collection] = process.argv.slice(2)
const url = `${base}/v1/collections/${collection}`
const pause = () => new Promise((resolve) => setTimeout(resolve, 1000))

// The token of this client, if it has one. The file is read for each request: it may be exchanged.
const tokenFile = process.env.AURA_CONFIGURATION_TOKEN_FILE
async function get(address, options) {
  const token = tokenFile && { Authorization: `Bearer ${(await readFile(tokenFile, 'utf8')).trim()}` }
  return fetch(address, { ...options, headers: { ...options?.headers, ...token } })
}

// Tries until there is an answer: the service may be away, or starting (503).
async function list() {
  for (;;) {
    const answer = await get(`${url}/documents`).catch((error) => console.error(`${url}: ${error.cause ?? error}`))
    if (answer?.ok) {
      const { head, items } = await answer.json()
      for (const { id, revision } of items) console.log('have', id, revision)
      return `${head.epoch} ${head.revision}`
    }
    if (answer) console.error(`${url}: ${(await answer.json()).detail}`)
    await pause()
  }
}

let position = await list()

function follow() {
  const [epoch, since] = position.split(' ')
  const source = new EventSource(`${url}/changes?since=${since}&epoch=${epoch}`, { fetch: get })
  source.addEventListener('change', ({ data, lastEventId }) => {
    position = lastEventId
    const { op, id, revision } = JSON.parse(data) // and configData
    console.log(op, id, revision)
  })
  source.addEventListener('resync', ({ lastEventId }) => {
    position = lastEventId // the stream goes on from there by itself
    list()
  })
  source.addEventListener('error', () => {
    // It comes back by itself when the connection breaks, and not when the answer is 503: the service is starting.
    if (source.readyState === EventSource.CLOSED) pause().then(follow)
  })
}

follow()
