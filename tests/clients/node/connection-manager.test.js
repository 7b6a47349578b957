'use strict';

// amqp-connection-manager over amqplib, both unmodified: what is sent while the broker is away, and what is set up again.

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { after, before, describe, test } = require('node:test');

const manager = require('amqp-connection-manager');

const { startBroker, startProxy } = require('./broker');

const unique = (name) => `node-cm-${name}-${randomUUID().slice(0, 8)}`;

describe('amqp-connection-manager', { timeout: 120_000 }, () => {
  let broker;
  let proxy;
  let connection;

  before(async () => {
    broker = await startBroker();
    proxy = await startProxy(broker.url);
    connection = manager.connect([proxy.url], { heartbeatIntervalInSeconds: 5, reconnectTimeInSeconds: 0.1 });
    connection.on('disconnect', () => {});
    await once(connection, 'connect');
  });
  after(async () => {
    await connection.close();
    await proxy.stop();
    await broker.stop();
  });

  test('what is sent over several cuts arrives, each at least once', async () => {
    const queue = unique('q');
    const seen = new Set();
    let all;
    const everything = new Promise((resolve) => { all = resolve; });
    const channel = connection.createChannel({
      json: true,
      setup: async (raw) => {
        await raw.assertQueue(queue, { durable: true });
        await raw.prefetch(10);
        await raw.consume(queue, (message) => {
          seen.add(JSON.parse(message.content).number);
          raw.ack(message);
          if (seen.size === 300) all();
        });
      },
    });
    channel.on('error', () => {});
    await channel.waitForConnect();
    // What was on the way when its channel went is refused; an application sends it again.
    const send = (number) => channel.sendToQueue(queue, { number }, { persistent: true }).catch(() => send(number));
    const sent = [];
    for (let number = 0; number < 300; number += 1) {
      sent.push(send(number));
      if (number % 100 === 99) {
        const back = once(channel, 'connect');
        proxy.cut();
        await back;
      }
    }
    await Promise.all(sent);
    await everything;
    assert.equal(seen.size, 300);
    await channel.deleteQueue(queue);
    await channel.close();
  });

  test('exclusive queues and bindings are set up again', async () => {
    const exchange = unique('fanout');
    const heard = [];
    let resolve;
    const channel = connection.createChannel({
      setup: async (raw) => {
        await raw.assertExchange(exchange, 'fanout', { durable: true });
        const { queue } = await raw.assertQueue('', { exclusive: true });
        await raw.bindQueue(queue, exchange, '');
        await raw.consume(queue, (message) => {
          heard.push(message.content.toString());
          resolve();
        }, { noAck: true });
      },
    });
    channel.on('error', () => {});
    await channel.waitForConnect();
    for (const text of ['before', 'after']) {
      const come = new Promise((done) => { resolve = done; });
      await channel.publish(exchange, '', Buffer.from(text));
      await come;
      if (text === 'before') {
        const back = once(channel, 'connect');
        proxy.cut();
        await back;
      }
    }
    assert.deepEqual(heard, ['before', 'after']);
    const cleaned = connection.createChannel({ setup: (raw) => raw.deleteExchange(exchange) });
    await cleaned.waitForConnect();
    await cleaned.close();
    await channel.close();
  });

  test('a wrong password is told, and tried again', async () => {
    const url = new URL(proxy.url);
    url.password = 'wrong';
    const refused = manager.connect([url.href], { reconnectTimeInSeconds: 0.1 });
    const [{ err }] = await once(refused, 'connectFailed');
    assert.match(String(err), /403|ACCESS.REFUSED|Handshake/i);
    await once(refused, 'connectFailed');
    await refused.close();
  });
});
