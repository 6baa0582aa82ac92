"""Where the fields of a JSON object stand: the little that a simulated device needs to read a gateway.

One pass over the text. A string ends at a quote without a backslash before it, a nested value where its
brackets are balanced outside strings. That is enough for any key order, spacing and nesting of valid JSON;
what is not valid JSON is found out only by accident, for the gateway's own tests are elsewhere.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, strlen


cdef inline size_t skip_space(const uint8_t* text, size_t size, size_t at) noexcept nogil:
    while at < size and (text[at] == c" " or text[at] == c"\n" or text[at] == c"\t" or text[at] == c"\r"):
        at += 1
    return at


cdef inline size_t skip_string(const uint8_t* text, size_t size, size_t at) noexcept nogil:
    """From behind an opening quote to the closing one."""
    while at < size and text[at] != c'"':
        at += 2 if text[at] == c"\\" else 1
    return at


cdef size_t skip_value(const uint8_t* text, size_t size, size_t at) noexcept nogil:
    """To the end of a value that is no string: a number, a word, an object or a list."""
    cdef int depth = 0
    while at < size:
        if text[at] == c'"':
            at = skip_string(text, size, at + 1)
        elif text[at] == c"{" or text[at] == c"[":
            depth += 1
        elif text[at] == c"}" or text[at] == c"]":
            if depth == 0:
                return at
            depth -= 1
        elif depth == 0 and (text[at] == c"," or text[at] == c" " or text[at] == c"\n"):
            return at
        at += 1
    return at


cdef bint scan_object(const uint8_t* text, size_t size, Fields* out) noexcept nogil:
    cdef Span name, value
    cdef size_t start
    cdef size_t at = skip_space(text, size, 0)
    out.count = 0
    if at >= size or text[at] != c"{":
        return False
    at = skip_space(text, size, at + 1)
    if at < size and text[at] == c"}":
        return True
    while at < size:
        if text[at] != c'"':
            return False
        start = at + 1
        at = skip_string(text, size, start)
        name.data = text + start
        name.size = at - start
        at = skip_space(text, size, at + 1)
        if at >= size or text[at] != c":":
            return False
        at = skip_space(text, size, at + 1)
        if at >= size:
            return False
        if text[at] == c'"':
            start = at + 1
            at = skip_string(text, size, start)
            value.data = text + start
            value.size = at - start
            at += 1
        else:
            start = at
            at = skip_value(text, size, at)
            value.data = text + start
            value.size = at - start
        if at >= size:
            return False
        if out.count < FIELDS_MAX:
            out.names[out.count] = name
            out.values[out.count] = value
            out.count += 1
        at = skip_space(text, size, at)
        if at < size and text[at] == c"}":
            return True
        if at >= size or text[at] != c",":
            return False
        at = skip_space(text, size, at + 1)
    return False


cdef bint span_is(Span span, const char* words) noexcept nogil:
    return span.size == strlen(words) and memcmp(span.data, words, span.size) == 0


cdef Span field(const Fields* fields, const char* name) noexcept nogil:
    cdef Span none
    cdef int i
    for i in range(fields.count):
        if span_is(fields.names[i], name):
            return fields.values[i]
    none.data = NULL
    none.size = 0
    return none


cdef uint64_t span_number(Span span) noexcept nogil:
    cdef uint64_t number = 0
    cdef size_t i
    for i in range(span.size):
        if not c"0" <= span.data[i] <= c"9":
            return 0
        number = number * 10 + (span.data[i] - c"0")
    return number


def fields_of(bytes text):
    """The raw fields of an object, as a test sees them; None if it is none."""
    cdef Fields fields
    cdef int i
    if not scan_object(text, len(text), &fields):
        return None
    return {
        fields.names[i].data[: fields.names[i].size]: fields.values[i].data[: fields.values[i].size]
        for i in range(fields.count)
    }
