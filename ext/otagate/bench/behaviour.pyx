"""What a simulated device does, message by message: login, upgrades, downloads, and the work it is set to.

Requests that are answered in order (acknowledgements carry their number back, which is checked) are a ring
of the times at which they were sent; so the time of every single answer is measured.

Faults are drawn per device from the seed: the same seed and shares give the same devices the same faults.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, strlen

from otagate.bench.common cimport line_push, mixed, protocol_error, random_number
from otagate.bench.download cimport download_begin, md5_is_right
from otagate.bench.histogram cimport histogram_add, tally
from otagate.bench.scan cimport Fields, Span, field, scan_object, span_is, span_number
from otagate.bench.sockets cimport (
    abort_connection, connect_soon, disconnect, opened, put, put_frame, send_out, timer_start,
)
from otagate.bench.state cimport (
    DEPTH_MAX, FAULT_CORRUPT, FAULT_DROP, FAULT_FAIL, FAULT_SILENT, FAULT_SLOW, FAULT_STORM, LINK_HTTP,
    LINK_MQTT, LINK_TCP, LINK_WEBSOCKET, PHASE_HANDSHAKE, PHASE_LOGIN, PHASE_OPEN, REPORT_BYTES, TIMER_CONNECT,
    WORK_CAMPAIGN, WORK_REPORT, WORK_REQUESTS, WORK_STREAM, WORK_TRANSITIONS, WORK_VERSIONS, Device, Engine,
    Upgrade,
)
from otagate.bench.system cimport HMAC, EVP_sha256
from otagate.wire.frames cimport OPCODE_TEXT

cdef enum:
    MESSAGE_BYTES_MAX = 1400
    STORM_RECONNECTS = 5
    SEQUENCE_CHARS = 16
    MILLISECOND_NS = 1000000

cdef const char* HEXADECIMAL = b"0123456789abcdef"
cdef const char* BROKEN = b'{"type":"progress","batch":"b1","attempt":1,'

# The key is the RFC's own example: its answer is known (RFC 6455 section 1.3).
cdef const char* HANDSHAKE = (
    b"GET /device HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
cdef const char* NOTHING = b""
cdef const char* SUBPROTOCOL = b"Sec-WebSocket-Protocol: otagate.v1\r\n"


# -- requests in flight ------------------------------------------------------------------------------

cdef void request_sent(Engine* engine, Device* device) noexcept nogil:
    device.sent_ns[(device.sequence + device.in_flight) % DEPTH_MAX] = engine.now_ns
    device.in_flight += 1


cdef void request_answered(Engine* engine, Device* device) noexcept nogil:
    histogram_add(&engine.answer_ns, engine.now_ns - device.sent_ns[device.sequence % DEPTH_MAX])
    tally(&engine.counters.answers, engine.now_ns)
    device.sequence += 1
    device.in_flight -= 1


cdef void write_hexadecimal(uint8_t* out, uint64_t number) noexcept nogil:
    cdef int i
    for i in range(SEQUENCE_CHARS - 1, -1, -1):
        out[i] = HEXADECIMAL[number & 15]
        number >>= 4


cdef void send_text(Engine* engine, Device* device, const char* text, int size) noexcept nogil:
    put_frame(engine, device, OPCODE_TEXT, <const uint8_t*>text, size)


cdef void send_attempt(
    Engine* engine, Device* device, const char* kind, const char* rest, bint asks
) noexcept nogil:
    """A message about the attempt; with an id, if its answer is awaited."""
    cdef char text[MESSAGE_BYTES_MAX]
    cdef char identity[40]
    cdef int size
    identity[0] = 0
    if asks:
        snprintf(
            identity, sizeof(identity), b',"id":"%016llx"',
            <unsigned long long>(device.sequence + device.in_flight),
        )
        request_sent(engine, device)
    size = snprintf(
        text, sizeof(text), b'{"type":"%s","batch":"%.*s","attempt":%llu%s%s}', kind,
        <int>device.upgrade.batch_size, <const char*>device.upgrade.batch,
        <unsigned long long>device.upgrade.attempt, rest, identity,
    )
    send_text(engine, device, text, size)


cdef void stand_in_line(Engine* engine, Device* device) noexcept nogil:
    if not device.waits:
        device.waits = True
        line_push(&engine.to_send, <uint32_t>(device - engine.devices))


# -- opening and login -------------------------------------------------------------------------------

cdef void on_connected(Engine* engine, Device* device) noexcept nogil:
    cdef char text[MESSAGE_BYTES_MAX]
    cdef int size
    if device.link == LINK_WEBSOCKET:
        size = snprintf(text, sizeof(text), HANDSHAKE, SUBPROTOCOL if engine.settings.login else NOTHING)
        put(engine, <const uint8_t*>text, size)
        device.phase = PHASE_HANDSHAKE
    elif device.link == LINK_TCP:
        if engine.settings.login:
            put(engine, <const uint8_t*>b"OTG\x01", 4)
        on_handshake(engine, device)
    elif device.link == LINK_HTTP:
        device.phase = PHASE_HANDSHAKE
        put(engine, engine.settings.request, engine.settings.request_size)
    elif device.link == LINK_MQTT:
        device.phase = PHASE_HANDSHAKE
        # CONNECT: MQTT 3.1.1, clean session, keep alive 600 s, a client id of its own (section 3.1)
        size = snprintf(text + 14, 32, b"%08x", device.number)
        memcpy(text, b"\x10\x14\x00\x04MQTT\x04\x02\x02\x58\x00\x08", 14)
        put(engine, <const uint8_t*>text, 14 + size)


cdef void on_handshake(Engine* engine, Device* device) noexcept nogil:
    tally(&engine.counters.opened, engine.now_ns)
    if engine.settings.login:
        device.phase = PHASE_LOGIN
        return
    device.phase = PHASE_OPEN
    opened(engine, device)
    tally(&engine.counters.logged_in, engine.now_ns)
    histogram_add(&engine.login_ns, engine.now_ns - device.connect_ns)
    if device.link == LINK_MQTT:
        # SUBSCRIBE to "push", QoS 0 (section 3.8)
        put(engine, <const uint8_t*>b"\x82\x09\x00\x01\x00\x04push\x00", 11)
    start_work(engine, device)


cdef void on_challenge(Engine* engine, Device* device, Span nonce) noexcept nogil:
    cdef char text[MESSAGE_BYTES_MAX]
    cdef char claim[MESSAGE_BYTES_MAX]
    cdef char secret[40]
    cdef char name[200]
    cdef char mac[65]
    cdef unsigned char digest[32]
    cdef unsigned int digest_size
    cdef int i, size, claim_size
    snprintf(
        name, sizeof(name), b"%.*s%u", <int>engine.prefix_size, <const char*>engine.prefix, device.number
    )
    snprintf(secret, sizeof(secret), b"s%031u", device.number)
    claim_size = snprintf(
        claim, sizeof(claim), b"%.*s:%.*s:%s", <int>min(nonce.size, <size_t>64), <const char*>nonce.data,
        <int>engine.product_size, <const char*>engine.product, name,
    )
    HMAC(EVP_sha256(), secret, 32, <const unsigned char*>claim, claim_size, digest, &digest_size)
    for i in range(32):
        mac[2 * i] = HEXADECIMAL[digest[i] >> 4]
        mac[2 * i + 1] = HEXADECIMAL[digest[i] & 15]
    mac[64] = 0
    size = snprintf(
        text, sizeof(text),
        b'{"type":"hello","product":"%.*s","device":"%s","version":"%.*s","mac":"%s"}',
        <int>engine.product_size, <const char*>engine.product, name,
        <int>device.version_size, <const char*>device.version, mac,
    )
    send_text(engine, device, text, size)


cdef void on_welcome(Engine* engine, Device* device) noexcept nogil:
    opened(engine, device)
    device.phase = PHASE_OPEN
    tally(&engine.counters.logged_in, engine.now_ns)
    histogram_add(&engine.login_ns, engine.now_ns - device.connect_ns)
    if device.upgraded and device.works:
        device.works = False
        device.upgraded = False
        device.step = STEP_IDLE
        tally(&engine.counters.upgraded, engine.now_ns)
    if device.storms:
        device.storms -= 1
        disconnect(engine, device)
        connect_soon(engine, device)
        return
    if engine.settings.work == WORK_VERSIONS:
        stand_in_line(engine, device)


# -- messages ------------------------------------------------------------------------------------------

cdef void on_text(Engine* engine, Device* device, const uint8_t* payload, size_t size) noexcept nogil:
    cdef Fields fields
    cdef Span kind
    if not engine.settings.login:
        on_answer(engine, device)
        return
    if not scan_object(payload, size, &fields):
        protocol_error(engine, b"a message that is no JSON object")
        return
    kind = field(&fields, b"type")
    if span_is(kind, b"ack"):
        on_acknowledged(engine, device, field(&fields, b"id"))
    elif span_is(kind, b"challenge"):
        on_challenge(engine, device, field(&fields, b"nonce"))
    elif span_is(kind, b"welcome"):
        on_welcome(engine, device)
    elif span_is(kind, b"upgrade"):
        on_upgrade(engine, device, &fields)
    elif span_is(kind, b"cancel"):
        on_cancel(engine, device, &fields)
    elif span_is(kind, b"goodbye"):
        engine.counters.goodbyes += 1
    elif span_is(kind, b"error"):
        on_error(engine, device, payload, size, field(&fields, b"id"))
    else:
        protocol_error(engine, b"a message of an unknown type")


cdef void on_error(
    Engine* engine, Device* device, const uint8_t* payload, size_t size, Span identity
) noexcept nogil:
    engine.counters.errors += 1
    engine.last_error_size = <uint32_t>min(size, sizeof(engine.last_error))
    memcpy(engine.last_error, payload, engine.last_error_size)
    if identity.size == SEQUENCE_CHARS and device.in_flight:
        request_answered(engine, device)


cdef void on_cancel(Engine* engine, Device* device, Fields* fields) noexcept nogil:
    engine.counters.cancels += 1
    if span_number(field(fields, b"attempt")) == device.upgrade.attempt and device.step != STEP_BURNT:
        device.works = False
        device.step = STEP_IDLE
        device.in_flight = 0


cdef void copy_span(Span span, uint8_t* out, uint8_t* out_size, size_t size_max) noexcept nogil:
    out_size[0] = <uint8_t>min(span.size, size_max)
    if span.size:
        memcpy(out, span.data, out_size[0])


cdef int nibble(uint8_t char_) noexcept nogil:
    return char_ - c"0" if char_ <= c"9" else (char_ | 32) - c"a" + 10


cdef bint is_same(Upgrade* upgrade, Span batch, uint64_t attempt) noexcept nogil:
    return upgrade.attempt == attempt and upgrade.batch_size == batch.size \
        and memcmp(upgrade.batch, batch.data, batch.size) == 0


cdef void on_upgrade(Engine* engine, Device* device, Fields* fields) noexcept nogil:
    cdef Fields offer
    cdef Span batch = field(fields, b"batch")
    cdef Span digest, nested = field(fields, b"firmware")
    cdef uint64_t attempt = span_number(field(fields, b"attempt"))
    cdef Upgrade* upgrade = &device.upgrade
    cdef int i
    tally(&engine.counters.upgrades, engine.now_ns)
    histogram_add(&engine.upgrade_ns, engine.now_ns - engine.mark_ns)
    if device.works and is_same(upgrade, batch, attempt):
        send_attempt(engine, device, b"received", b"", False)
        go_on(engine, device)
        return
    if not scan_object(nested.data, nested.size, &offer):
        protocol_error(engine, b"an upgrade without firmware")
        return
    copy_span(batch, upgrade.batch, &upgrade.batch_size, 64)
    copy_span(field(&offer, b"id"), upgrade.firmware, &upgrade.firmware_size, 64)
    copy_span(field(&offer, b"version"), upgrade.version, &upgrade.version_size, 100)
    upgrade.attempt = attempt
    upgrade.size = span_number(field(&offer, b"size"))
    digest = field(&offer, b"md5")
    for i in range(16):
        upgrade.md5[i] = 0
        if digest.size == 32:
            upgrade.md5[i] = nibble(digest.data[2 * i]) << 4 | nibble(digest.data[2 * i + 1])
    device.works = True
    device.step = 0
    begin_upgrade(engine, device)


cdef void begin_upgrade(Engine* engine, Device* device) noexcept nogil:
    cdef uint8_t work = engine.settings.work
    if device.fault == FAULT_SILENT:
        engine.counters.faults[<int>FAULT_SILENT] += 1
        device.works = False
        return
    if work == WORK_TRANSITIONS:
        stand_in_line(engine, device)
        return
    send_attempt(engine, device, b"received", b"", False)
    if work == WORK_REPORT:
        send_attempt(engine, device, b"progress", b',"stage":"downloading","percent":1', True)
        make_report(device)
    elif work == WORK_STREAM:
        fetch(engine, device, True)
    elif work == WORK_CAMPAIGN:
        begin_campaign(engine, device)


cdef void fetch(Engine* engine, Device* device, bint anew) noexcept nogil:
    """The rest of the image, or all of it."""
    cdef char text[MESSAGE_BYTES_MAX]
    cdef int size
    if anew:
        download_begin(engine, device)
    device.download.transfer += 1
    size = snprintf(
        text, sizeof(text),
        b'{"type":"fetch","transfer":%u,"firmware":"%.*s","offset":%llu,"chunk_size":%u}',
        device.download.transfer, <int>device.upgrade.firmware_size, <const char*>device.upgrade.firmware,
        <unsigned long long>device.download.offset, engine.settings.chunk_size,
    )
    send_text(engine, device, text, size)


# -- a campaign ------------------------------------------------------------------------------------------

cdef void begin_campaign(Engine* engine, Device* device) noexcept nogil:
    device.step = STEP_DOWNLOADING
    device.download.drop_at = 0
    if device.fault == FAULT_FAIL:
        engine.counters.faults[<int>FAULT_FAIL] += 1
        engine.counters.failures_reported += 1
        device.works = False
        send_attempt(
            engine, device, b"result",
            b',"outcome":"failed","reason":"burn_failed","detail":"simulated"', False,
        )
        return
    if device.fault == FAULT_DROP:
        device.download.drop_at = device.upgrade.size // 4 + random_number(engine) % (
            device.upgrade.size // 2 + 1
        )
    elif device.fault == FAULT_STORM:
        engine.counters.faults[<int>FAULT_STORM] += 1
        device.storms = STORM_RECONNECTS
        download_begin(engine, device)
        send_out(engine, device)
        disconnect(engine, device)
        connect_soon(engine, device)
        return
    elif device.fault == FAULT_SLOW:
        engine.counters.faults[<int>FAULT_SLOW] += 1
    fetch(engine, device, True)


cdef void go_on(Engine* engine, Device* device) noexcept nogil:
    """The message of the running attempt came again: the device, or the gateway, is back."""
    if engine.settings.work == WORK_CAMPAIGN:
        if device.step == STEP_ASKED:
            ask_to_burn(engine, device)
        elif device.step in (STEP_DOWNLOADING, STEP_HALFWAY):
            if device.download.offset < device.upgrade.size:
                fetch(engine, device, False)
            else:
                device.download.finished = 2
                line_push(&engine.finished, <uint32_t>(device - engine.devices))
    elif engine.settings.work == WORK_STREAM:
        fetch(engine, device, True)
    elif engine.settings.work == WORK_TRANSITIONS:
        stand_in_line(engine, device)
    elif engine.settings.work == WORK_REPORT:
        device.in_flight = 0
        device.step = 0
        send_attempt(engine, device, b"progress", b',"stage":"downloading","percent":1', True)


cdef void on_progress(Engine* engine, Device* device) noexcept nogil:
    if device.download.ignored or not device.works:
        return
    if device.download.drop_at and device.download.offset >= device.download.drop_at:
        engine.counters.faults[<int>FAULT_DROP] += 1
        device.download.drop_at = 0
        abort_connection(engine, device)
        come_back(engine, device)
    elif (
        device.step == STEP_DOWNLOADING and engine.settings.reports
        and engine.settings.work == WORK_CAMPAIGN and 2 * device.download.offset >= device.upgrade.size
    ):
        device.step = STEP_HALFWAY
        send_attempt(engine, device, b"progress", b',"stage":"downloading","percent":50', False)


cdef void on_downloaded(Engine* engine, Device* device) noexcept nogil:
    if device.download.finished != 2 or device.phase != PHASE_OPEN or not device.works:
        return
    device.download.finished = 0
    if engine.settings.verify and not md5_is_right(device):
        engine.counters.md5_errors += 1
        protocol_error(engine, b"the MD5 of an image is wrong")
        device.works = False
        send_attempt(
            engine, device, b"result", b',"outcome":"failed","reason":"verification_failed"', False
        )
        return
    tally(&engine.counters.downloads, engine.now_ns)
    if engine.settings.work == WORK_STREAM:
        if engine.running:
            fetch(engine, device, True)
        return
    if device.fault == FAULT_CORRUPT:
        corrupt(engine, device)
        if device.fd < 0:
            return
    if engine.settings.reports:
        send_attempt(engine, device, b"progress", b',"stage":"verifying","percent":100', False)
    device.step = STEP_ASKED
    ask_to_burn(engine, device)


cdef void ask_to_burn(Engine* engine, Device* device) noexcept nogil:
    device.in_flight = 0
    send_attempt(engine, device, b"progress", b',"stage":"burning","percent":100', True)


cdef void corrupt(Engine* engine, Device* device) noexcept nogil:
    """A bad field, which the gateway refuses; or a broken message, which ends the connection."""
    engine.counters.faults[<int>FAULT_CORRUPT] += 1
    if (mixed(engine.settings.seed, device.number) >> 20) & 1:
        send_text(engine, device, BROKEN, <int>strlen(BROKEN))
        device.fault = 0  # it will be back, with its download whole
        device.step = STEP_ASKED
    else:
        send_attempt(engine, device, b"progress", b',"stage":"verifying","percent":101', False)


cdef void burn(Engine* engine, Device* device) noexcept nogil:
    device.step = STEP_BURNT
    device.upgraded = True
    device.version_size = device.upgrade.version_size
    memcpy(device.version, device.upgrade.version, device.version_size)
    disconnect(engine, device)
    if engine.settings.reboot_ms:
        timer_start(engine, device, TIMER_CONNECT, <uint64_t>engine.settings.reboot_ms * MILLISECOND_NS)
    else:
        connect_soon(engine, device)


# -- reports, transitions, versions ----------------------------------------------------------------------

cdef void on_acknowledged(Engine* engine, Device* device, Span identity) noexcept nogil:
    cdef uint8_t expected[SEQUENCE_CHARS]
    cdef uint8_t work = engine.settings.work
    write_hexadecimal(expected, device.sequence)
    if device.in_flight == 0 or identity.size < SEQUENCE_CHARS \
            or memcmp(identity.data, expected, SEQUENCE_CHARS):
        protocol_error(engine, b"an acknowledgement that was not awaited")
        return
    request_answered(engine, device)
    if work == WORK_REPORT:
        device.step = 1
        start_work(engine, device)
    elif work == WORK_TRANSITIONS:
        device.step += 1
        if device.step < 3:
            stand_in_line(engine, device)
        else:
            device.works = False
    elif work == WORK_VERSIONS:
        stand_in_line(engine, device)
    elif work == WORK_CAMPAIGN and device.step == STEP_ASKED:
        burn(engine, device)


cdef void make_report(Device* device) noexcept nogil:
    """All of the report but what changes, padded with spaces to REPORT_BYTES."""
    cdef char text[256]
    cdef int size, i
    size = snprintf(
        text, sizeof(text),
        b'{"type":"progress","id":"0000000000000000","percent":10,"batch":"%.*s","attempt":%llu,'
        b'"stage":"downloading"',
        <int>device.upgrade.batch_size, <const char*>device.upgrade.batch,
        <unsigned long long>device.upgrade.attempt,
    )
    for i in range(REPORT_BYTES):
        device.report[i] = c" "
    memcpy(device.report, text, min(size, REPORT_BYTES - 1))
    device.report[REPORT_BYTES - 1] = c"}"


cdef void send_report(Engine* engine, Device* device) noexcept nogil:
    cdef uint64_t number = device.sequence + device.in_flight
    cdef uint64_t percent = 10 + number % 90
    write_hexadecimal(device.report + 25, number)
    device.report[53] = c"0" + <uint8_t>(percent // 10)
    device.report[54] = c"0" + <uint8_t>(percent % 10)
    put_frame(engine, device, OPCODE_TEXT, device.report, REPORT_BYTES)
    request_sent(engine, device)


cdef void send_version(Engine* engine, Device* device) noexcept nogil:
    cdef char text[MESSAGE_BYTES_MAX]
    cdef int size
    device.toggled = not device.toggled
    size = snprintf(
        text, sizeof(text), b'{"type":"version","version":"%.*s%s","id":"%016llx"}',
        <int>engine.version_size, <const char*>engine.version, b"b" if device.toggled else b"a",
        <unsigned long long>device.sequence,
    )
    send_text(engine, device, text, size)
    request_sent(engine, device)


cdef void send_next(Engine* engine, Device* device) noexcept nogil:
    if device.phase != PHASE_OPEN or device.in_flight:
        return
    if engine.settings.work == WORK_VERSIONS:
        send_version(engine, device)
    elif not device.works:
        return
    elif device.step == 0:
        send_attempt(engine, device, b"received", b"", True)
    elif device.step == 1:
        send_attempt(engine, device, b"progress", b',"stage":"downloading","percent":1', True)
    else:
        send_attempt(engine, device, b"result", b',"outcome":"failed","reason":"other"', True)


cdef void start_work(Engine* engine, Device* device) noexcept nogil:
    """Fills what may be in flight."""
    if not engine.running or device.phase != PHASE_OPEN:
        return
    if engine.settings.work == WORK_REPORT and device.step == 1:
        while device.in_flight < engine.settings.depth:
            send_report(engine, device)
    elif engine.settings.work == WORK_REQUESTS:
        while device.in_flight < engine.settings.depth:
            put_request(engine, device)
            request_sent(engine, device)
    elif engine.settings.work == WORK_STREAM and (engine.settings.login == 0 or device.works):
        if device.frame_left == 0 and device.in_flight == 0:
            if engine.settings.login:
                fetch(engine, device, True)
            else:
                device.in_flight = 1
                put_request(engine, device)


cdef void put_request(Engine* engine, Device* device) noexcept nogil:
    if device.link == LINK_WEBSOCKET or device.link == LINK_TCP:
        put_frame(engine, device, OPCODE_TEXT, engine.settings.request, engine.settings.request_size)
    else:
        put(engine, engine.settings.request, engine.settings.request_size)


cdef void on_answer(Engine* engine, Device* device) noexcept nogil:
    """Of a server that is no gateway: the answer to a request, or what it sends to everyone."""
    if engine.settings.work == WORK_REQUESTS and device.in_flight:
        request_answered(engine, device)
        start_work(engine, device)
    else:
        tally(&engine.counters.pushes, engine.now_ns)
        histogram_add(&engine.upgrade_ns, engine.now_ns - engine.mark_ns)


cdef void on_image_bytes(Engine* engine, Device* device, size_t size) noexcept nogil:
    """Of an image that a server that is no gateway streams."""
    engine.counters.image_bytes += size
    device.download.offset += size
    if device.download.offset >= engine.settings.image_size:
        device.download.offset = 0
        device.in_flight = 0
        tally(&engine.counters.downloads, engine.now_ns)
        start_work(engine, device)


# -- ends --------------------------------------------------------------------------------------------------

cdef void come_back(Engine* engine, Device* device) noexcept nogil:
    cdef uint64_t wait_ms = engine.settings.retry_ms
    wait_ms += random_number(engine) % (engine.settings.retry_ms + 1)
    timer_start(engine, device, TIMER_CONNECT, wait_ms * MILLISECOND_NS)


cdef void on_lost(Engine* engine, Device* device) noexcept nogil:
    if device.phase == PHASE_OPEN:
        engine.counters.lost += 1
    else:
        engine.counters.connect_errors += 1
    disconnect(engine, device)
    if engine.settings.reconnect:
        come_back(engine, device)
