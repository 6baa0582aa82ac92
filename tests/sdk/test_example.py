"""The example of the device makers' guide does what the guide says."""

import os
import sys
from pathlib import Path

import pytest
import trio

from otagate.wire import messages

from .gateway import SECRET, TcpPeer, upgrade

PROGRAM = Path(__file__).parent.parent.parent / "docs" / "example_device.py"
IMAGE = b"LAMP" + bytes(100_000)


def test_it_is_short() -> None:
    assert len(PROGRAM.read_text().splitlines()) < 60


@pytest.mark.parametrize("image", [IMAGE, b"TREE" + bytes(1000)], ids=["lamp", "tree"])
async def test_an_upgrade(tmp_path: Path, nursery: trio.Nursery, image: bytes) -> None:
    secret_file, target = tmp_path / "secret", tmp_path / "image"
    secret_file.write_text(SECRET + "\n")
    hellos: list[messages.Hello] = []
    results: list[messages.Result] = []
    done = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        peer = TcpPeer(stream)
        hellos.append(await peer.login())
        if len(hellos) == 2:
            done.set()
            return
        await peer.send(upgrade(image=image))
        while (message := await peer.receive()) is not None:
            if isinstance(message, messages.Fetch):
                await peer.stream_image(message, image)
            elif isinstance(message, messages.Result):
                results.append(message)
                done.set()
            elif message.id is not None:
                await peer.send(messages.Ack(id=message.id))

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    url = f"tcp://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    command = [sys.executable, str(PROGRAM), url, "lamp", "d0", str(secret_file), str(target)]
    with (tmp_path / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(command, stderr=log, env={**os.environ})
        try:
            await done.wait()
        finally:
            process.kill()
            await process.wait()
    nursery.cancel_scope.cancel()
    assert (tmp_path / "log").read_text().startswith("logged_in version=1.0.0\nreceived batch=b1")
    assert hellos[0].version == "1.0.0"
    if image is IMAGE:
        assert target.read_bytes() == IMAGE
        assert hellos[1].version == "2.0"
    else:
        assert not target.exists()
        assert (results[0].reason, results[0].detail) == (
            "verification_failed",
            "this is no image for a lamp",
        )
