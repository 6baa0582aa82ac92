"""The opening handshake of the WebSocket link, server side (RFC 6455 section 4.2, RFC 9112).

One pass over the head: the request line, then field after field. What a field says is noted in `Seen`;
what is broken ends the parse at once, what is merely unacceptable is judged at the end, in the order
method, HTTP version, path, Host, body, upgrade, version, key, subprotocol. So a refusal names the first
thing that the client's author must mend.

The invariant of the parse: `Cursor.at` never passes `Cursor.end`, and every step either moves it or ends.
Parsing is strict where leniency smuggles: lines end in CRLF and nothing else, no folding, no space before a
colon, no control character, Host exactly once, no body. It never looks for a proxy in front.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memcmp, memset, strlen

cdef extern from "openssl/sha.h" nogil:
    unsigned char* SHA1(const unsigned char* data, size_t size, unsigned char* digest)

cdef const char* GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef const char* SUBPROTOCOL = b"otagate.v1"
cdef const char* PATH = b"/device"
cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef enum:
    KEY_CHARS = 24  # 16 bytes in base64


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef struct Span:
    const uint8_t* data
    size_t size


cdef struct Seen:
    uint32_t hosts
    uint32_t keys
    uint32_t versions
    bint body
    bint upgrade_websocket
    bint connection_upgrade
    bint version_13
    bint subprotocols_offered
    bint subprotocol_ours
    Span key
    Span host


# -- characters and spans --------------------------------------------------------------------------

cdef bint is_alphanumeric(uint8_t c) noexcept nogil:
    return c'0' <= c <= c'9' or c'A' <= c <= c'Z' or c'a' <= c <= c'z'


cdef bint is_token_char(uint8_t c) noexcept nogil:
    """tchar of RFC 9110 section 5.6.2."""
    return is_alphanumeric(c) or c in b"!#$%&'*+-.^_`|~"


cdef bint is_host_char(uint8_t c) noexcept nogil:
    """uri-host and port of RFC 3986 section 3.2, without its structure."""
    return is_alphanumeric(c) or c in b"-._~%!$&'()*+,;=:[]"


cdef uint8_t lower(uint8_t c) noexcept nogil:
    return c | 0x20 if c'A' <= c <= c'Z' else c


cdef bint equals(Span span, const char* text) noexcept nogil:
    return span.size == strlen(text) and memcmp(span.data, text, span.size) == 0


cdef bint equals_caseless(Span span, const char* lower_text) noexcept nogil:
    cdef size_t i
    if span.size != strlen(lower_text):
        return False
    for i in range(span.size):
        if lower(span.data[i]) != <uint8_t>lower_text[i]:
            return False
    return True


cdef bint take(Cursor* cursor, uint8_t c) noexcept nogil:
    """Passes this character, if it is the next."""
    if cursor.at == cursor.end or cursor.at[0] != c:
        return False
    cursor.at += 1
    return True


cdef Span take_token(Cursor* cursor) noexcept nogil:
    cdef Span span
    span.data = cursor.at
    while cursor.at < cursor.end and is_token_char(cursor.at[0]):
        cursor.at += 1
    span.size = cursor.at - span.data
    return span


cdef Span take_visible(Cursor* cursor) noexcept nogil:
    cdef Span span
    span.data = cursor.at
    while cursor.at < cursor.end and 0x21 <= cursor.at[0] <= 0x7E:
        cursor.at += 1
    span.size = cursor.at - span.data
    return span


cdef void skip_blanks(Cursor* cursor) noexcept nogil:
    while cursor.at < cursor.end and cursor.at[0] in b" \t":
        cursor.at += 1


# -- the request line ------------------------------------------------------------------------------

cdef Span path_of(Span target) noexcept nogil:
    """The path of a request target in origin form or absolute form (RFC 9112 section 3.2); else empty."""
    cdef Span path
    cdef size_t start = 0
    cdef Span scheme
    scheme.data = target.data
    scheme.size = 7
    if target.size >= 7 and equals_caseless(scheme, b"http://"):
        start = 7
    scheme.size = 8
    if target.size >= 8 and equals_caseless(scheme, b"https://"):
        start = 8
    if start:  # past the authority
        while start < target.size and target.data[start] not in b"/?":
            start += 1
    path.data = target.data + start
    path.size = 0
    if start == target.size or path.data[0] != c'/':
        return path
    while start + path.size < target.size and path.data[path.size] != c'?':
        path.size += 1
    return path


cdef int parse_request_line(Cursor* cursor, bint any_path, int* refusal) noexcept nogil:
    """REFUSED_NOT, or REFUSED_REQUEST_LINE if broken; what is only unacceptable goes to `refusal`."""
    cdef Span method, target, version
    cdef size_t i
    method = take_token(cursor)
    if method.size == 0 or not take(cursor, c' '):
        return REFUSED_REQUEST_LINE
    target = take_visible(cursor)
    if target.size == 0 or not take(cursor, c' '):
        return REFUSED_REQUEST_LINE
    for i in range(target.size):
        if target.data[i] == c'#':  # a fragment is never sent
            return REFUSED_REQUEST_LINE
    version = take_visible(cursor)
    if version.size != 8 or memcmp(version.data, b"HTTP/", 5) != 0 or version.data[6] != c'.' \
            or not c'0' <= version.data[5] <= c'9' or not c'0' <= version.data[7] <= c'9':
        return REFUSED_REQUEST_LINE
    if not take(cursor, c'\r') or not take(cursor, c'\n'):
        return REFUSED_REQUEST_LINE
    if not equals(method, b"GET"):
        refusal[0] = REFUSED_METHOD
    elif not equals(version, b"HTTP/1.1"):
        refusal[0] = REFUSED_HTTP_VERSION
    elif not any_path and not equals(path_of(target), PATH):
        refusal[0] = REFUSED_PATH
    return REFUSED_NOT


# -- fields ----------------------------------------------------------------------------------------

cdef bint take_field(Cursor* cursor, Span* name, Span* value) noexcept nogil:
    """One line `name: value CRLF`; the value without the blanks around it. False: broken."""
    cdef const uint8_t* stop
    name[0] = take_token(cursor)
    if name.size == 0 or not take(cursor, c':'):
        return False
    skip_blanks(cursor)
    value.data = cursor.at
    while cursor.at < cursor.end and (cursor.at[0] == c'\t' or (cursor.at[0] >= 0x20 and cursor.at[0] != 0x7F)):
        cursor.at += 1
    stop = cursor.at
    while stop > value.data and (stop - 1)[0] in b" \t":
        stop -= 1
    value.size = stop - value.data
    return take(cursor, c'\r') and take(cursor, c'\n')


cdef int next_element(Cursor* cursor, bint with_version, Span* element) noexcept nogil:
    """The next of a list of tokens (RFC 9110 section 5.6.1; empty elements are skipped): 1, 0 at the end,
    -1 broken. `with_version`: a token may go on with `/token`, as in Upgrade."""
    cdef Span suffix
    while True:
        skip_blanks(cursor)
        if not take(cursor, c','):
            break
    if cursor.at == cursor.end:
        return 0
    element[0] = take_token(cursor)
    if element.size == 0:
        return -1
    if with_version and take(cursor, c'/'):
        suffix = take_token(cursor)
        if suffix.size == 0:
            return -1
        element.size += 1 + suffix.size
    skip_blanks(cursor)
    if cursor.at < cursor.end and cursor.at[0] != c',':
        return -1
    return 1


cdef bint look_for(Span value, bint with_version, const char* lower_text, bint* found) noexcept nogil:
    """Looks in a list of tokens, in any letter case. False: the list is broken."""
    cdef Cursor cursor
    cdef Span element
    cdef int more
    cursor.at = value.data
    cursor.end = value.data + value.size
    while True:
        more = next_element(&cursor, with_version, &element)
        if more <= 0:
            return more == 0
        if equals_caseless(element, lower_text):
            found[0] = True


cdef int note_subprotocols(Span value, Seen* seen) noexcept nogil:
    cdef Cursor cursor
    cdef Span element
    cdef int more
    cursor.at = value.data
    cursor.end = value.data + value.size
    seen.subprotocols_offered = True
    while True:
        more = next_element(&cursor, False, &element)
        if more <= 0:
            return REFUSED_NOT if more == 0 else REFUSED_SUBPROTOCOL
        if equals(element, SUBPROTOCOL):
            seen.subprotocol_ours = True


cdef int note_field(Span name, Span value, Seen* seen) noexcept nogil:
    """Notes what a field of interest says; a broken value is the refusal returned."""
    if equals_caseless(name, b"host"):
        seen.hosts += 1
        seen.host = value
    elif equals_caseless(name, b"upgrade"):
        if not look_for(value, True, b"websocket", &seen.upgrade_websocket):
            return REFUSED_FIELD
    elif equals_caseless(name, b"connection"):
        if not look_for(value, False, b"upgrade", &seen.connection_upgrade):
            return REFUSED_FIELD
    elif equals_caseless(name, b"sec-websocket-key"):
        seen.keys += 1
        seen.key = value
    elif equals_caseless(name, b"sec-websocket-version"):
        seen.versions += 1
        seen.version_13 = equals(value, b"13")
    elif equals_caseless(name, b"sec-websocket-protocol"):
        return note_subprotocols(value, seen)
    elif equals_caseless(name, b"transfer-encoding"):
        seen.body = True
    elif equals_caseless(name, b"content-length"):
        if not equals(value, b"0"):  # some stock clients send a 0
            seen.body = True
    return REFUSED_NOT


# -- the whole head --------------------------------------------------------------------------------

cdef bint host_valid(Span host) noexcept nogil:
    cdef size_t i
    for i in range(host.size):
        if not is_host_char(host.data[i]):
            return False
    return host.size > 0


cdef bint key_valid(Span key) noexcept nogil:
    """16 bytes in base64: 22 digits and two pads. The last digit's four spare bits may be anything."""
    cdef size_t i
    if key.size != KEY_CHARS or key.data[22] != c'=' or key.data[23] != c'=':
        return False
    for i in range(22):
        if not (is_alphanumeric(key.data[i]) or key.data[i] in b"+/"):
            return False
    return True


