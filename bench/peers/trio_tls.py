"""TLS as Trio has it, which answers whatever is said: `python trio_tls.py PORT CERTS`."""

import ssl
import sys

import trio

ANSWER = b'{"type":"ack","id":"0000000000000000"}'


async def main() -> None:
    """Serve until killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{sys.argv[2]}/server.pem", f"{sys.argv[2]}/server.key")
    context.options |= ssl.OP_NO_COMPRESSION

    async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
        """A connection's life."""
        try:
            async with stream:
                async for _ in stream:
                    await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass

    await trio.serve_ssl_over_tcp(
        handler, int(sys.argv[1]), context, host="127.0.0.1", backlog=4096, https_compatible=True
    )


trio.run(main)
