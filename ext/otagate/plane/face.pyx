"""The Python face of the plane: numbers and bytes in, numbers and bytes out.

The only module here that touches Python objects. `drain` runs without the GIL until its events are
complete and makes tuples of them then; `apply` reads its tuples first and writes to sockets, without the
GIL, afterwards. Contract: src/otagate/plane/face.pyi.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.fcntl cimport F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, O_CLOEXEC, O_NONBLOCK, O_RDONLY, fcntl, open
from posix.unistd cimport close

from otagate.wire.frames cimport OPCODE_BINARY, OPCODE_TEXT

from otagate.plane cimport state
from otagate.plane.context cimport (
    FAULT_AUTHORITIES, FAULT_CERTIFICATE, FAULT_KEY, FAULT_MEMORY, FAULT_NAMELESS, FAULT_NONE,
    FAULT_REVOCATIONS, FAULT_SAME_NAME, Credentials, Culprit, Fault, Pair, use_credentials,
)
from otagate.plane.commands cimport (
    flush_touched, order_admit, order_close, order_retry, order_send, order_stop, order_stream,
)
from otagate.plane.core cimport create_core, destroy_core, run
from otagate.plane.events cimport forget_events
from otagate.plane.listener cimport add_listener, drop_listeners
from otagate.plane.revocation cimport end_revoked
from otagate.plane.state cimport (
    CERTIFICATES_MAX, CHUNK_BITS_MIN, CHUNK_SIZES, EVENT_CLOSED, EVENT_ENDED, EVENT_HELLO, EVENT_STARTED,
    HTTP_HEAD_BYTES_MAX, NETWORKS_MAX, NONCE_BYTES, SLOT_MASK, TICKET_KEY_BYTES, TICKET_KEYS_MAX,
    Bounds, Connection, Core, Event, Image, Job, Security,
)
from otagate.plane.system cimport (
    AF_INET, INET6_ADDRSTRLEN, IPPROTO_TCP, SO_SNDBUF, SOL_SOCKET, TCP_NODELAY,
    fstat, getpeername, inet_ntop, ntohs, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socklen_t, stat_t,
)
from otagate.plane.table cimport find, has_turns
from otagate.plane.tls cimport create_tls
from otagate.plane.transfer cimport add_image, drop_image, find_image, set_digests
from otagate.plane.wheel cimport age_ms, read_clock, set_alarm, wake

import ipaddress
import os

from otagate import limits

cdef enum:
    COMMAND_SEND = 1
    COMMAND_SEND_BINARY = 2
    COMMAND_ADMIT = 3
    COMMAND_RETRY_HELLO = 4
    COMMAND_IMAGE = 5
    COMMAND_DIGESTS = 6
    COMMAND_DROP_IMAGE = 7
    COMMAND_STREAM = 8
    COMMAND_STOP = 9
    COMMAND_CLOSE = 10

# Items of each command's tuple, its kind included.
cdef Py_ssize_t* COMMAND_ITEMS = [0, 3, 3, 3, 2, 4, 4, 2, 9, 3, 4]

HELLO = state.EVENT_HELLO
MESSAGE = state.EVENT_MESSAGE
BINARY = state.EVENT_BINARY
CLOSED = state.EVENT_CLOSED
STARTED = state.EVENT_STARTED
ENDED = state.EVENT_ENDED

SEND = COMMAND_SEND
SEND_BINARY = COMMAND_SEND_BINARY
ADMIT = COMMAND_ADMIT
RETRY_HELLO = COMMAND_RETRY_HELLO
IMAGE = COMMAND_IMAGE
DIGESTS = COMMAND_DIGESTS
DROP_IMAGE = COMMAND_DROP_IMAGE
STREAM = COMMAND_STREAM
STOP = COMMAND_STOP
CLOSE = COMMAND_CLOSE

DONE = state.END_DONE
STOPPED = state.END_STOPPED
REPLACED = state.END_REPLACED
FAILED = state.END_FAILED

TLS_OFF = state.TLS_OFF
TLS_OPTIONAL = state.TLS_OPTIONAL
TLS_REQUIRED = state.TLS_REQUIRED

WEBSOCKET = state.LINK_WEBSOCKET
TCP = state.LINK_TCP

LOST = state.CODE_LOST
SILENT = state.CODE_SILENT
STALLED = state.CODE_STALLED
OVERFLOWED = state.CODE_OVERFLOWED
IMAGE_UNREADABLE = state.CODE_IMAGE

CONNECTION_BYTES = sizeof(Connection)

CAUSE_NAMES = {
    state.CAUSE_PEER: "peer",
    state.CAUSE_LOST: "lost",
    state.CAUSE_COMMANDED: "commanded",
    state.CAUSE_BROKEN: "broken",
    state.CAUSE_SILENT: "silent",
    state.CAUSE_STALLED: "stalled",
    state.CAUSE_OVERFLOWED: "overflowed",
    state.CAUSE_HANDSHAKE_TIMEOUT: "handshake_timeout",
    state.CAUSE_HELLO_TIMEOUT: "hello_timeout",
    state.CAUSE_REFUSED_HEAD: "refused_head",
    state.CAUSE_REFUSED_TLS: "refused_tls",
    state.CAUSE_REFUSED_PROXY: "refused_proxy",
    state.CAUSE_REFUSED_BYTE: "refused_byte",
    state.CAUSE_IMAGE: "image",
    state.CAUSE_MEMORY: "memory",
    state.CAUSE_TLS: "tls",
    state.CAUSE_REFUSED_PLAIN: "refused_plain",
    state.CAUSE_REFUSED_STRANGER: "refused_stranger",
    state.CAUSE_REVOKED: "revoked",
}

NAME_KINDS = {"cn": state.NAME_CN, "uri": state.NAME_URI, "dns": state.NAME_DNS}

FAULTS = {
    FAULT_CERTIFICATE: "the certificate",
    FAULT_KEY: "the key",
    FAULT_AUTHORITIES: "the authorities",
    FAULT_REVOCATIONS: "the revocations",
}


cdef OSError error_of(int number):
    return OSError(number, os.strerror(number))


cdef int give_pair(Pair* pair, bytes certificate, bytes key) except -1:
    pair.certificate = <const uint8_t*>PyBytes_AS_STRING(certificate)
    pair.certificate_size = <uint32_t>PyBytes_GET_SIZE(certificate)
    pair.key = <const uint8_t*>PyBytes_AS_STRING(key)
    pair.key_size = <uint32_t>PyBytes_GET_SIZE(key)
    return 0


cdef Exception fault_of(Fault fault, const Culprit* culprit, list labels):
    """labels: what each pair is called; the first is not called anything."""
    if fault == FAULT_MEMORY:
        return MemoryError()
    label = labels[culprit.pair]
    if fault == FAULT_NAMELESS:
        return ValueError(f"the certificate of {label} has no DNS name")
    if fault == FAULT_SAME_NAME:
        name = (<const char*>culprit.host.name)[:culprit.host.size].decode("latin-1")
        one = f"the certificate of {label}" if label else "the first certificate"
        return ValueError(f"{one} and that of {labels[culprit.other]} both have the name {name}")
    words = (<bytes>culprit.reason).decode() if culprit.reason != NULL else "not PEM"
    part = FAULTS[<int>fault]
    if label and fault in (FAULT_CERTIFICATE, FAULT_KEY):
        part = f"{part} of {label}"
    return ValueError(f"{part} cannot be used: {words}")


# -- events ----------------------------------------------------------------------------------------

cdef bytes certificate_of(Core* core, uint64_t number):
    cdef Connection* connection = find(core, number)
    if connection == NULL or connection.below == NULL or connection.below.certificate == NULL:
        return b""
    return PyBytes_FromStringAndSize(
        <const char*>connection.below.certificate, connection.below.certificate_size
    )


cdef tuple make_tuple(Core* core, const Event* event):
    cdef object payload
    if event.kind == EVENT_CLOSED:
        return (event.kind, event.connection, event.identity.device, event.code)
    if event.kind == EVENT_STARTED:
        return (event.kind, event.connection, event.identity.device, event.transfer)
    if event.kind == EVENT_ENDED:
        return (event.kind, event.connection, event.identity.device, event.transfer, event.code)
    payload = PyBytes_FromStringAndSize(<const char*>event.payload, <Py_ssize_t>event.size)
    if event.kind == EVENT_HELLO:
        return (
            event.kind, event.connection, payload, event.identity.nonce[:NONCE_BYTES].hex().encode(),
            certificate_of(core, event.connection),
        )
    return (event.kind, event.connection, event.identity.device, payload)


cdef list take_events(Core* core):
    cdef uint32_t count = min(core.events_size, core.bounds.events_max)
    cdef uint32_t i
    cdef list taken = []
    for i in range(count):
        taken.append(make_tuple(core, core.events + i))
    forget_events(core, count)
    return taken


# -- commands --------------------------------------------------------------------------------------

cdef int chunk_size_of(uint64_t size) except -1:
    if size & (size - 1) or not 1 << CHUNK_BITS_MIN <= size < 1 << CHUNK_BITS_MIN + CHUNK_SIZES:
        raise ValueError(f"a chunk size is a power of two from 256 bytes to 256 KiB, not {size}")
    return <int>size


cdef int open_image(Core* core, uint64_t number, bytes path, uint64_t size) except -1:
    cdef int fd
    cdef stat_t found
    if find_image(core, number) != NULL:
        raise ValueError(f"image {number} is there already")
    fd = open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC)
    if fd >= 0 and (fstat(fd, &found) < 0 or <uint64_t>found.st_size < size):
        close(fd)
        fd = -1
    if add_image(core, number, fd, size) == NULL:
        close(fd)
        raise MemoryError
    return 0


cdef int add_digests(Core* core, uint64_t number, uint64_t chunk_size, bytes table) except -1:
    cdef Image* image = find_image(core, number)
    cdef uint64_t size = chunk_size_of(chunk_size)
    if image == NULL:
        return 0  # dropped while the digests were being computed
    if <uint64_t>PyBytes_GET_SIZE(table) != 4 * ((image.size + size - 1) // size):
        raise ValueError(f"a table of {len(table)} bytes does not fit {image.size} bytes in chunks of {size}")
    if set_digests(image, <uint32_t>size, <const uint8_t*>PyBytes_AS_STRING(table), len(table)) < 0:
        raise MemoryError
    return 0


cdef int stream(Core* core, tuple command) except -1:
    cdef Job job
    memset(&job, 0, sizeof(job))
    job.transfer = command[2]
    job.offset = command[4]
    job.end = command[5]
    job.chunk_size = chunk_size_of(command[6])
    job.head_xxh32 = command[7]
    job.tail_xxh32 = command[8]
    order_stream(core, command[1], command[3], &job)
    return 0


cdef int carry_out(Core* core, tuple command) except -1:
    cdef int kind = command[0] if command else 0
    cdef uint64_t number  # of a connection; of an image
    cdef bytes payload
    cdef Image* image
    if not COMMAND_SEND <= kind <= COMMAND_CLOSE or len(command) != COMMAND_ITEMS[kind]:
        raise ValueError(f"not a command: {command!r}")
    number = command[1]
    if kind == COMMAND_SEND or kind == COMMAND_SEND_BINARY:
        payload = command[2]
        order_send(
            core, number, OPCODE_TEXT if kind == COMMAND_SEND else OPCODE_BINARY,
            <const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload),
        )
    elif kind == COMMAND_ADMIT:
        order_admit(core, number, command[2])
    elif kind == COMMAND_RETRY_HELLO:
        order_retry(core, number)
    elif kind == COMMAND_STREAM:
        stream(core, command)
    elif kind == COMMAND_STOP:
        order_stop(core, number, command[2])
    elif kind == COMMAND_CLOSE:
        payload = command[3]
        order_close(
            core, number, command[2], <const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)
        )
    elif kind == COMMAND_IMAGE:
        open_image(core, number, command[2], command[3])
    elif kind == COMMAND_DIGESTS:
        add_digests(core, number, command[2], command[3])
    elif kind == COMMAND_DROP_IMAGE:
        image = find_image(core, number)
        if image != NULL:
            drop_image(core, image)
    return 0


# -- the plane -------------------------------------------------------------------------------------

cdef str address_of(Connection* connection):
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef char text[INET6_ADDRSTRLEN]
    if connection.below != NULL and connection.below.family:
        inet_ntop(connection.below.family, connection.below.address, text, sizeof(text))
        if connection.below.family == AF_INET:
            return f"{text.decode()}:{connection.below.port}"
        return f"[{text.decode()}]:{connection.below.port}"
    if getpeername(connection.fd, <sockaddr*>&storage, &size) < 0:
        return ""
    if storage.ss_family == AF_INET:
        inet_ntop(storage.ss_family, &(<sockaddr_in*>&storage).sin_addr, text, sizeof(text))
        return f"{text.decode()}:{ntohs((<sockaddr_in*>&storage).sin_port)}"
    inet_ntop(storage.ss_family, &(<sockaddr_in6*>&storage).sin6_addr, text, sizeof(text))
    return f"[{text.decode()}]:{ntohs((<sockaddr_in6*>&storage).sin6_port)}"


cdef class Plane:
    """Every device socket of this process, behind one epoll descriptor (see face.pyi)."""

    cdef Core* core

    def __cinit__(
        self,
        *,
        connections_max,
        transfers_max,
        heartbeat_timeout_ms,
        handshake_timeout_ms=limits.handshake_timeout_ms,
        hello_timeout_ms=limits.hello_timeout_ms,
        write_stall_timeout_ms=limits.write_stall_timeout_ms,
        close_timeout_ms=limits.close_timeout_ms,
        http_head_bytes_max=limits.http_head_bytes_max,
        hello_bytes_max=limits.hello_bytes_max,
        message_bytes_max=None,
        connection_output_bytes_max=None,
        connection_sndbuf_bytes=limits.connection_sndbuf_bytes,
        streaming_sndbuf_bytes=limits.streaming_sndbuf_bytes,
        turn_messages_max=limits.turn_messages_max,
        turn_sendfile_bytes_max=limits.turn_sendfile_bytes_max,
        drain_handshakes_max=limits.drain_handshakes_max,
        drain_stream_ns=limits.drain_stream_ns,
        drain_events_max=limits.drain_events_max,
        strangers_per_address_max=limits.strangers_per_address_max,
        bint echo=False,
    ):
        cdef Bounds bounds
        cdef int failure = 0
        if message_bytes_max is None:
            message_bytes_max = limits.echo_message_bytes_max if echo else limits.message_bytes_max
        if connection_output_bytes_max is None:
            # An echo queues what one turn read: one message that came in parts, and small ones behind it.
            connection_output_bytes_max = (
                2 * message_bytes_max if echo else limits.connection_output_bytes_max
            )
        assert 0 < connections_max <= SLOT_MASK
        assert 0 < transfers_max
        assert 0 < http_head_bytes_max <= HTTP_HEAD_BYTES_MAX
        assert 0 < turn_messages_max
        assert 0 < turn_sendfile_bytes_max
        assert 0 < drain_events_max
        assert 0 < drain_handshakes_max
        assert 0 <= drain_stream_ns
        assert 0 <= streaming_sndbuf_bytes < 1 << 31
        assert connection_output_bytes_max < 2**31
        assert 0 < strangers_per_address_max < 2**16
        bounds.connections_max = connections_max
        bounds.transfers_max = transfers_max
        bounds.heartbeat_timeout_ms = heartbeat_timeout_ms
        bounds.handshake_timeout_ms = handshake_timeout_ms
        bounds.hello_timeout_ms = hello_timeout_ms
        bounds.write_stall_timeout_ms = write_stall_timeout_ms
        bounds.close_timeout_ms = close_timeout_ms
        bounds.hello_bytes_max = hello_bytes_max
        bounds.message_bytes_max = message_bytes_max
        bounds.output_bytes_max = connection_output_bytes_max
        bounds.http_head_bytes_max = http_head_bytes_max
        bounds.turn_messages_max = turn_messages_max
        bounds.turn_sendfile_bytes_max = turn_sendfile_bytes_max
        bounds.events_max = drain_events_max
        bounds.strangers_per_address_max = strangers_per_address_max
        bounds.handshakes_max = drain_handshakes_max
        bounds.stream_ns = drain_stream_ns
        bounds.sndbuf_bytes = connection_sndbuf_bytes
        bounds.streaming_sndbuf_bytes = streaming_sndbuf_bytes
        bounds.echo = echo
        self.core = create_core(&bounds, &failure)
        if self.core == NULL:
            raise error_of(failure)

    def __dealloc__(self):
        self.close()

    cdef Core* opened(self) except NULL:
        if self.core == NULL:
            raise ValueError("the plane is closed")
        return self.core

    def listen(self, int fd, int security=state.TLS_OFF):
        cdef Core* core = self.opened()
        cdef int failure
        cdef int one = 1
        cdef int sndbuf = min(<int>core.bounds.output_bytes_max, core.bounds.sndbuf_bytes)
        cdef int copy
        if not state.TLS_OFF <= security <= state.TLS_REQUIRED:
            raise ValueError(f"not a security of a listener: {security}")
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if copy < 0:
            raise error_of(errno)
        fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK)
        # Connections inherit both. Without a bound the kernel takes 4 MiB for whoever asks and does not read.
        setsockopt(copy, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        setsockopt(copy, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf))
        failure = add_listener(core, copy, <Security>security)
        if failure:
            close(copy)
            raise error_of(failure)

    def tls(
        self,
        bytes certificate not None,
        bytes key not None,
        *,
        dict more not None={},
        bytes authorities not None=b"",
        bytes revocations not None=b"",
        client_certificates="off",
        certificate_name="cn",
    ):
        cdef Core* core = self.opened()
        cdef Credentials given
        cdef Culprit culprit
        cdef Fault fault
        cdef list pairs = [(certificate, key), *more.values()]
        if client_certificates not in ("off", "optional", "required"):
            raise ValueError(
                f"client certificates are off, optional or required, not {client_certificates!r}"
            )
        if len(pairs) > CERTIFICATES_MAX:
            raise ValueError(f"at most {CERTIFICATES_MAX - 1} more certificates")
        for i, (certificate, key) in enumerate(pairs):
            give_pair(&given.pairs[<int>i], certificate, key)
        given.pairs_count = <uint32_t>len(pairs)
        given.authorities = <const uint8_t*>PyBytes_AS_STRING(authorities)
        given.authorities_size = <uint32_t>PyBytes_GET_SIZE(authorities)
        given.revocations = <const uint8_t*>PyBytes_AS_STRING(revocations)
        given.revocations_size = <uint32_t>PyBytes_GET_SIZE(revocations)
        given.ask = client_certificates != "off"
        given.insist = client_certificates == "required"
        given.name_kind = NAME_KINDS[certificate_name]
        if create_tls(core) < 0:
            raise MemoryError
        if core.tls.ticket_keys_count == 0:
            self.ticket_keys(os.urandom(TICKET_KEY_BYTES))
        fault = use_credentials(core, &given, &culprit)
        if fault != FAULT_NONE:
            raise fault_of(fault, &culprit, ["", *more])
        read_clock(core)
        if given.revocations_size and end_revoked(core, given.revocations, given.revocations_size) < 0:
            raise MemoryError
        with nogil:
            flush_touched(core)

    def ticket_keys(self, bytes keys not None):
        cdef Core* core = self.opened()
        cdef Py_ssize_t size = PyBytes_GET_SIZE(keys)
        if size == 0 or size % TICKET_KEY_BYTES or size > TICKET_KEYS_MAX * TICKET_KEY_BYTES:
            raise ValueError("ticket keys are one to three times 80 bytes")
        memcpy(core.tls.ticket_keys, PyBytes_AS_STRING(keys), size)
        core.tls.ticket_keys_count = <uint32_t>(size // TICKET_KEY_BYTES)

    def trust_proxies(self, networks):
        cdef Core* core = self.opened()
        cdef bytes address
        found = [ipaddress.ip_network(network) for network in networks]
        if len(found) > NETWORKS_MAX:
            raise ValueError(f"at most {NETWORKS_MAX} networks")
        for i, network in enumerate(found):
            address, bits = network.network_address.packed, network.prefixlen
            if network.version == 4:
                address, bits = bytes(10) + b"\xff\xff" + address, bits + 96
            memcpy(core.networks[<int>i].address, PyBytes_AS_STRING(address), 16)
            core.networks[<int>i].bits = bits
        core.networks_count = len(found)

    def unlisten(self):
        drop_listeners(self.opened())

    def fileno(self):
        return self.opened().epoll

    def drain(self, int64_t budget_ns=limits.drain_budget_ns):
        cdef Core* core = self.opened()
        with nogil:
            run(core, budget_ns)
        return take_events(core)

    @property
    def pending(self):
        cdef Core* core = self.opened()
        return has_turns(core) or core.events_size > 0

    def apply(self, list commands not None):
        cdef Core* core = self.opened()
        cdef tuple command
        read_clock(core)
        try:
            for command in commands:
                carry_out(core, command)
        finally:
            with nogil:
                flush_touched(core)

    def statistics(self):
        cdef Core* core = self.opened()
        counted = {
            "connections": core.count,
            "connections_websocket": core.counters.live[<int>state.LINK_WEBSOCKET],
            "connections_tcp": core.counters.live[<int>state.LINK_TCP],
            "connections_tls": core.counters.live_tls,
            "accepted": core.counters.accepted,
            "refused_strangers": core.counters.refused_strangers,
            "accept_failures": core.counters.accept_failures,
            "resting": int(core.resting),
            "opened_websocket": core.counters.opened[<int>state.LINK_WEBSOCKET],
            "opened_tcp": core.counters.opened[<int>state.LINK_TCP],
            "tls_handshakes": core.counters.handshakes,
            "tls_resumptions": core.counters.resumptions,
            "bytes_in": core.counters.bytes_in,
            "bytes_out": core.counters.bytes_out,
            "bytes_streamed": core.counters.bytes_streamed,
            "messages_in": core.counters.messages_in,
            "messages_out": core.counters.messages_out,
            "pings": core.counters.pings,
            "transfers_running": core.running,
            "transfers_waiting": core.waiting,
            "transfers_started": core.counters.transfers_started,
            "transfers_ended": core.counters.transfers_ended,
        }
        for cause, name in CAUSE_NAMES.items():
            counted["ended_" + name] = core.counters.ended[<int>cause]
        return counted

    def last_seen_ms(self, uint64_t conn):
        cdef Connection* connection = find(self.opened(), conn)
        if connection == NULL or connection.link == state.LINK_UNKNOWN:
            return -1
        read_clock(self.core)
        return age_ms(self.core, connection.seen)

    def connection_info(self, uint64_t conn):
        cdef Connection* connection = find(self.opened(), conn)
        if connection == NULL:
            return None
        return connection.link, address_of(connection)

    def wake_after(self, int64_t ms):
        set_alarm(self.opened(), max(ms, 1) * 1_000_000)

    def advance_clock(self, int64_t ms):
        cdef Core* core = self.opened()
        core.clock_offset_ms += ms
        wake(core)

    def limit_writes(self, uint32_t bytes_max):
        self.opened().write_bytes_max = bytes_max

    def close(self):
        if self.core != NULL:
            destroy_core(self.core)
            self.core = NULL
