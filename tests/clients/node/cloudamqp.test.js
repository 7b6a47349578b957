'use strict';

// @cloudamqp/amqp-client over TCP, unmodified.

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { after, afterEach, before, beforeEach, describe, test } = require('node:test');

const { AMQPClient } = require('@cloudamqp/amqp-client');

const { startBroker } = require('./broker');

const unique = (name) => `node-cloud-${name}-${randomUUID().slice(0, 8)}`;

describe('@cloudamqp/amqp-client', { timeout: 120_000 }, () => {
  let broker;
  let connection;
  let channel;

  before(async () => { broker = await startBroker(); });
  after(async () => { await broker.stop(); });
  beforeEach(async () => {
    connection = await new AMQPClient(broker.url).connect();
    channel = await connection.channel();
  });
  afterEach(async () => { await connection.close().catch(() => {}); });

  test('a thousand confirmed messages come in order and are acknowledged', async () => {
    const { name } = await channel.queueDeclare('', { exclusive: true });
    await channel.confirmSelect();
    const properties = { contentType: 'text/plain', deliveryMode: 2, headers: { a: 1, b: 'x', c: true, d: null } };
    const confirms = [];
    for (let number = 0; number < 1000; number += 1) confirms.push(channel.basicPublish('', name, `${number}`, properties));
    await Promise.all(confirms);
    const seen = [];
    await channel.prefetch(20);
    await new Promise((resolve, reject) => {
      channel.basicConsume(name, { noAck: false }, async (message) => {
        seen.push(message);
        await message.ack();
        if (seen.length === 1000) resolve();
      }).catch(reject);
    });
    assert.deepEqual(seen.map((message) => message.bodyString()), Array.from({ length: 1000 }, (_, number) => `${number}`));
    assert.deepEqual({ ...seen[0].properties.headers }, properties.headers);
    assert.equal(seen[0].properties.contentType, 'text/plain');
  });

  test('get, reject and nack', async () => {
    const { name } = await channel.queueDeclare('', { exclusive: true });
    assert.equal(await channel.basicGet(name), null);
    for (const body of ['1', '2']) await channel.basicPublish('', name, body);
    const first = await channel.basicGet(name, { noAck: false });
    assert.equal(first.bodyString(), '1');
    await first.reject(true);
    const again = await channel.basicGet(name, { noAck: false });
    assert.deepEqual([again.bodyString(), again.redelivered], ['1', true]);
    await again.nack(false);
    assert.equal((await channel.basicGet(name)).bodyString(), '2');
  });

  test('an unroutable message is returned', async () => {
    const returned = new Promise((resolve) => { channel.onReturn = resolve; });
    await channel.basicPublish('', unique('missing'), 'x', {}, true);
    const message = await returned;
    assert.deepEqual([message.replyCode, message.replyText, message.bodyString()], [312, 'NO_ROUTE', 'x']);
  });

  test('exchanges bind to each other', async () => {
    const [from, into] = [unique('from'), unique('into')];
    await channel.exchangeDeclare(from, 'topic', { autoDelete: true });
    await channel.exchangeDeclare(into, 'fanout', { autoDelete: true });
    await channel.exchangeBind(into, from, 'a.#');
    const { name } = await channel.queueDeclare('', { exclusive: true });
    await channel.queueBind(name, into, '');
    await channel.confirmSelect();
    await channel.basicPublish(from, 'a.b.c', 'in');
    await channel.basicPublish(from, 'b', 'out');
    assert.equal((await channel.basicGet(name)).bodyString(), 'in');
    assert.equal(await channel.basicGet(name), null);
  });

  test('a transaction is committed or rolled back', async () => {
    const { name } = await channel.queueDeclare('', { exclusive: true });
    await channel.txSelect();
    await channel.basicPublish('', name, 'no');
    await channel.txRollback();
    await channel.basicPublish('', name, 'yes');
    await channel.txCommit();
    assert.equal((await channel.basicGet(name)).bodyString(), 'yes');
  });

  test('errors close the channel alone, and say why', async () => {
    const missing = unique('missing');
    await assert.rejects(channel.queueDeclare(missing, { passive: true }), new RegExp(`no queue '${missing}' in vhost '/'`));
    const other = await connection.channel();
    await other.queueDeclare('', { exclusive: true });
  });

  test('wrong credentials are refused', async () => {
    const url = new URL(broker.url);
    url.password = 'wrong';
    await assert.rejects(new AMQPClient(url.href).connect(), /ACCESS_REFUSED/);
  });
});
