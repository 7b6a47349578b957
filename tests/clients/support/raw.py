"""AMQP by hand over a socket, for what no client library would send.

pamqp builds and reads the well-formed frames; everything malformed is bytes written out in the test.
"""

import socket
import struct
import time

import pamqp.exceptions
from pamqp import body, commands, frame, header

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"


class Closed(Exception):
    """The broker ended the connection: `code` is None when it only dropped the socket."""

    def __init__(self, code=None, text="", method=(0, 0)):
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        self.method = method


class RawConnection:
    """One socket. Nothing is answered or checked unless a method here says so."""

    def __init__(self, server, timeout_s=10, receive_buffer=None):
        self.server = server
        self.timeout_s = timeout_s
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        self.socket.connect((server.host, server.amqp_port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    # Sending

    def send(self, data):
        self.socket.sendall(data)

    def send_bytewise(self, data):
        """One octet a segment."""
        for octet in data:
            self.socket.sendall(bytes([octet]))

    def method(self, method, channel=1):
        self.send(frame.marshal(method, channel))

    # Receiving

    def read_frame(self, timeout_s=None):
        """(kind, channel, payload); Closed(None) when the socket ended, TimeoutError when nothing came."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            if len(self.buffer) >= 7:
                kind, channel, size = struct.unpack_from(">BHI", self.buffer)
                if len(self.buffer) >= size + 8:
                    payload = bytes(self.buffer[7 : 7 + size])
                    assert self.buffer[7 + size] == 0xCE, "the broker sent a wrong end octet"
                    del self.buffer[: size + 8]
                    return kind, channel, payload
            self._fill(deadline)

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing came from the broker")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise Closed()
        self.buffer += data

    def read_method(self, timeout_s=None, skip=()):
        """The next method as (channel, object); heartbeats and the kinds in `skip` are passed over."""
        while True:
            kind, channel, payload = self.read_frame(timeout_s)
            if kind == HEARTBEAT or kind in skip:
                continue
            assert kind == METHOD, f"frame of kind {kind} where a method is due"
            return channel, decode_method(payload)

    def expect(self, kind, timeout_s=None):
        """The next method, which has to be a `kind`; a connection.close comes out as `Closed`."""
        _, method = self.read_method(timeout_s)
        if isinstance(method, commands.Connection.Close) and kind is not commands.Connection.Close:
            raise Closed(method.reply_code, method.reply_text, (method.class_id, method.method_id))
        assert isinstance(method, kind), f"{method.name} where {kind.name} is due"
        return method

    def read_content(self, timeout_s=None):
        """(properties, body) of the content that follows a deliver, a get-ok or a return."""
        kind, _, payload = self.read_frame(timeout_s)
        assert kind == HEADER
        content = header.ContentHeader()
        content.unmarshal(payload)
        return content.properties, self.read_body(content.body_size, timeout_s)

    def read_body(self, size, timeout_s=None):
        data = bytearray()
        while len(data) < size:
            kind, _, payload = self.read_frame(timeout_s)
            assert kind == BODY
            data += payload
        return bytes(data)

    def read_all(self, timeout_s=None):
        """Every byte up to the end of the socket."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                self._fill(deadline)
            except Closed:
                return bytes(self.buffer)

    # The usual beginning

    def handshake(self, heartbeat=0, frame_max=131072, channel_max=2047, send=None):
        """Up to open-ok."""
        write = send or self.send
        write(PROTOCOL_HEADER)
        self.expect(commands.Connection.Start)
        write(frame.marshal(start_ok(self.server.user, self.server.password), 0))
        self.expect(commands.Connection.Tune)
        write(frame.marshal(commands.Connection.TuneOk(channel_max, frame_max, heartbeat), 0))
        write(frame.marshal(commands.Connection.Open("/"), 0))
        self.expect(commands.Connection.OpenOk)
        return self

    def open_channel(self, number=1):
        self.method(commands.Channel.Open(), number)
        self.expect(commands.Channel.OpenOk)
        return self

    def close(self):
        """An orderly end."""
        self.method(commands.Connection.Close(200, "done", 0, 0), 0)
        while not isinstance(self.read_method(skip=(HEADER, BODY))[1], commands.Connection.CloseOk):
            pass
        self.socket.close()

    # The end that garbage comes to

    def end(self, timeout_s=None):
        """How the broker ends this connection: `Closed`, with a code if it sent connection.close."""
        try:
            while True:
                _, method = self.read_method(timeout_s, skip=(HEADER, BODY))
                if isinstance(method, commands.Connection.Close):
                    self.send(frame.marshal(commands.Connection.CloseOk(), 0))
                    rest = self.read_all(timeout_s)
                    assert rest == b"", f"{rest!r} after connection.close"
                    return Closed(method.reply_code, method.reply_text, (method.class_id, method.method_id))
        except Closed as closed:
            return closed


def start_ok(user, password, capabilities=None):
    """PLAIN credentials, with the capabilities that most clients announce."""
    known = {
        "authentication_failure_close": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "basic.nack": True,
        "publisher_confirms": True,
    }
    properties = {"product": "raw", "capabilities": known if capabilities is None else capabilities}
    return commands.Connection.StartOk(properties, "PLAIN", f"\0{user}\0{password}", "en_US")


def raw_frame(kind, channel, payload, end=END):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def decode_method(payload):
    """pamqp's object of a method payload."""
    try:
        return frame.unmarshal(raw_frame(METHOD, 0, payload))[2]
    except pamqp.exceptions.UnmarshalingException as error:
        raise AssertionError(f"the broker sent a method that pamqp cannot read: {payload!r}") from error


def publish(queue, data, channel=1, properties=None, frame_max=131072, **arguments):
    """The frames of one publish through the default exchange."""
    method = commands.Basic.Publish(exchange="", routing_key=queue, **arguments)
    content = header.ContentHeader(body_size=len(data), properties=properties or commands.Basic.Properties())
    frames = [frame.marshal(method, channel), frame.marshal(content, channel)]
    step = frame_max - 8
    for start in range(0, len(data), step):
        frames.append(frame.marshal(body.ContentBody(data[start : start + step]), channel))
    return b"".join(frames)
