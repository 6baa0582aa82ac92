"""How long the messages of a handshake may be.

OpenSSL makes room for a whole message once it has seen the message's header, and takes ClientHellos of 128 KiB:
100 bytes from a stranger would cost 200 KB for as long as a handshake may take. It has no bound to be set. So the
headers are read here first, of records (RFC 8446 section 5.1) and of the messages in them (section 4), however
they are cut: a record may hold a part of a header, and a ClientHello may be the second one of its handshake.

What is encrypted cannot be followed, and need not be: in TLS 1.3 it is in records of another type, and in TLS 1.2
the caller stops once the version is known, for the messages that follow there have bounds of their own.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from otagate.plane.state cimport Flight

cdef enum:
    RECORD_HEADER_BYTES = 5             # type, version, length u16
    MESSAGE_HEADER_BYTES = 4            # type, length u24
    MESSAGE_LENGTH_MASK = 0xFFFFFF
    HANDSHAKE = 22                      # the record's type
    MESSAGE_BYTES_MAX = 16384           # with a ticket and post-quantum keys a ClientHello has under 6,000


cdef bint follow_messages(Flight* flight, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t taken
    while size:
        if flight.message_header < MESSAGE_HEADER_BYTES:
            taken = 1
            flight.message_left = flight.message_left << 8 | data[0]
            flight.message_header += 1
            if flight.message_header == MESSAGE_HEADER_BYTES:
                flight.message_left &= MESSAGE_LENGTH_MASK
                if flight.message_left > MESSAGE_BYTES_MAX:
                    return False
        else:
            taken = min(size, <size_t>flight.message_left)
            flight.message_left -= <uint32_t>taken
        if flight.message_header == MESSAGE_HEADER_BYTES and flight.message_left == 0:
            flight.message_header = 0
        data += taken
        size -= taken
    return True


cdef bint follow(Flight* flight, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t taken
    while size:
        if flight.record_header < RECORD_HEADER_BYTES:
            taken = 1
            if flight.record_header == 0:
                flight.record_type = data[0]
            flight.record_left = <uint16_t>(flight.record_left << 8 | data[0])  # the last two bytes stay
            flight.record_header += 1
        else:
            taken = min(size, <size_t>flight.record_left)
            flight.record_left -= <uint16_t>taken
            if flight.record_type == HANDSHAKE and not follow_messages(flight, data, taken):
                return False
        if flight.record_header == RECORD_HEADER_BYTES and flight.record_left == 0:
            flight.record_header = 0
        data += taken
        size -= taken
    return True
