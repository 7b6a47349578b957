"""Short forms for what nearly every pika test does. The client itself is used as it comes."""

import pika


def connect(server, user=None, password=None, vhost="/", **parameters):
    """A blocking connection, as the server's own user unless told otherwise."""
    credentials = pika.PlainCredentials(user or server.user, password or server.password)
    parameters.setdefault("socket_timeout", 10)
    parameters.setdefault("blocked_connection_timeout", 30)
    return pika.BlockingConnection(
        pika.ConnectionParameters(server.host, server.amqp_port, vhost, credentials, **parameters)
    )


def publish(channel, queue, *bodies, **properties):
    """Publish `bodies` to `queue` through the default exchange."""
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


def get(channel, queue, auto_ack=True):
    """One body, or None when the queue is empty."""
    _, _, body = channel.basic_get(queue, auto_ack=auto_ack)
    return body


def get_all(channel, queue):
    """Every body that is ready now, in order."""
    bodies = []
    while (body := get(channel, queue)) is not None:
        bodies.append(body)
    return bodies


def ready(channel, queue):
    """How many messages are ready in `queue`."""
    return channel.queue_declare(queue, passive=True).method.message_count


def collect(channel, queue, count, timeout_s=10, **consume):
    """Consume `count` deliveries as (method, properties, body); fewer when `timeout_s` pass without one."""
    deliveries = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=timeout_s, **consume):
        if method is None:
            break
        deliveries.append((method, properties, body))
        if len(deliveries) == count:
            break
    return deliveries


def lose(connection):
    """The socket goes without a close on any layer above it."""
    connection._impl._transport._sock.close()
