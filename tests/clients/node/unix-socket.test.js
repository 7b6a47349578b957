'use strict';

// amqplib, unmodified, over a UNIX socket: what it is given beside the URL goes to Node's `net.connect`, which takes a path.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test } = require('node:test');

const amqp = require('amqplib');

const { startBroker } = require('./broker');

test('amqplib publishes and consumes over a UNIX socket', { skip: 'AMQP_URL' in process.env, timeout: 60_000 }, async (t) => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'backbone-unix-'));
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  const socket = path.join(folder, 'amqp.sock');
  const broker = await startBroker({ BACKBONE_AMQP__UNIX_SOCKET: socket });
  t.after(() => broker.stop());
  // The port belongs to nobody: it is not used.
  const connection = await amqp.connect('amqp://guest:guest@127.0.0.1:1', { path: socket });
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const bodies = [Buffer.from('small'), Buffer.alloc(3_000_000, 'large')];
  const seen = [];
  const all = new Promise((resolve) => {
    channel.consume(queue, (message) => {
      seen.push(message.content);
      channel.ack(message);
      if (seen.length === bodies.length) resolve();
    });
  });
  for (const body of bodies) channel.sendToQueue(queue, body);
  await channel.waitForConfirms();
  await all;
  assert.ok(seen.every((body, index) => body.equals(bodies[index])));
  await connection.close();
});
