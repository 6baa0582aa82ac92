"""Progress reports, read in one pass without building anything; and their acknowledgement, written so.

`messages` is the protocol: this is a short cut through it, for the one message that comes by the hundred
thousand. It knows the plain form that every JSON library writes: an object of the report's own fields, each
once, words of the alphabet of ids, whole numbers, white space anywhere. Whatever else a report may look like
(escapes, a null, a field of somebody else's, a number with an exponent), and everything that is no good
report, it does not read, and `messages` is asked.

Invariant: what it reads, `messages.decode_device_message` reads alike, as a `Progress` of a batch that may be
one of ours; what it writes is `messages.encode(Ack(id))`, byte for byte.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef enum:
    DIGITS_MAX = 15                     # whatever they say is below 2**53, the end of integers (messages.Count)
    PERCENT_MAX = 100

cdef enum Field:
    FIELD_UNKNOWN = 0
    FIELD_TYPE = 1
    FIELD_IDENTITY = 2
    FIELD_BATCH = 4
    FIELD_ATTEMPT = 8
    FIELD_STAGE = 16
    FIELD_PERCENT = 32
    FIELDS_NEEDED = 61                  # all but the id

cdef const char* ACKNOWLEDGEMENT = b'{"type":"ack","id":"'
cdef enum:
    ACKNOWLEDGEMENT_BYTES = 20


cdef struct Span:
    const uint8_t* data
    size_t size


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end


cdef inline bint is_of_word(uint8_t char) noexcept nogil:
    # the alphabet of ids (messages.ID_ALPHABET)
    return (
        c"a" <= char <= c"z" or c"0" <= char <= c"9" or c"A" <= char <= c"Z" or char == c"_" or char == c"-"
    )


cdef inline bint equals(const Span* span, const char* word, size_t size) noexcept nogil:
    return span.size == size and memcmp(span.data, word, size) == 0


cdef inline uint8_t peek(Reader* reader) noexcept nogil:
    """The next character that is no white space, without taking it; 0 at the end (no JSON holds one)."""
    while reader.at < reader.end:
        if reader.at[0] not in (c" ", c"\n", c"\r", c"\t"):
            return reader.at[0]
        reader.at += 1
    return 0


cdef inline bint take(Reader* reader, uint8_t wanted) noexcept nogil:
    if peek(reader) != wanted:
        return False
    reader.at += 1
    return True


cdef bint take_word(Reader* reader, Span* word) noexcept nogil:
    """A string of the alphabet of ids."""
    if not take(reader, c'"'):
        return False
    word.data = reader.at
    while reader.at < reader.end and is_of_word(reader.at[0]):
        reader.at += 1
    word.size = reader.at - word.data
    if reader.at == reader.end or reader.at[0] != c'"':
        return False
    reader.at += 1
    return 1 <= word.size <= IDENTITY_CHARS_MAX


cdef bint take_number(Reader* reader, uint64_t* number) noexcept nogil:
    """Digits. What follows them is for the caller to judge: a point, say, ends no field."""
    cdef const uint8_t* start
    peek(reader)
    start = reader.at
    number[0] = 0
    while reader.at < reader.end and c"0" <= reader.at[0] <= c"9":
        if reader.at - start == DIGITS_MAX:
            return False
        number[0] = number[0] * 10 + (reader.at[0] - c"0")
        reader.at += 1
    return reader.at > start and (start[0] != c"0" or reader.at - start == 1)


cdef bint take_batch(Reader* reader, uint64_t* number) noexcept nogil:
    """`b` and a number in quotes (gateway.upgrades.number_of)."""
    if not take(reader, c'"') or reader.at == reader.end or reader.at[0] != c"b":
        return False
    reader.at += 1
    if reader.at == reader.end or not c"1" <= reader.at[0] <= c"9" or not take_number(reader, number):
        return False
    if reader.at == reader.end or reader.at[0] != c'"':
        return False
    reader.at += 1
    return True


cdef Field field_of(const Span* name) noexcept nogil:
    if equals(name, b"type", 4):
        return FIELD_TYPE
    if equals(name, b"id", 2):
        return FIELD_IDENTITY
    if equals(name, b"batch", 5):
        return FIELD_BATCH
    if equals(name, b"attempt", 7):
        return FIELD_ATTEMPT
    if equals(name, b"stage", 5):
        return FIELD_STAGE
    if equals(name, b"percent", 7):
        return FIELD_PERCENT
    return FIELD_UNKNOWN


cdef uint8_t stage_of(const Span* word) noexcept nogil:
    if equals(word, b"downloading", 11):
        return 1
    if equals(word, b"verifying", 9):
        return 2
    if equals(word, b"burning", 7):
        return 3
    return 0


cdef bint take_value(Reader* reader, Field field, ProgressReport* report) noexcept nogil:
    cdef Span word
    cdef uint64_t number
    if field == FIELD_BATCH:
        return take_batch(reader, &report.batch)
    if field == FIELD_ATTEMPT:
        return take_number(reader, &report.attempt)
    if field == FIELD_PERCENT:
        if not take_number(reader, &number) or number > PERCENT_MAX:
            return False
        report.percent = <uint8_t>number
        return True
    if not take_word(reader, &word):
        return False
    if field == FIELD_TYPE:
        return equals(&word, b"progress", 8)
    if field == FIELD_STAGE:
        report.stage = stage_of(&word)
        return report.stage != 0
    report.identity = word.data
    report.identity_size = <uint8_t>word.size
    return True


cdef bint read_report(const uint8_t* data, size_t size, ProgressReport* report) noexcept nogil:
    cdef Reader reader
    cdef Span name
    cdef Field field
    cdef int found = 0
    reader.at = data
    reader.end = data + size
    report.identity = NULL
    report.identity_size = 0
    if not take(&reader, c"{"):
        return False
    while True:
        if not take_word(&reader, &name) or not take(&reader, c":"):
            return False
        field = field_of(&name)
        if field == FIELD_UNKNOWN or found & field or not take_value(&reader, field, report):
            return False
        found |= field
        if not take(&reader, c","):
            break
    return take(&reader, c"}") and peek(&reader) == 0 and reader.at == reader.end \
        and found & FIELDS_NEEDED == FIELDS_NEEDED


cdef size_t write_acknowledgement(uint8_t* out, const uint8_t* identity, size_t size) noexcept nogil:
    memcpy(out, ACKNOWLEDGEMENT, ACKNOWLEDGEMENT_BYTES)
    memcpy(out + ACKNOWLEDGEMENT_BYTES, identity, size)
    out[ACKNOWLEDGEMENT_BYTES + size] = c'"'
    out[ACKNOWLEDGEMENT_BYTES + size + 1] = c"}"
    return ACKNOWLEDGEMENT_BYTES + size + 2


# -- the Python face: for tests, which hold it against `messages` ------------------------------------

def read_progress(bytes payload):
    """(batch number, attempt, stage, percent, id or None); None: `messages` has to be asked."""
    cdef ProgressReport report
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(payload)
    if not read_report(data, PyBytes_GET_SIZE(payload), &report):
        return None
    identity = None
    if report.identity != NULL:
        identity = (<const char*>report.identity)[:report.identity_size].decode()
    return report.batch, report.attempt, report.stage, report.percent, identity


def acknowledgement(str identity):
    """The `ack` that carries this id, 1 to 64 characters of the alphabet of ids."""
    cdef uint8_t out[ACKNOWLEDGEMENT_BYTES_MAX]
    cdef bytes chars = identity.encode()
    assert 1 <= len(chars) <= IDENTITY_CHARS_MAX
    size = write_acknowledgement(out, <const uint8_t*>PyBytes_AS_STRING(chars), PyBytes_GET_SIZE(chars))
    return PyBytes_FromStringAndSize(<const char*>out, size)
