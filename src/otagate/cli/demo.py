"""`otagate demo`: the whole job on this machine, from an empty store to a batch in which all succeeded.

What runs are the real programs: `otagate serve` in a process of its own on a store on disk, `otagate
simulate` in others; this process is the operator and uses the API alone. Success is judged by the API: the
batch has completed, every device succeeded, and every device reports the new version.
"""

import argparse
import shutil
import signal
import tempfile
from pathlib import Path

from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import add_command, count, quantity

UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `demo`."""
    parser = add_command(commands, "demo", "a gateway and simulated devices: one upgrade of them all")
    parser.add_argument("--devices", type=count, default=100, metavar="N", help="half on each link (100)")
    parser.add_argument(
        "--size",
        type=quantity("a size as 64KiB or 1000000", _size),
        default=1024**2,
        metavar="BYTES",
        help="of the firmware (1MiB)",
    )
    parser.add_argument(
        "--chaos", action="store_true", help="kill -9 and restart the gateway midway, break connections"
    )
    parser.add_argument("--keep", action="store_true", help="leave gateway and devices running until Ctrl-C")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="store, images and logs; kept (default: a temporary one)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit.OK only if every device succeeded. Ends everything that it started."""
    import trio

    if arguments.data is not None:
        folder = arguments.data
        if folder.exists() and any(folder.iterdir()):
            raise CommandError(f"{folder} is not empty", Exit.USAGE)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="otagate-demo-"))
    try:
        return trio.run(_demo, arguments, folder)
    finally:
        if arguments.data is None:
            shutil.rmtree(folder, ignore_errors=True)


async def _demo(arguments: argparse.Namespace, folder: Path) -> int:
    """The campaign, unless a signal comes first."""
    import trio

    from otagate.cli.campaign import Campaign

    campaign = Campaign(folder, devices=arguments.devices, size=arguments.size, chaos=arguments.chaos)
    code = Exit.INTERRUPTED
    failure: CommandError | None = None
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def run_campaign() -> None:
                nonlocal code, failure
                try:
                    code = Exit.OK if await campaign.run() else Exit.FAILED
                    if arguments.keep:
                        campaign.tell_where()
                        await trio.sleep_forever()
                except CommandError as error:
                    failure = error
                finally:
                    await campaign.stop()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run_campaign)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return code


def _size(text: str) -> int:
    unit = text.lstrip("0123456789")
    value = int(text.removesuffix(unit)) * UNITS.get(unit, 0)
    if value < 1:
        raise ValueError(text)
    return value