cdef int judge(const Seen* seen, bint any_path) noexcept nogil:
    if seen.hosts != 1 or not host_valid(seen.host):
        return REFUSED_HOST
    if seen.body:
        return REFUSED_BODY
    if not seen.upgrade_websocket or not seen.connection_upgrade:
        return REFUSED_NO_UPGRADE
    if seen.versions > 1:
        return REFUSED_FIELD
    if not seen.version_13:
        return REFUSED_VERSION
    if seen.keys != 1 or not key_valid(seen.key):
        return REFUSED_KEY
    if seen.subprotocols_offered and not seen.subprotocol_ours and not any_path:
        return REFUSED_SUBPROTOCOL
    return REFUSED_NOT


cdef void compute_accept(Span key, uint8_t* accept) noexcept nogil:
    """base64(SHA-1(key + GUID)): RFC 6455 section 4.2.2."""
    cdef uint8_t text[60]
    cdef uint8_t digest[21]
    cdef uint32_t three
    cdef size_t i
    memcpy(text, key.data, KEY_CHARS)
    memcpy(text + KEY_CHARS, GUID, 36)
    SHA1(text, 60, digest)
    digest[20] = 0
    for i in range(7):
        three = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2]
        accept[4 * i] = BASE64[three >> 18]
        accept[4 * i + 1] = BASE64[three >> 12 & 63]
        accept[4 * i + 2] = BASE64[three >> 6 & 63]
        accept[4 * i + 3] = BASE64[three & 63]
    accept[27] = c'='


