'use strict';

// amqplib, unmodified, against the broker. Each test has a connection of its own.

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { after, afterEach, before, beforeEach, describe, test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');

const amqp = require('amqplib');
const callbacks = require('amqplib/callback_api');

const { startBroker } = require('./broker');

const unique = (name) => `node-${name}-${randomUUID().slice(0, 8)}`;

// `count` deliveries of a queue, in order.
async function collect(channel, queue, count, options = { noAck: true }) {
  const messages = [];
  let tag;
  await new Promise((resolve, reject) => {
    channel
      .consume(queue, (message) => {
        messages.push(message);
        if (messages.length === count) resolve();
      }, options)
      .then((reply) => { tag = reply.consumerTag; }, reject);
  });
  if (tag) await channel.cancel(tag);
  return messages;
}

// `count` deliveries come, and no more.
async function settle(seen, count) {
  for (let tries = 0; tries < 100 && seen.length < count; tries += 1) await sleep(50);
  await sleep(200);
  assert.equal(seen.length, count);
}

describe('amqplib', { timeout: 120_000 }, () => {
  let broker;
  let connection;

  before(async () => { broker = await startBroker(); });
  after(async () => { await broker.stop(); });
  beforeEach(async () => { connection = await amqp.connect(broker.url); });
  afterEach(async () => { await connection.close().catch(() => {}); });

  test('publishes, consumes and acknowledges', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    assert.match(queue, /^amq\.gen-/);
    channel.sendToQueue(queue, Buffer.from('hello'), {
      contentType: 'text/plain', headers: { a: 1, b: [true, 'x'], c: { d: null } }, messageId: 'm', priority: 3,
    });
    const [message] = await collect(channel, queue, 1, {});
    assert.equal(message.content.toString(), 'hello');
    assert.equal(message.fields.redelivered, false);
    assert.equal(message.fields.routingKey, queue);
    assert.equal(message.properties.contentType, 'text/plain');
    assert.equal(message.properties.messageId, 'm');
    assert.equal(message.properties.priority, 3);
    assert.equal(message.properties.correlationId, undefined);
    assert.deepEqual({ ...message.properties.headers }, { a: 1, b: [true, 'x'], c: { d: null } });
    channel.ack(message);
    assert.equal(await channel.get(queue), false);
  });

  test('ten thousand messages arrive in order, each confirmed', async () => {
    const count = 10_000;
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue(unique('order'), { durable: true });
    let confirmed = 0;
    const receiver = await connection.createChannel();
    await receiver.prefetch(500);
    const seen = [];
    const all = new Promise((resolve) => {
      receiver.consume(queue, (message) => {
        seen.push(message.content.readUInt32BE(0));
        receiver.ack(message);
        if (seen.length === count) resolve();
      });
    });
    for (let number = 0; number < count; number += 1) {
      const content = Buffer.alloc(64);
      content.writeUInt32BE(number);
      const room = channel.sendToQueue(queue, content, { persistent: true }, (error) => {
        assert.equal(error, null);
        confirmed += 1;
      });
      if (!room) await once(channel, 'drain');
    }
    await channel.waitForConfirms();
    await all;
    assert.equal(confirmed, count);
    assert.deepEqual(seen, Array.from({ length: count }, (_, number) => number));
    await receiver.close();
    assert.deepEqual(await channel.deleteQueue(queue), { messageCount: 0 });
  });

  test('returns what is mandatory and unroutable, before its confirm', async () => {
    const channel = await connection.createConfirmChannel();
    const events = [];
    channel.on('return', (message) => events.push(['return', message.fields.replyCode, message.content.toString()]));
    const missing = unique('missing');
    await new Promise((resolve) => {
      channel.publish('', missing, Buffer.from('back'), { mandatory: true }, (error) => {
        events.push(['confirm', error]);
        resolve();
      });
    });
    assert.deepEqual(events, [['return', 312, 'back'], ['confirm', null]]);
  });

  test('prefetch bounds what is outstanding', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (let number = 0; number < 20; number += 1) channel.sendToQueue(queue, Buffer.from(`${number}`));
    await channel.prefetch(5);
    const seen = [];
    await channel.consume(queue, (message) => seen.push(message));
    await settle(seen, 5);
    channel.ack(seen[4], true);
    await settle(seen, 10);
    channel.nackAll(false);
    await settle(seen, 15);
  });

  test('nack and reject requeue to the front, or drop', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const body of ['a', 'b', 'c']) channel.sendToQueue(queue, Buffer.from(body));
    channel.nack(await channel.get(queue), false, true);
    let message = await channel.get(queue);
    assert.deepEqual([message.content.toString(), message.fields.redelivered], ['a', true]);
    channel.reject(message, false);
    message = await channel.get(queue);
    assert.equal(message.content.toString(), 'b');
    const last = await channel.get(queue);
    channel.nack(last, true, true);
    assert.deepEqual(
      (await collect(channel, queue, 2)).map((each) => [each.content.toString(), each.fields.redelivered]),
      [['b', true], ['c', true]],
    );
  });

  test('recover redelivers', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    channel.sendToQueue(queue, Buffer.from('x'));
    await channel.get(queue);
    await channel.recover();
    assert.equal((await channel.get(queue, { noAck: true })).fields.redelivered, true);
  });

  test('two hundred remote procedure calls at once get their own answers', async () => {
    const server = await amqp.connect(broker.url);
    const worker = await server.createChannel();
    const { queue } = await worker.assertQueue(unique('rpc'), { autoDelete: true });
    await worker.consume(queue, (message) => {
      const answer = Number(message.content.toString()) ** 2;
      const { correlationId, replyTo } = message.properties;
      worker.sendToQueue(replyTo, Buffer.from(`${answer}`), { correlationId });
      worker.ack(message);
    });
    // Backbone has no direct reply-to yet (docs/AMQP.md).
    for (const reply of process.env.AMQP_URL ? ['queue', 'direct'] : ['queue']) {
      const channel = await connection.createChannel();
      const replyTo = reply === 'direct' ? 'amq.rabbitmq.reply-to' : (await channel.assertQueue('', { exclusive: true })).queue;
      const waiting = new Map();
      await channel.consume(replyTo, (message) => {
        waiting.get(message.properties.correlationId)(Number(message.content.toString()));
      }, { noAck: true });
      const answers = await Promise.all(Array.from({ length: 200 }, (_, number) => new Promise((resolve) => {
        const correlationId = randomUUID();
        waiting.set(correlationId, resolve);
        channel.sendToQueue(queue, Buffer.from(`${number}`), { correlationId, replyTo });
      })));
      assert.deepEqual(answers, Array.from({ length: 200 }, (_, number) => number ** 2));
    }
    await server.close();
  });

  test('exchanges of every type route, bind to each other and unbind', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const exchanges = {};
    for (const type of ['direct', 'fanout', 'topic', 'headers']) {
      exchanges[type] = unique(type);
      await channel.assertExchange(exchanges[type], type, { autoDelete: type !== 'fanout', durable: false });
    }
    await channel.bindQueue(queue, exchanges.direct, 'k');
    await channel.bindQueue(queue, exchanges.topic, 'a.*.#');
    await channel.bindQueue(queue, exchanges.headers, '', { 'x-match': 'any', h: 1, i: 2 });
    await channel.bindExchange(exchanges.direct, exchanges.fanout, '');
    channel.publish(exchanges.direct, 'k', Buffer.from('1'));
    channel.publish(exchanges.direct, 'other', Buffer.from('no'));
    channel.publish(exchanges.topic, 'a.b.c.d', Buffer.from('2'));
    channel.publish(exchanges.topic, 'a', Buffer.from('no'));
    channel.publish(exchanges.headers, '', Buffer.from('3'), { headers: { i: 2 } });
    channel.publish(exchanges.headers, '', Buffer.from('no'), { headers: { i: 3 } });
    channel.publish(exchanges.fanout, 'k', Buffer.from('4'));
    const bodies = (await collect(channel, queue, 4)).map((message) => message.content.toString());
    assert.deepEqual(bodies, ['1', '2', '3', '4']);
    await channel.unbindExchange(exchanges.direct, exchanges.fanout, '');
    await channel.unbindQueue(queue, exchanges.topic, 'a.*.#');
    channel.publish(exchanges.fanout, 'k', Buffer.from('no'));
    await channel.checkQueue(queue);
    assert.equal(await channel.get(queue), false);
    await channel.deleteExchange(exchanges.fanout);
  });

  test('a channel error is an event of its channel alone', async () => {
    const channel = await connection.createChannel();
    const other = await connection.createChannel();
    const failed = once(channel, 'error');
    const missing = unique('missing');
    await assert.rejects(channel.checkQueue(missing), new RegExp(`NOT_FOUND - no queue '${missing}' in vhost '/'`));
    const [error] = await failed;
    assert.equal(error.code, 404);
    assert.ok((await other.assertQueue('', { exclusive: true })).queue);

    const publisher = await connection.createChannel();
    const refused = once(publisher, 'error');
    publisher.publish(unique('no-exchange'), 'k', Buffer.from('x'));
    assert.equal((await refused)[0].code, 404);

    const asserting = await connection.createChannel();
    asserting.on('error', () => {});
    const queue = unique('differs');
    await asserting.assertQueue(queue, { durable: true });
    await assert.rejects(asserting.assertQueue(queue, { durable: false }), /PRECONDITION_FAILED/);
    await other.deleteQueue(queue);
  });

  test('a consumer whose queue is deleted gets a null message', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue(unique('gone'));
    const gone = new Promise((resolve) => { channel.consume(queue, resolve); });
    await channel.deleteQueue(queue);
    assert.equal(await gone, null);
  });

  test('bodies from nothing to four megabytes come back', async () => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const size of [0, 1, 4088, 131_063, 131_064, 131_065, 4 << 20]) {
      const content = Buffer.alloc(size, size % 251);
      channel.sendToQueue(queue, content);
      const [message] = await collect(channel, queue, 1);
      assert.ok(message.content.equals(content), `size ${size}`);
    }
  });

  test('wrong credentials are refused with a 403', async () => {
    const url = new URL(broker.url);
    url.password = 'wrong';
    await assert.rejects(amqp.connect(url.href), /403|ACCESS[_-]REFUSED/);
  });

  test('a missing virtual host is refused', async () => {
    await assert.rejects(amqp.connect(`${broker.url.replace(/\/$/, '')}/nope`), /ConnectionClose/);
  });

  test('heartbeats of one second keep an idle connection open', async () => {
    const idle = await amqp.connect(`${broker.url}?heartbeat=1`);
    let closed = false;
    idle.on('error', () => {});
    idle.on('close', () => { closed = true; });
    await sleep(4000);
    assert.equal(closed, false);
    const channel = await idle.createChannel();
    assert.ok((await channel.assertQueue('', { exclusive: true })).queue);
    await idle.close();
  });

  test('the callback face works too', async () => {
    await new Promise((resolve, reject) => {
      callbacks.connect(broker.url, (error, own) => {
        if (error) return reject(error);
        return own.createChannel((failed, channel) => {
          if (failed) return reject(failed);
          return channel.assertQueue('', { exclusive: true }, (refused, { queue }) => {
            if (refused) return reject(refused);
            channel.consume(queue, (message) => {
              assert.equal(message.content.toString(), 'x');
              channel.ack(message);
              own.close(resolve);
            });
            return channel.sendToQueue(queue, Buffer.from('x'));
          });
        });
      });
    });
  });
});
