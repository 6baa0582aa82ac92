"""`otagate simulate`: devices that are not there, for trying things. One line per fact on stderr."""

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import add_command, count, seconds

if TYPE_CHECKING:
    from otagate.cli.fleet import Behaviour, Identity

FAILURES = (  # those of sdk.devices, and push_failed: upgrade messages are not acknowledged
    "push_failed",
    "download_failed",
    "verification_failed",
    "burn_failed",
    "other",
    "wrong_version",
    "upgrade_timeout",
)
DESCRIPTORS_BESIDE = 64  # open files that are no device's connection


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `simulate`."""
    parser = add_command(commands, "simulate", "run simulated devices")
    who = parser.add_argument_group("who")
    who.add_argument("--url", help="ws://HOST:PORT/device, tcp://HOST:PORT, wss://… or tls://…")
    who.add_argument("--product", help="key of the product")
    who.add_argument("--device", help="identifier; with --count, {} in it becomes 1, 2, …")
    who.add_argument("--secret", help="as it was shown at registration; --cert may do without")
    who.add_argument("--version", default="1.0.0", help="the version that runs at first (1.0.0)")
    who.add_argument("--count", type=count, metavar="N", help="so many devices, with the same secret")
    who.add_argument(
        "--devices",
        type=Path,
        metavar="FILE",
        help="devices from NDJSON or .csv (identifier, secret, and product, version, url unless given here); "
        "what `otagate device register` prints will do; - is stdin",
    )
    how = parser.add_argument_group("how they behave")
    how.add_argument("--fail", choices=FAILURES, metavar="REASON", help=", ".join(FAILURES))
    how.add_argument(
        "--silent-delay", type=seconds, default=0.0, metavar="SECONDS", help="silent policy: begin after"
    )
    how.add_argument("--burn-time", type=seconds, default=0.0, metavar="SECONDS")
    how.add_argument("--reboot-time", type=seconds, default=0.0, metavar="SECONDS")
    how.add_argument(
        "--drop-every", metavar="LIMIT", help="connections break after about so much: 30s, 500KB, 2MiB"
    )
    how.add_argument(
        "--back-off-cap",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="longest span of the back-off (60)",
    )
    how.add_argument("--mutual", action="store_true", help="the gateway must prove that it knows the secret")
    how.add_argument("--ca", type=Path, metavar="FILE", help="certificates that wss:// and tls:// trust")
    how.add_argument(
        "--cert", type=Path, metavar="FILE", help="the devices' certificate for wss:// and tls://"
    )
    how.add_argument("--key", type=Path, metavar="FILE", help="its private key")
    how.add_argument(
        "--trust",
        type=Path,
        action="append",
        metavar="FILE",
        help="public key: take only firmware that it has signed; may be repeated",
    )
    how.add_argument("--seed", help="makes every delay repeatable")
    parser.add_argument("--quiet", action="store_true", help="only warnings")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Until SIGINT or SIGTERM. A single device that the gateway refuses ends with Exit.REFUSED."""
    import trio

    from otagate import logs

    logs.configure("warning" if arguments.quiet else "info", "text")
    fleet = _fleet(arguments)
    behaviour = _behaviour(arguments, single=len(fleet) == 1)
    _allow_descriptors(len(fleet))
    return trio.run(_simulate, fleet, behaviour, arguments.quiet)


async def _simulate(fleet: "list[Identity]", behaviour: "Behaviour", quiet: bool) -> int:
    import trio

    from otagate import logs
    from otagate.cli.fleet import run_fleet
    from otagate.sdk.client import Refused
    from otagate.sdk.effects import Note

    log = logs.get("simulate")

    def tell(identifier: str, note: Note) -> None:
        log.info(note.event, device=identifier, **note.facts)

    code = Exit.OK
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def run_devices() -> None:
                try:
                    await run_fleet(fleet, behaviour, None if quiet else tell)
                except* Refused as group:
                    log.error("refused", message=str(group.exceptions[0]))
                    nonlocal code
                    code = Exit.REFUSED
                nursery.cancel_scope.cancel()

            nursery.start_soon(run_devices)
            async for number in signals:
                code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.OK
                nursery.cancel_scope.cancel()
    return code


def _fleet(arguments: argparse.Namespace) -> "list[Identity]":
    from otagate.cli.fleet import Identity, read_fleet
    from otagate.sdk.links import parse_url

    defaults = {name: getattr(arguments, name) for name in ("product", "version", "url")}
    defaults = {name: value for name, value in defaults.items() if value is not None}
    if arguments.devices is not None:
        fleet = list(read_fleet(arguments.devices, defaults))
    else:
        needed = ["url", "product", "device"]
        if arguments.cert is None or arguments.mutual:
            needed.append("secret")
        missing = [name for name in needed if getattr(arguments, name) is None]
        if missing:
            raise CommandError("missing " + ", ".join(f"--{name}" for name in missing), Exit.USAGE)
        names = [arguments.device]
        if arguments.count is not None:
            pattern = arguments.device if "{}" in arguments.device else arguments.device + "-{}"
            names = [pattern.replace("{}", str(number)) for number in range(1, arguments.count + 1)]
        fleet = [Identity(identifier=name, secret=arguments.secret, **defaults) for name in names]
    try:
        for url in {identity.url for identity in fleet}:
            parse_url(url)
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error
    return fleet


def _behaviour(arguments: argparse.Namespace, *, single: bool) -> "Behaviour":
    import ssl

    from otagate.cli.fleet import Behaviour
    from otagate.sdk.simulation import Drops

    drops = context = trust = None
    if arguments.trust:
        from otagate.cli.signing import read_public_key
        from otagate.sdk.trust import Trust

        trust = Trust([read_public_key(path) for path in arguments.trust])
    if arguments.drop_every is not None:
        try:
            drops = Drops.parse(arguments.drop_every)
        except ValueError as error:
            raise CommandError(f"--drop-every {error} is none of 30s, 500KB, 2MiB", Exit.USAGE) from error
    if arguments.key is not None and arguments.cert is None:
        raise CommandError("--key needs --cert", Exit.USAGE)
    if arguments.ca is not None or arguments.cert is not None:
        try:
            context = ssl.create_default_context(cafile=arguments.ca)
        except OSError as error:
            raise CommandError(f"cannot read --ca {arguments.ca}: {error.strerror}", Exit.USAGE) from error
    if context is not None and arguments.cert is not None:
        try:
            context.load_cert_chain(arguments.cert, arguments.key)
        except OSError as error:
            message = f"cannot use --cert {arguments.cert}: {error.strerror or error}"
            raise CommandError(message, Exit.USAGE) from error
    return Behaviour(
        failure=arguments.fail,
        choose_s=arguments.silent_delay,
        burn_s=arguments.burn_time,
        reboot_s=arguments.reboot_time,
        drops=drops,
        mutual=arguments.mutual,
        back_off_cap_s=arguments.back_off_cap,
        context=context,
        seed=arguments.seed,
        stop_when_refused=single,
        trust=trust,
    )


def _allow_descriptors(devices: int) -> None:
    """A connection is an open file; the soft limit is often 1,024, the hard one is ours to use."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = devices + DESCRIPTORS_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise CommandError(f"{devices} devices need {wanted} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