cdef void parse_head(const uint8_t* head, size_t size, bint any_path, Handshake* out) noexcept nogil:
    cdef Cursor cursor
    cdef Span name, value
    cdef Seen seen
    cdef int broken
    cdef int refusal = REFUSED_NOT
    memset(&seen, 0, sizeof(seen))
    cursor.at = head
    cursor.end = head + size
    broken = parse_request_line(&cursor, any_path, &refusal)
    while not broken and not take(&cursor, c'\r'):
        broken = note_field(name, value, &seen) if take_field(&cursor, &name, &value) else REFUSED_FIELD
    if not broken and (not take(&cursor, c'\n') or cursor.at != cursor.end):
        broken = REFUSED_FIELD
    refuse(out, broken or refusal or judge(&seen, any_path))
    if out.refusal == REFUSED_NOT:
        out.status = 101
        out.subprotocol = seen.subprotocol_ours
        compute_accept(seen.key, out.accept)


cdef void refuse(Handshake* out, int refusal) noexcept nogil:
    memset(out, 0, sizeof(Handshake))
    out.refusal = refusal
    out.status = status_of(refusal)


# -- the answer ------------------------------------------------------------------------------------

cdef int status_of(int refusal) noexcept nogil:
    if refusal == REFUSED_PATH:
        return 404
    if refusal == REFUSED_METHOD:
        return 405
    if refusal == REFUSED_TIMEOUT:
        return 408
    if refusal == REFUSED_NO_UPGRADE or refusal == REFUSED_VERSION:
        return 426
    if refusal == REFUSED_HEAD_TOO_LARGE:
        return 431
    if refusal == REFUSED_OVERLOADED:
        return 503
    if refusal == REFUSED_HTTP_VERSION:
        return 505
    return 400


