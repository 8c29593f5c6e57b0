// Prints the documents of a collection, then every change: node follow.mjs http://127.0.0.1:8081 ChannelConfiguration
import { EventSource } from 'eventsource' // browsers have it built in

const [base, collection] = process.argv.slice(2)
const url = `${base}/v1/collections/${collection}`

async function list() {
  const { head, items } = await (await fetch(`${url}/documents`)).json()
  for (const { id, revision } of items) console.log('have', id, revision)
  return `${head.epoch} ${head.revision}`
}

let position = await list()

function follow() {
  const [epoch, since] = position.split(' ')
  const source = new EventSource(`${url}/changes?since=${since}&epoch=${epoch}`)
  source.addEventListener('change', ({ data, lastEventId }) => {
    position = lastEventId
    const { op, id, revision } = JSON.parse(data) // and configData
    console.log(op, id, revision)
  })
  source.addEventListener('resync', ({ lastEventId }) => {
    position = lastEventId // the stream goes on from there by itself
    list().catch(() => {})
  })
  source.addEventListener('error', () => {
    // It comes back by itself when the connection breaks, and not when the answer is 503: the service is starting.
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 1000)
  })
}

follow()
