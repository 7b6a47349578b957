// A client of the bus over REST: node client.js SOAR-CONFIG send TOPIC BODY | node client.js SOAR-CONFIG read [COUNT]
// The body is JSON, or a text if it is none. Reading goes on until there were COUNT messages, or for ever.
'use strict'

const { readFileSync } = require('node:fs')

function usage () {
  console.error('usage: client.js SOAR-CONFIG send TOPIC BODY | client.js SOAR-CONFIG read [COUNT]')
  process.exit(2)
}

class Client {
  constructor (config) {
    this.api = config.api.replace(/\/$/, '')
    const pair = Buffer.from(`${config.client_id}:${config.secret}`).toString('base64')
    this.headers = { authorization: `Basic ${pair}`, 'content-type': 'application/json' }
  }

  async call (path, options) {
    const response = await fetch(this.api + path, { headers: this.headers, ...options })
    const answer = await response.json()
    if (!response.ok) throw new Error(`${response.status}: ${answer.message}`)
    return answer
  }

  // Resolves when the message is safe.
  send (topic, body) {
    return this.call('/send', { method: 'POST', body: JSON.stringify({ topic, body }) })
  }

  // What waits in the inbox; if nothing does, what comes within some seconds.
  receive (limit, waitS = 20) {
    return this.call(`/receive?wait=${waitS}` + (limit === Infinity ? '' : `&limit=${limit}`))
  }
}

function parse (text) {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

async function main ([file, verb, ...words]) {
  if (!file || !['send', 'read'].includes(verb)) usage()
  const client = new Client(JSON.parse(readFileSync(file, 'utf8')))
  if (verb === 'send') {
    if (words.length !== 2) usage()
    console.log('sent', (await client.send(words[0], parse(words[1]))).id)
    return
  }
  let left = words.length === 1 ? Number(words[0]) : Infinity
  while (left > 0) {
    const messages = await client.receive(left)
    for (const { topic, sender, message } of messages) console.log(topic, sender, JSON.stringify(message))
    left -= messages.length
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message)
  process.exit(1)
})