cdef const char* status_line_of(int status) noexcept nogil:
    if status == 404:
        return b"HTTP/1.1 404 Not Found\r\n"
    if status == 405:
        return b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n"
    if status == 408:
        return b"HTTP/1.1 408 Request Timeout\r\n"
    if status == 426:
        return b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    if status == 431:
        return b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    if status == 503:
        return b"HTTP/1.1 503 Service Unavailable\r\n"
    if status == 505:
        return b"HTTP/1.1 505 HTTP Version Not Supported\r\n"
    return b"HTTP/1.1 400 Bad Request\r\n"


cdef const char* reason_of(int refusal) noexcept nogil:
    if refusal == REFUSED_REQUEST_LINE:
        return b"The request line is broken.\n"
    if refusal == REFUSED_FIELD:
        return b"A header field is broken.\n"
    if refusal == REFUSED_HOST:
        return b"There must be exactly one valid Host.\n"
    if refusal == REFUSED_BODY:
        return b"The request must have no body.\n"
    if refusal == REFUSED_KEY:
        return b"Sec-WebSocket-Key must be 16 bytes in base64, exactly once.\n"
    if refusal == REFUSED_SUBPROTOCOL:
        return b"Of the subprotocols offered none is otagate.v1.\n"
    if refusal == REFUSED_METHOD:
        return b"The method must be GET.\n"
    if refusal == REFUSED_PATH:
        return b"Devices connect to /device.\n"
    if refusal == REFUSED_HTTP_VERSION:
        return b"The HTTP version must be 1.1.\n"
    if refusal == REFUSED_NO_UPGRADE:
        return b"This is a WebSocket server: Upgrade: websocket and Connection: Upgrade are missing.\n"
    if refusal == REFUSED_VERSION:
        return b"Sec-WebSocket-Version must be 13.\n"
    if refusal == REFUSED_HEAD_TOO_LARGE:
        return b"The request's head is too large.\n"
    if refusal == REFUSED_TIMEOUT:
        return b"The request's head did not arrive in time.\n"
    if refusal == REFUSED_OVERLOADED:
        return b"Too many connections; come back later.\n"
    return b"The request is refused.\n"


cdef size_t put(uint8_t* out, size_t at, const char* text) noexcept nogil:
    cdef size_t size = strlen(text)
    memcpy(out + at, text, size)
    return at + size


cdef size_t write_response(const Handshake* handshake, uint8_t* out, size_t capacity) noexcept nogil:
    cdef size_t at = 0
    cdef const char* reason
    cdef size_t reason_size
    if capacity < HANDSHAKE_RESPONSE_BYTES_MAX:
        return 0
    if handshake.status == 101:
        at = put(out, at, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        at = put(out, at, b"Sec-WebSocket-Accept: ")
        memcpy(out + at, handshake.accept, 28)
        at = put(out, at + 28, b"\r\n")
        if handshake.subprotocol:
            at = put(out, at, b"Sec-WebSocket-Protocol: otagate.v1\r\n")
        return put(out, at, b"\r\n")
    reason = reason_of(handshake.refusal)
    reason_size = strlen(reason)
    at = put(out, at, status_line_of(handshake.status))
    if handshake.status == 426:  # RFC 9110 section 7.8: Upgrade is named in Connection
        at = put(out, at, b"Connection: upgrade, close\r\n")
    else:
        at = put(out, at, b"Connection: close\r\n")
    at = put(out, at, b"Content-Type: text/plain\r\nContent-Length: ")
    out[at] = <uint8_t>(c'0' + reason_size // 10)  # every reason has 10 to 99 bytes
    out[at + 1] = <uint8_t>(c'0' + reason_size % 10)
    return put(out, put(out, at + 2, b"\r\n\r\n"), reason)
