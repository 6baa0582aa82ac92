"""PROXY headers (version 2 of HAProxy's protocol), and who may send them.

A load balancer in front of the gateway says in a header for whom it speaks; then the device's own bytes
follow. Whoever may say so can claim any address, so only the networks that were named may: everybody else's
header ends the connection. From a named network a header is welcome, not required (a health check has none).

The address is for people, in logs and answers; and it is the one whose strangers are counted, since a proxy's
own would be everybody's.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy

from otagate.plane.state cimport Below, Connection, Core, Network
from otagate.plane.system cimport (
    AF_INET, AF_INET6, getpeername, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)
from otagate.plane.strangers cimport count_stranger, find_bucket, forget_stranger

cdef enum:
    SIGNATURE_BYTES = 12
    HEADER_BYTES = 16                   # signature, version and command, family, length
    HEADER_BYTES_MAX = 2048             # with addresses and TLVs
    COMMAND_LOCAL = 0x20                # the proxy speaks for itself
    COMMAND_PROXY = 0x21
    TCP_IPV4 = 0x11                     # two addresses, two ports
    TCP_IPV6 = 0x21
    ADDRESSES_IPV4 = 12
    ADDRESSES_IPV6 = 36

cdef const char* MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"  # ::ffff:0:0/96, an IPv4 address
cdef const char* SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


cdef bint within(const Network* network, const uint8_t* address) noexcept nogil:
    cdef int whole = network.bits // 8
    cdef int rest = network.bits % 8
    if memcmp(network.address, address, whole) != 0:
        return False
    return rest == 0 or (network.address[whole] ^ address[whole]) >> (8 - rest) == 0


cdef bint is_trusted(Core* core, const sockaddr_storage* address) noexcept nogil:
    cdef uint8_t wide[16]
    cdef bint narrow
    cdef uint32_t i
    if address.ss_family == AF_INET:
        memcpy(wide, MAPPED, 12)
        memcpy(wide + 12, &(<const sockaddr_in*>address).sin_addr, 4)
    elif address.ss_family == AF_INET6:
        memcpy(wide, &(<const sockaddr_in6*>address).sin6_addr, 16)
    else:
        return False
    narrow = memcmp(wide, MAPPED, 12) == 0
    for i in range(core.networks_count):
        if narrow and core.networks[i].bits < 96:
            continue  # ::/0 means IPv6
        if within(core.networks + i, wide):
            return True
    return False


cdef bint is_from_proxy(Core* core, Connection* connection) noexcept nogil:
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    if core.networks_count == 0 or getpeername(connection.fd, <sockaddr*>&address, &size) < 0:
        return False
    return is_trusted(core, &address)


cdef void keep_address(Below* below, int family, const uint8_t* address, const uint8_t* port) noexcept nogil:
    below.family = <uint8_t>family
    memcpy(below.address, address, 4 if family == AF_INET else 16)
    below.port = <uint8_t>port[0] << 8 | port[1]


cdef bint count_named(Core* core, Connection* connection) noexcept nogil:
    """Counts the stranger for whom the proxy speaks. False: there are too many of its address."""
    cdef sockaddr_storage address
    cdef uint16_t bucket
    address.ss_family = connection.below.family
    if address.ss_family == AF_INET:
        memcpy(&(<sockaddr_in*>&address).sin_addr, connection.below.address, 4)
    else:
        memcpy(&(<sockaddr_in6*>&address).sin6_addr, connection.below.address, 16)
    if not find_bucket(core, &address, &bucket):
        return False
    forget_stranger(core, connection)  # it came before its network was trusted
    count_stranger(core, connection, bucket)
    return True


cdef size_t addresses_size(uint8_t command, uint8_t family) noexcept nogil:
    """Bytes of the addresses in a header; 0: it has none that we know."""
    if command == COMMAND_LOCAL:
        return 0
    if family == TCP_IPV4:
        return ADDRESSES_IPV4
    return ADDRESSES_IPV6 if family == TCP_IPV6 else 0


cdef int take_proxy_header(
    Core* core, Connection* connection, const uint8_t* data, size_t size
) noexcept nogil:
    cdef const uint8_t* addresses = data + HEADER_BYTES
    cdef size_t length, known
    if memcmp(data, SIGNATURE, min(size, <size_t>SIGNATURE_BYTES)) != 0:
        return PROXY_REFUSED
    if connection.below != NULL or not is_from_proxy(core, connection):
        return PROXY_REFUSED  # there was one already, it is inside of TLS, or anybody's
    if size < HEADER_BYTES:
        return PROXY_MORE
    length = <size_t>data[14] << 8 | data[15]
    known = addresses_size(data[12], data[13])
    if HEADER_BYTES + length > HEADER_BYTES_MAX or length < known:
        return PROXY_REFUSED
    if data[12] != COMMAND_LOCAL and data[12] != COMMAND_PROXY:
        return PROXY_REFUSED
    if size < HEADER_BYTES + length:
        return PROXY_MORE
    connection.below = <Below*>calloc(1, sizeof(Below))
    if connection.below == NULL:
        return PROXY_MEMORY
    if known == ADDRESSES_IPV4:
        keep_address(connection.below, AF_INET, addresses, addresses + 8)
    elif known == ADDRESSES_IPV6:
        keep_address(connection.below, AF_INET6, addresses, addresses + 32)
    if known and not count_named(core, connection):
        return PROXY_CROWDED
    return <int>(HEADER_BYTES + length)
