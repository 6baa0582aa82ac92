"""Which certificate for which name: what a client asks for in server_name (RFC 6066 section 3).

A certificate is for the DNS names in it, exact or with `*` for the whole first label (RFC 6125 section 6.4.3);
its common name counts for nothing. The first certificate is also for whoever asks for no name, as small TLS
stacks do, and for a name that nobody has: the client knows whom it trusts, and a certificate that it can look
at tells it more than an alert.

The choice is made when the ClientHello is whole and before a ticket is looked at, because a ticket is good only
under the name that it was made for (RFC 6066, same section): the session id context is of name and rules. What
is malformed counts as no name here; OpenSSL ends the connection a moment later.

Invariant: a handshake ends under the rules that it began under. So the names belong to the SSL_CTX that it
begins with, and go with the last connection that has it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport bsearch, calloc, free, qsort, realloc
from libc.string cimport memchr, memcmp, memcpy

from otagate.plane.openssl cimport (
    GEN_DNS, NID_subject_alt_name, SSL_CLIENT_HELLO_ERROR, SSL_CLIENT_HELLO_SUCCESS, SSL_TLSEXT_ERR_NOACK,
    SSL_TLSEXT_ERR_OK, TLSEXT_TYPE_server_name,
    ASN1_STRING, ASN1_STRING_get0_data, ASN1_STRING_length, CRYPTO_EX_DATA, EVP_Digest, EVP_sha256,
    GENERAL_NAME_get0_value, GENERAL_NAMES_free, GeneralNames, SSL, SSL_client_hello_get0_ext, SSL_CTX,
    SSL_CTX_free, SSL_CTX_get0_certificate, SSL_CTX_get_ex_new_index, SSL_CTX_set_client_hello_cb,
    SSL_CTX_set_ex_data, SSL_CTX_set_tlsext_servername_arg, SSL_CTX_set_tlsext_servername_callback,
    SSL_set_session_id_context, SSL_set_SSL_CTX, X509_get_ext_d2i, sk_GENERAL_NAME_num,
    sk_GENERAL_NAME_value,
)
from otagate.plane.state cimport Tls

cdef enum:
    LIST_HEAD_BYTES = 5                 # sizes of the list and of its one name, between them its type


# -- the names of certificates ---------------------------------------------------------------------

cdef Hosts* create_hosts(uint32_t contexts_count) noexcept nogil:
    cdef Hosts* hosts = <Hosts*>calloc(1, sizeof(Hosts))
    if hosts == NULL:
        return NULL
    hosts.contexts = <SSL_CTX**>calloc(contexts_count, sizeof(SSL_CTX*))
    if hosts.contexts == NULL:
        free(hosts)
        return NULL
    hosts.contexts_count = contexts_count
    return hosts


cdef void destroy_hosts(Hosts* hosts) noexcept nogil:
    cdef uint32_t i
    for i in range(hosts.contexts_count):
        SSL_CTX_free(hosts.contexts[i])
    free(hosts.contexts)
    free(hosts.items)
    free(hosts)


cdef void go_with_context(
    void* context, void* hosts, CRYPTO_EX_DATA* data, int index, long number, void* pointer
) noexcept nogil:
    if hosts != NULL:
        destroy_hosts(<Hosts*>hosts)


cdef int hosts_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, go_with_context)


cdef size_t lower(const uint8_t* name, size_t size, uint8_t* out) noexcept nogil:
    """Its size; 0: no name."""
    cdef size_t i
    if size > HOST_BYTES_MAX:
        return 0
    for i in range(size):
        out[i] = name[i] | 0x20 if c"A" <= name[i] <= c"Z" else name[i]
    return size


cdef bint is_host(const uint8_t* name, size_t size) noexcept nogil:
    """`*` stands for a whole first label, or the name is none."""
    cdef size_t skip = 2 if size > 2 and name[0] == c"*" and name[1] == c"." else 0
    return size > 0 and memchr(name + skip, c"*", size - skip) == NULL


cdef int add_names(Hosts* hosts, uint32_t context) noexcept nogil:
    cdef GeneralNames* names = <GeneralNames*>X509_get_ext_d2i(
        SSL_CTX_get0_certificate(hosts.contexts[context]), NID_subject_alt_name, NULL, NULL
    )
    cdef int kind = -1
    cdef int added = 0
    cdef int i
    cdef void* value
    cdef size_t size
    cdef Host* host
    cdef Host* grown
    if names == NULL:
        return 0
    grown = <Host*>realloc(hosts.items, (hosts.count + sk_GENERAL_NAME_num(names) + 1) * sizeof(Host))
    if grown == NULL:
        GENERAL_NAMES_free(names)
        return -1
    hosts.items = grown
    for i in range(sk_GENERAL_NAME_num(names)):
        value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &kind)
        if kind != GEN_DNS:
            continue
        host = hosts.items + hosts.count
        size = lower(
            ASN1_STRING_get0_data(<ASN1_STRING*>value), ASN1_STRING_length(<ASN1_STRING*>value), host.name
        )
        if is_host(host.name, size):
            host.context = <uint16_t>context
            host.size = <uint8_t>size
            hosts.count += 1
            added += 1
    GENERAL_NAMES_free(names)
    return added


cdef int compare(const void* left, const void* right) noexcept nogil:
    cdef const Host* a = <const Host*>left
    cdef const Host* b = <const Host*>right
    if a.size != b.size:
        return <int>a.size - <int>b.size
    return memcmp(a.name, b.name, a.size)


cdef const Host* sort_names(Hosts* hosts) noexcept nogil:
    cdef uint32_t i
    if hosts.count:
        qsort(hosts.items, hosts.count, sizeof(Host), compare)
    for i in range(1, hosts.count):
        if (
            hosts.items[i].context != hosts.items[i - 1].context
            and compare(hosts.items + i, hosts.items + i - 1) == 0
        ):
            return hosts.items + i - 1
    return NULL


# -- what OpenSSL asks during a handshake ----------------------------------------------------------

cdef size_t asked_name(SSL* ssl, uint8_t* out) noexcept nogil:
    """Its size; 0: none."""
    cdef const uint8_t* data = NULL
    cdef size_t size = 0
    if not SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &size) or size < LIST_HEAD_BYTES:
        return 0
    if (
        (<size_t>data[0] << 8 | data[1]) != size - 2
        or data[2] != 0  # host_name
        or (<size_t>data[3] << 8 | data[4]) != size - LIST_HEAD_BYTES
    ):
        return 0
    return lower(data + LIST_HEAD_BYTES, size - LIST_HEAD_BYTES, out)


cdef const Host* find_host(const Hosts* hosts, const uint8_t* name, size_t size) noexcept nogil:
    """Whose name it is; or else whose wildcard is that of its first label."""
    cdef Host wanted
    cdef const Host* found
    cdef const uint8_t* dot = <const uint8_t*>memchr(name, c".", size)
    if hosts.count == 0:
        return NULL
    wanted.size = <uint8_t>size
    memcpy(wanted.name, name, size)
    found = <const Host*>bsearch(&wanted, hosts.items, hosts.count, sizeof(Host), compare)
    if found != NULL or dot == NULL or dot == name:
        return found
    wanted.size = <uint8_t>(1 + size - (dot - name))
    wanted.name[0] = c"*"
    memcpy(wanted.name + 1, dot, wanted.size - 1)
    return <const Host*>bsearch(&wanted, hosts.items, hosts.count, sizeof(Host), compare)


cdef int choose(SSL* ssl, int* alert, void* argument) noexcept nogil:
    """By a ClientHello, the second of a handshake too, should none have been chosen by the first."""
    cdef Hosts* hosts = <Hosts*>argument
    cdef uint8_t known[RULES_BYTES + HOST_BYTES_MAX]
    cdef uint8_t* name = known + RULES_BYTES
    cdef size_t size = asked_name(ssl, name)
    cdef const Host* host
    if size == 0:
        return SSL_CLIENT_HELLO_SUCCESS
    host = find_host(hosts, name, size)
    if host != NULL and host.context and SSL_set_SSL_CTX(ssl, hosts.contexts[host.context]) == NULL:
        return SSL_CLIENT_HELLO_ERROR
    memcpy(known, hosts.rules, RULES_BYTES)
    if not EVP_Digest(known, RULES_BYTES + size, known, NULL, EVP_sha256(), NULL):
        return SSL_CLIENT_HELLO_ERROR
    if not SSL_set_session_id_context(ssl, known, RULES_BYTES):
        return SSL_CLIENT_HELLO_ERROR
    hosts.tls.current.below.named = host != NULL
    return SSL_CLIENT_HELLO_SUCCESS


cdef int acknowledge(SSL* ssl, int* alert, void* argument) noexcept nogil:
    return SSL_TLSEXT_ERR_OK if (<Tls*>argument).current.below.named else SSL_TLSEXT_ERR_NOACK


cdef int choose_by_name(Hosts* hosts, Tls* tls) noexcept nogil:
    cdef SSL_CTX* first = hosts.contexts[0]
    if not SSL_CTX_set_ex_data(first, hosts_index, hosts):
        return -1
    hosts.contexts[0] = NULL  # its reference is the caller's now
    hosts.tls = tls
    SSL_CTX_set_client_hello_cb(first, choose, hosts)
    SSL_CTX_set_tlsext_servername_callback(first, acknowledge)
    SSL_CTX_set_tlsext_servername_arg(first, tls)
    return 0
