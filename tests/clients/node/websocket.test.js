'use strict';

// AMQP inside of a websocket: @cloudamqp/amqp-client as it runs in browsers, and what a page from elsewhere may not.

const assert = require('node:assert/strict');
const { after, before, test } = require('node:test');

const { AMQPWebSocketClient } = require('@cloudamqp/amqp-client');
const WebSocket = require('ws');

const { startBroker } = require('./broker');

globalThis.WebSocket = WebSocket;

let broker;
let url;

before(async () => {
  broker = await startBroker();
  url = broker.http && `${broker.http.replace('http', 'ws')}/ws/amqp`;
});
after(() => broker.stop());

const skip = process.env.AMQP_URL ? 'needs the HTTP address of a server of its own' : false;

test('messages of all sizes go both ways', { skip }, async () => {
  const client = new AMQPWebSocketClient({ url, frameMax: 131072 });
  const connection = await client.connect();
  const channel = await connection.channel();
  await channel.confirmSelect();
  const { name } = await channel.queueDeclare('', { exclusive: true });
  const bodies = [0, 1, 5000, 131072, 2_000_000].map((size) => new Uint8Array(size).fill(size % 251));
  for (const body of bodies) await channel.basicPublish('', name, body);
  const seen = [];
  await new Promise((resolve, reject) => {
    channel.basicConsume(name, { noAck: true }, (message) => {
      seen.push(message.body ?? new Uint8Array());
      if (seen.length === bodies.length) resolve();
    }).catch(reject);
  });
  assert.deepEqual(seen.map((body) => body.length), bodies.map((body) => body.length));
  seen.forEach((body, index) => assert.ok(Buffer.from(body).equals(Buffer.from(bodies[index]))));
  await connection.close();
});

test('wrong credentials are refused', { skip }, async () => {
  const client = new AMQPWebSocketClient({ url, username: 'guest', password: 'wrong' });
  await assert.rejects(client.connect());
});

// A page from elsewhere, in a browser on this machine, must not get in as guest.
test('guest does not come in from a page of another origin', { skip }, async () => {
  const opened = (options) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url, 'amqp', options);
    const parts = [];
    socket.on('open', () => {
      assert.equal(socket.protocol, 'amqp');
      socket.send(Buffer.from('AMQP\0\0\x09\x01', 'latin1'));
    });
    socket.on('message', (data) => {
      if (parts.push(data) === 1) socket.send(startOk());
    });
    socket.on('close', () => resolve(Buffer.concat(parts)));
    socket.on('error', reject);
    setTimeout(() => socket.close(), 5000).unref();
  });
  const refused = await opened({ origin: 'https://evil.example' });
  assert.ok(refused.includes('ACCESS_REFUSED'), refused.toString('latin1'));
  const local = await opened({ origin: 'http://localhost:8080' });
  assert.ok(!local.includes('ACCESS_REFUSED'), local.toString('latin1'));
});

test('who has not logged in cannot make the server keep a large message', { skip }, async () => {
  const size = 50_000_000;
  const taken = await new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.on('open', () => {
      // One binary frame, masked with zeros (RFC 6455 §5.2), which is sent part by part while it is taken.
      const head = Buffer.alloc(14);
      head.writeUInt16BE(0x82ff);
      head.writeBigUInt64BE(BigInt(size), 2);
      const { _socket: bare } = socket;
      let written = 0;
      bare.on('close', () => resolve(written));
      bare.on('error', () => {});
      const part = Buffer.alloc(size / 500);
      const more = (error) => {
        if (error) return;
        written += part.length;
        if (written < size) bare.write(part, more);
      };
      bare.write(head);
      bare.write(part, more);
    });
    socket.on('error', () => {});
    socket.on('unexpected-response', reject);
  });
  assert.ok(taken < size / 2, `${taken} octets were taken`);
});

test('text is not AMQP', { skip }, async () => {
  const code = await new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    socket.on('open', () => socket.send('AMQP'));
    socket.on('close', resolve);
    socket.on('error', reject);
  });
  assert.equal(code, 1003);
});

// connection.start-ok of guest, with the capability to hear why a login fails.
function startOk() {
  const short = (text) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
  const long = (bytes) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  const capability = Buffer.concat([short('authentication_failure_close'), Buffer.from('t\x01', 'latin1')]);
  const capabilities = Buffer.concat([short('capabilities'), Buffer.from('F'), long(capability)]);
  const payload = Buffer.concat([
    Buffer.from([0, 10, 0, 11]),
    long(capabilities),
    short('PLAIN'),
    long(Buffer.from('\0guest\0guest')),
    short('en_US'),
  ]);
  return Buffer.concat([Buffer.from([1, 0, 0]), long(payload), Buffer.from([0xce])]);
}
