'use strict';

// The broker under test: the one that AMQP_URL names, else the binary in BACKBONE_BIN on free loopback ports.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');

const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 15_000;

async function freePorts(count) {
  const servers = await Promise.all(
    Array.from({ length: count }, () => new Promise((resolve, reject) => {
      const server = net.createServer();
      server.once('error', reject);
      server.listen(0, '127.0.0.1', () => resolve(server));
    })),
  );
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

// `settings` are further variables of the environment, for a broker that we start.
async function startBroker(settings = {}) {
  if (process.env.AMQP_URL) {
    return { url: process.env.AMQP_URL, stop: async () => {} };
  }
  if (!process.env.BACKBONE_BIN) {
    throw new Error("set BACKBONE_BIN to the server's binary, or AMQP_URL to a running broker");
  }
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'backbone-node-'));
  const [amqp, http] = await freePorts(2);
  const log = fs.openSync(path.join(folder, 'server.log'), 'w');
  const own = Object.fromEntries(
    Object.entries(process.env).filter(([key]) => !/^(BACKBONE_|SOAR_|DATA_DIR)/.test(key)),
  );
  const child = spawn(path.resolve(process.env.BACKBONE_BIN), [], {
    cwd: folder,
    stdio: ['ignore', log, log],
    env: {
      ...own,
      BACKBONE_DATA_DIR: path.join(folder, 'data'),
      BACKBONE_AMQP__BIND: `127.0.0.1:${amqp}`,
      BACKBONE_HTTP__BIND: `127.0.0.1:${http}`,
      BACKBONE_ADMIN__ID: 'admin',
      BACKBONE_ADMIN__SECRET: 'correct-horse-battery-staple',
      ...settings,
    },
  });
  const ended = new Promise((resolve) => {
    child.once('exit', resolve);
    child.once('error', resolve);
  });
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
      await ended;
      clearTimeout(timer);
    }
    fs.rmSync(folder, { recursive: true, force: true });
  };
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < deadline && child.exitCode === null) {
    try {
      const answer = await fetch(`http://127.0.0.1:${http}/health/ready`);
      await answer.arrayBuffer();
      if (answer.status === 200) {
        return { url: `amqp://guest:guest@127.0.0.1:${amqp}`, http: `http://127.0.0.1:${http}`, stop };
      }
    } catch {
      // Not listening yet.
    }
    await sleep(50);
  }
  const text = fs.readFileSync(path.join(folder, 'server.log'), 'utf8');
  await stop();
  throw new Error(`the server did not become ready:\n${text}`);
}

// A way to the broker that can be cut, for clients that find their way back.
async function startProxy(url) {
  const to = new URL(url);
  const sockets = new Set();
  const server = net.createServer((client) => {
    const upstream = net.connect(Number(to.port || 5672), to.hostname);
    for (const [from, into] of [[client, upstream], [upstream, client]]) {
      sockets.add(from);
      from.pipe(into);
      from.on('error', () => {});
      from.on('close', () => {
        sockets.delete(from);
        into.destroy();
      });
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  const through = new URL(url);
  through.port = server.address().port;
  through.hostname = '127.0.0.1';
  const stop = () => new Promise((resolve) => {
    server.close(resolve);
    cut();
  });
  return { url: through.href, cut, stop };
}

module.exports = { startBroker, startProxy };
