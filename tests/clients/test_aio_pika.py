"""The asynchronous client: robust connections, RPC, confirms in bulk."""

import asyncio
import uuid

import aio_pika
import pytest
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, QueueEmpty
from aio_pika.patterns import RPC

DEADLINE_S = 40


def asynchronous(test):
    """Run a coroutine test on a loop of its own, within a deadline."""

    def run(broker):
        async def bounded():
            async with asyncio.timeout(DEADLINE_S):
                await test(broker)

        asyncio.run(bounded())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def unique(name):
    return f"aio-{name}-{uuid.uuid4().hex[:8]}"


@asynchronous
async def test_robust_connection_publishes_and_gets(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(unique("get"), auto_delete=True)
        await channel.default_exchange.publish(
            aio_pika.Message(b"hello", headers={"a": [1, {"b": None}]}, correlation_id="7"), routing_key=queue.name
        )
        message = await queue.get(timeout=5)
        async with message.process():
            assert (message.body, message.correlation_id) == (b"hello", "7")
            assert message.headers == {"a": [1, {"b": None}]}
        with pytest.raises(QueueEmpty):
            await queue.get(timeout=5)
        await queue.delete()


@asynchronous
async def test_thousand_concurrent_publishes_are_all_confirmed(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(unique("confirms"), durable=True)
        confirmations = await asyncio.gather(
            *(
                channel.default_exchange.publish(
                    aio_pika.Message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT),
                    routing_key=queue.name,
                )
                for number in range(1000)
            )
        )
        assert len(confirmations) == 1000
        assert (await queue.delete(if_empty=False)).message_count == 1000


@asynchronous
async def test_unroutable_message_is_a_delivery_error(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        with pytest.raises(DeliveryError):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), routing_key=unique("nowhere"))


@asynchronous
async def test_queue_iterator_yields_everything_in_order(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        queue = await channel.declare_queue(unique("iterator"), auto_delete=True)
        for number in range(500):
            await channel.default_exchange.publish(aio_pika.Message(b"%d" % number), routing_key=queue.name)
        seen = []
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    seen.append(int(message.body))
                if len(seen) == 500:
                    break
        assert seen == list(range(500))


@asynchronous
async def test_failed_processing_requeues(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(unique("requeue"), exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), routing_key=queue.name)
        message = await queue.get(timeout=5)
        with pytest.raises(ValueError):
            async with message.process(requeue=True):
                raise ValueError
        again = await queue.get(timeout=5)
        assert again.redelivered
        await again.ack()


@asynchronous
async def test_rpc_over_reply_queues(broker):
    """Two connections, 200 calls in flight at once, each answer with its own question; errors travel too."""
    name = unique("rpc")

    async def multiply(*, x, y):
        if y == 13:
            raise ValueError("thirteen")
        return x * y

    server = await aio_pika.connect_robust(broker.amqp_url)
    client = await aio_pika.connect_robust(broker.amqp_url)
    async with server, client:
        worker = await RPC.create(await server.channel())
        await worker.register(name, multiply, auto_delete=True)
        caller = await RPC.create(await client.channel())
        answers = await asyncio.gather(*(caller.call(name, kwargs={"x": n, "y": 2}, expiration=30) for n in range(200)))
        assert answers == [n * 2 for n in range(200)]
        with pytest.raises(ValueError):
            await caller.call(name, kwargs={"x": 1, "y": 13})
        await caller.close()
        await worker.close()


class Wire:
    """A relay in front of the broker that can be cut, as a network can."""

    def __init__(self, broker):
        self.broker = broker
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def relay(self, reader, writer):
        to_reader, to_writer = await asyncio.open_connection(self.broker.host, self.broker.amqp_port)
        self.writers += [writer, to_writer]
        await asyncio.gather(self.pump(reader, to_writer), self.pump(to_reader, writer))

    async def pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


@asynchronous
async def test_robust_queue_is_consumed_again_after_the_connection_was_cut(broker):
    async with Wire(broker) as wire:
        url = broker.amqp_url.replace(f":{broker.amqp_port}", f":{wire.port}")
        connection = await aio_pika.connect_robust(url, reconnect_interval=0.2)
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(unique("robust"), durable=True)
            seen = asyncio.Queue()

            async def on_message(message):
                await seen.put(message.body)

            await queue.consume(on_message, no_ack=True)
            restored = asyncio.Event()

            async def on_reconnect(*_):
                restored.set()

            connection.reconnect_callbacks.add(on_reconnect)
            wire.cut()
            await asyncio.wait_for(restored.wait(), 15)
            async with await aio_pika.connect(broker.amqp_url) as other:
                sender = await other.channel()
                await sender.default_exchange.publish(aio_pika.Message(b"after"), routing_key=queue.name)
                assert await asyncio.wait_for(seen.get(), 15) == b"after"
            await queue.delete(if_unused=False)


@asynchronous
async def test_exchanges_of_every_type_bind_and_route(broker):
    connection = await aio_pika.connect_robust(broker.amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(unique("routes"), exclusive=True)
        for kind, key in (("direct", "k"), ("fanout", ""), ("topic", "*.k"), ("headers", "")):
            exchange = await channel.declare_exchange(unique(kind), kind, auto_delete=True)
            await queue.bind(exchange, key, arguments={"h": 1} if kind == "headers" else None)
            headers = {"h": 1}
            await exchange.publish(aio_pika.Message(kind.encode(), headers=headers), key.replace("*", "a"))
            assert (await queue.get(timeout=5, no_ack=True)).body == kind.encode()


@asynchronous
async def test_inequivalent_redeclare_is_a_precondition_failure(broker):
    connection = await aio_pika.connect(broker.amqp_url)
    async with connection:
        name = unique("differs")
        channel = await connection.channel()
        await channel.declare_queue(name, durable=True)
        with pytest.raises(ChannelPreconditionFailed):
            await channel.declare_queue(name, durable=False)
        await (await connection.channel()).queue_delete(name)


@asynchronous
async def test_transactions_commit_and_roll_back(broker):
    connection = await aio_pika.connect(broker.amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(unique("tx"), exclusive=True)
        async with channel.transaction():
            await channel.default_exchange.publish(aio_pika.Message(b"kept"), routing_key=queue.name)
        with pytest.raises(ValueError):
            async with channel.transaction():
                await channel.default_exchange.publish(aio_pika.Message(b"gone"), routing_key=queue.name)
                raise ValueError
        assert (await queue.get(timeout=5, no_ack=True)).body == b"kept"
        assert await queue.get(timeout=5, no_ack=True, fail=False) is None
