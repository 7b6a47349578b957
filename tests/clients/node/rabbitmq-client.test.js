'use strict';

// rabbitmq-client, unmodified: publishers, consumers, remote procedure calls, and the way back after a cut.

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { after, before, describe, test } = require('node:test');

const { Connection, ConsumerStatus } = require('rabbitmq-client');

const { startBroker, startProxy } = require('./broker');

const unique = (name) => `node-rc-${name}-${randomUUID().slice(0, 8)}`;

// A list that can be waited for until it has `count` entries.
function collector(count) {
  const seen = [];
  let resolve;
  const full = new Promise((done) => { resolve = done; });
  return { seen, full, add: (entry) => { if (seen.push(entry) === count) resolve(); } };
}

describe('rabbitmq-client', { timeout: 120_000 }, () => {
  let broker;
  let proxy;
  let rabbit;

  before(async () => {
    broker = await startBroker();
    proxy = await startProxy(broker.url);
    rabbit = new Connection({ url: proxy.url, retryLow: 50, retryHigh: 200 });
    rabbit.on('error', () => {});
  });
  after(async () => {
    await rabbit.close();
    await proxy.stop();
    await broker.stop();
  });

  test('what a publisher had confirmed reaches the consumers of a topic', async () => {
    const [exchange, queue] = [unique('topic'), unique('q')];
    const { seen, full, add } = collector(100);
    const consumer = rabbit.createConsumer({
      queue,
      queueOptions: { queue, exclusive: true },
      qos: { prefetchCount: 10 },
      exchanges: [{ exchange, type: 'topic', autoDelete: true }],
      queueBindings: [{ exchange, routingKey: 'users.*' }],
    }, (message) => add(message));
    await once(consumer, 'ready');
    const publisher = rabbit.createPublisher({ confirm: true, exchanges: [{ exchange, type: 'topic', autoDelete: true }] });
    for (let number = 0; number < 100; number += 1) {
      await publisher.send({ exchange, routingKey: 'users.new', headers: { number } }, { number });
      await publisher.send({ exchange, routingKey: 'others.new' }, 'nobody listens');
    }
    await full;
    assert.deepEqual(seen.map((message) => message.body.number), Array.from({ length: 100 }, (_, number) => number));
    assert.deepEqual({ ...seen[7].headers }, { number: 7 });
    await publisher.close();
    await consumer.close();
  });

  test('a message that nobody takes comes back to its publisher', async () => {
    const publisher = rabbit.createPublisher({ confirm: true });
    const returned = once(publisher, 'basic.return');
    await publisher.send({ routingKey: unique('missing'), mandatory: true }, 'x');
    const [message] = await returned;
    assert.equal(message.replyText, 'NO_ROUTE');
    await publisher.close();
  });

  test('a consumer acknowledges, requeues and drops by what its handler returns', async () => {
    const queue = unique('q');
    const { seen, full, add } = collector(4);
    const answers = { ack: ConsumerStatus.ACK, again: ConsumerStatus.REQUEUE, drop: ConsumerStatus.DROP };
    const consumer = rabbit.createConsumer({ queue, queueOptions: { queue, exclusive: true }, concurrency: 1 }, (message) => {
      add([message.body, message.redelivered]);
      return message.redelivered ? ConsumerStatus.ACK : answers[message.body];
    });
    await once(consumer, 'ready');
    for (const body of ['ack', 'again', 'drop']) await rabbit.createPublisher().send(queue, body);
    await full;
    assert.equal(seen.length, 4);
    assert.deepEqual(seen.filter(([body]) => body === 'again'), [['again', false], ['again', true]]);
    await consumer.close();
  });

  test('remote procedure calls go over direct reply-to', async () => {
    const queue = unique('rpc');
    const server = rabbit.createConsumer({ queue, queueOptions: { queue, exclusive: true } }, async (message, reply) => {
      await reply({ doubled: message.body.number * 2 });
    });
    await once(server, 'ready');
    const client = rabbit.createRPCClient({ confirm: true });
    const answers = await Promise.all(Array.from({ length: 100 }, (_, number) => client.send(queue, { number })));
    assert.deepEqual(answers.map((answer) => answer.body.doubled), Array.from({ length: 100 }, (_, number) => number * 2));
    await client.close();
    await server.close();
  });

  test('after a cut the consumer is back and nothing unacknowledged is lost', async () => {
    const queue = unique('q');
    const { seen, full, add } = collector(2);
    const consumer = rabbit.createConsumer({ queue, queueOptions: { queue, durable: true } }, (message) => {
      add([message.body, message.redelivered]);
      // The first delivery is never settled: the cut takes its channel away.
      return message.redelivered ? ConsumerStatus.ACK : new Promise((resolve) => { setTimeout(resolve, 300); });
    });
    // It cannot settle what it held when its channel went, and says so.
    consumer.on('error', () => {});
    await once(consumer, 'ready');
    const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 5 });
    await publisher.send({ routingKey: queue, durable: true }, 'kept');
    const ready = new Promise((resolve) => { consumer.once('ready', resolve); });
    proxy.cut();
    await ready;
    await full;
    assert.deepEqual(seen, [['kept', false], ['kept', true]]);
    await publisher.close();
    await consumer.close();
    await rabbit.queueDelete({ queue });
  });

  test('errors carry the reply code', async () => {
    await assert.rejects(rabbit.queueDeclare({ queue: unique('missing'), passive: true }), { code: 'NOT_FOUND' });
    const queue = unique('q');
    await rabbit.queueDeclare({ queue, autoDelete: true });
    await assert.rejects(rabbit.queueDeclare({ queue, autoDelete: false }), { code: 'PRECONDITION_FAILED' });
    await rabbit.queueDelete({ queue });
  });
});
