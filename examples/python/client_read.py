"""Prints what comes into a client's inbox: client_read.py QUEUE [COUNT]

Without a count it reads until it is interrupted. A message leaves the queue when it was printed.
"""

import sys

from connection import connect


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: client_read.py QUEUE [COUNT]")
    queue, left = sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else None
    connection, channel = connect()
    channel.basic_qos(prefetch_count=100)
    try:
        for method, properties, body in channel.consume(queue):
            headers = properties.headers or {}
            print(headers.get("topic", "-"), headers.get("sender", "-"), body.decode("utf-8", "replace"), flush=True)
            channel.basic_ack(method.delivery_tag)
            left = None if left is None else left - 1
            if left == 0:
                break
    except KeyboardInterrupt:
        pass
    channel.cancel()
    connection.close()


if __name__ == "__main__":
    main()
