"""Certificates, keys, authorities and tickets: the SSL_CTX of new connections.

There is one SSL_CTX for each certificate (hosts says which is whose); all else is the same in all of them, and
connections begin with the first. All are made before any is used, so that what cannot be used changes nothing.

Tickets are stateless: what a returning device needs is sealed with one of the plane's ticket keys and kept
by the device. They outlive a change of the certificate, and with the same keys a restart. But a ticket holds
what was verified when it was made, so it is good only while the same authorities and the same CRLs are in
force: their digest is in the session id context. What Python is told of a certificate travels in the ticket, too.

TLS 1.2 with forward secrecy and AEAD, and TLS 1.3; no compression, no renegotiation, no early data (a
replayed login would be a login).
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from otagate.plane.hosts cimport (
    RULES_BYTES, Host, Hosts, add_names, choose_by_name, create_hosts, destroy_hosts, sort_names,
)
from otagate.plane.identity cimport describe
from otagate.plane.openssl cimport (
    ERR_GET_LIB, ERR_GET_REASON, ERR_LIB_PEM, PEM_R_NO_START_LINE, SSL3_MT_KEY_UPDATE, SSL3_RT_ALERT,
    SSL3_RT_HANDSHAKE, SSL_MODE_RELEASE_BUFFERS, SSL_RECEIVED_SHUTDOWN,
    SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_IGNORE_UNEXPECTED_EOF, SSL_OP_NO_COMPRESSION,
    SSL_OP_NO_RENEGOTIATION, SSL_OP_PRIORITIZE_CHACHA, SSL_SESS_CACHE_OFF, SSL_TICKET_RETURN_IGNORE_RENEW,
    SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW, SSL_TICKET_SUCCESS, SSL_TICKET_SUCCESS_RENEW,
    SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_OK, SSL_VERIFY_FAIL_IF_NO_PEER_CERT, SSL_VERIFY_NONE,
    SSL_VERIFY_PEER, TLS1_2_VERSION, X509_V_FLAG_CRL_CHECK, X509_V_FLAG_PARTIAL_CHAIN,
    BIO, BIO_free, BIO_new_mem_buf, ERR_clear_error, ERR_peek_last_error, ERR_reason_error_string,
    EVP_aes_256_cbc, EVP_CIPHER_CTX, EVP_DecryptInit_ex, EVP_Digest, EVP_EncryptInit_ex, EVP_MAC_CTX,
    EVP_MAC_CTX_set_params, EVP_PKEY, EVP_PKEY_free, EVP_sha256, OSSL_PARAM, OSSL_PARAM_construct_end,
    OSSL_PARAM_construct_octet_string, OSSL_PARAM_construct_utf8_string, PEM_read_bio_PrivateKey, PEM_read_bio_X509, PEM_read_bio_X509_CRL,
    RAND_bytes, SSL, SSL_CTX, SSL_CTX_add1_chain_cert, SSL_CTX_free, SSL_CTX_get_app_data,
    SSL_CTX_get_cert_store, SSL_CTX_new, SSL_CTX_set1_cert_store, SSL_CTX_set1_groups_list,
    SSL_CTX_set_alpn_select_cb, SSL_CTX_set_app_data, SSL_CTX_set_cert_verify_callback,
    SSL_CTX_set_cipher_list, SSL_CTX_set_max_cert_list, SSL_CTX_set_min_proto_version, SSL_CTX_set_mode,
    SSL_CTX_set_msg_callback, SSL_CTX_set_msg_callback_arg, SSL_set_shutdown,
    SSL_CTX_set_num_tickets, SSL_CTX_set_options, SSL_CTX_set_read_ahead, SSL_CTX_set_session_cache_mode,
    SSL_CTX_set_session_id_context, SSL_CTX_set_session_ticket_cb, SSL_CTX_set_timeout,
    SSL_CTX_set_tlsext_ticket_key_evp_cb, SSL_CTX_set_verify, SSL_CTX_use_certificate,
    SSL_CTX_use_PrivateKey, SSL_get_session, SSL_get_SSL_CTX, SSL_SESSION, SSL_SESSION_get0_peer,
    SSL_session_reused, SSL_SESSION_set1_ticket_appdata, TLS_server_method, X509, X509_cmp_current_time,
    X509_CRL, X509_CRL_free, X509_free, X509_get0_notAfter, X509_STORE, X509_STORE_add_cert,
    X509_STORE_add_crl, X509_STORE_CTX, X509_STORE_CTX_get0_chain, X509_STORE_CTX_set0_verified_chain,
    X509_STORE_set_flags, X509_verify_cert,
)
from otagate.plane.state cimport Below, Core, Tls

cdef enum:
    TICKET_LIFE_S = 24 * 3600
    CERTIFICATES_BYTES_MAX = 16384      # of a client's chain
    IV_BYTES = 16
    ODDITIES_MAX = 16                   # of one call: a device updates its keys once a day, if ever

cdef const char* CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM"
cdef const char* GROUPS = b"X25519:P-256:P-384"


# -- what OpenSSL asks during a handshake ----------------------------------------------------------

cdef int refuse_password(char* out, int size, int writing, void* argument) noexcept nogil:
    return -1


cdef int choose_protocol(
    SSL* ssl, const uint8_t** out, uint8_t* out_size, const uint8_t* offered, unsigned int size,
    void* argument
) noexcept nogil:
    """ALPN (RFC 7301 section 3.2): the first one offered that we speak, or no connection."""
    cdef unsigned int at = 0
    while at < size and at + offered[at] < size:
        if (
            (offered[at] == 8 and memcmp(offered + at + 1, b"http/1.1", 8) == 0)
            or (offered[at] == 10 and memcmp(offered + at + 1, b"otagate.v1", 10) == 0)
        ):
            out[0] = offered + at + 1
            out_size[0] = offered[at]
            return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


cdef int find_ticket_key(
    SSL* ssl, uint8_t* name, uint8_t* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int sealing
) noexcept nogil:
    """1: here is the key; 2: so, too, but make a new ticket; 0: there is none; -1: failed."""
    cdef Tls* tls = <Tls*>SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl))
    cdef uint8_t* key = tls.ticket_keys[0]
    cdef OSSL_PARAM parameters[3]
    cdef uint32_t index = 0
    if sealing:
        if tls.ticket_keys_count == 0 or RAND_bytes(iv, IV_BYTES) <= 0:
            return -1
        memcpy(name, key, 16)
    else:
        while index < tls.ticket_keys_count and memcmp(name, tls.ticket_keys[index], 16) != 0:
            index += 1
        if index == tls.ticket_keys_count:
            return 0
        key = tls.ticket_keys[index]
    parameters[0] = OSSL_PARAM_construct_octet_string(b"key", key + 48, 32)
    parameters[1] = OSSL_PARAM_construct_utf8_string(b"digest", b"SHA256", 0)
    parameters[2] = OSSL_PARAM_construct_end()
    if EVP_MAC_CTX_set_params(mac, parameters) <= 0:
        return -1
    if sealing:
        return 1 if EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key + 16, iv) > 0 else -1
    if EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key + 16, iv) <= 0:
        return -1
    return 2 if index else 1


cdef int verify(X509_STORE_CTX* verifying, void* argument) noexcept nogil:
    """OpenSSL's own verification. What it found is noted, and its chain let go: it would cost an idle
    connection 5 KB."""
    cdef Tls* tls = <Tls*>argument
    cdef Below* below = tls.current.below
    if X509_verify_cert(verifying) <= 0:
        return 0
    free(below.certificate)
    below.certificate = NULL
    if describe(
        X509_STORE_CTX_get0_chain(verifying), tls.name_kind, &below.certificate, &below.certificate_size
    ) < 0:
        return 0
    X509_STORE_CTX_set0_verified_chain(verifying, NULL)
    return 1


cdef void watch(
    int written, int version, int kind, const void* data, size_t size, SSL* ssl, void* argument
) noexcept nogil:
    """A key update costs as much as ten small records, and one call may open hundreds of them; renegotiations
    that are refused by an alert are as many. Of whoever sends a flood of them nothing more is read."""
    cdef Tls* tls = <Tls*>argument
    cdef bint is_update = size > 0 and (<const uint8_t*>data)[0] == SSL3_MT_KEY_UPDATE
    if (kind == SSL3_RT_HANDSHAKE and not written and is_update) or (kind == SSL3_RT_ALERT and written):
        tls.oddities += 1
        if tls.oddities > ODDITIES_MAX:
            SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN)


cdef int keep_in_ticket(SSL* ssl, void* argument) noexcept nogil:
    """What is known of the certificate goes into the ticket; a session that was resumed has it already."""
    cdef Below* below = (<Tls*>argument).current.below
    if SSL_session_reused(ssl) or below.certificate == NULL:
        return 1
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), below.certificate, below.certificate_size)


cdef int accept_ticket(
    SSL* ssl, SSL_SESSION* session, const uint8_t* name, size_t size, int status, void* argument
) noexcept nogil:
    """Each resumption brings a new ticket, so without this a certificate would be good long after its end."""
    cdef X509* peer
    if status != SSL_TICKET_SUCCESS and status != SSL_TICKET_SUCCESS_RENEW:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    peer = SSL_SESSION_get0_peer(session)
    if peer != NULL and X509_cmp_current_time(X509_get0_notAfter(peer)) <= 0:
        return SSL_TICKET_RETURN_IGNORE_RENEW
    return SSL_TICKET_RETURN_USE if status == SSL_TICKET_SUCCESS else SSL_TICKET_RETURN_USE_RENEW


# -- PEM -------------------------------------------------------------------------------------------

cdef BIO* reading(const uint8_t* data, uint32_t size) noexcept nogil:
    return BIO_new_mem_buf(data, <int>size)


cdef bint was_last() noexcept nogil:
    """Was there no more, when nothing could be read? Or was it damaged?"""
    cdef unsigned long error = ERR_peek_last_error()
    if ERR_GET_LIB(error) != ERR_LIB_PEM or ERR_GET_REASON(error) != PEM_R_NO_START_LINE:
        return False
    ERR_clear_error()
    return True


cdef Fault use_chain(SSL_CTX* context, const Pair* given) noexcept nogil:
    cdef BIO* bio = reading(given.certificate, given.certificate_size)
    cdef X509* certificate
    cdef int count = 0
    cdef int used = 1
    while used > 0:
        certificate = PEM_read_bio_X509(bio, NULL, refuse_password, NULL)
        if certificate == NULL:
            break
        if count == 0:
            used = SSL_CTX_use_certificate(context, certificate)
        else:
            used = SSL_CTX_add1_chain_cert(context, certificate)
        X509_free(certificate)
        count += 1
    BIO_free(bio)
    if used <= 0 or not was_last() or count == 0:
        return FAULT_CERTIFICATE
    return FAULT_NONE


cdef Fault use_key(SSL_CTX* context, const Pair* given) noexcept nogil:
    cdef BIO* bio = reading(given.key, given.key_size)
    cdef EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, NULL, refuse_password, NULL)
    cdef int used = 0
    BIO_free(bio)
    if key != NULL:
        used = SSL_CTX_use_PrivateKey(context, key)  # compares it with the certificate, too
        EVP_PKEY_free(key)
    return FAULT_NONE if used > 0 else FAULT_KEY


cdef Fault use_authorities(SSL_CTX* context, const Credentials* given) noexcept nogil:
    cdef X509_STORE* store = SSL_CTX_get_cert_store(context)
    cdef BIO* bio = reading(given.authorities, given.authorities_size)
    cdef X509* authority
    cdef int count = 0
    cdef int added = 1
    while added > 0:
        authority = PEM_read_bio_X509(bio, NULL, refuse_password, NULL)
        if authority == NULL:
            break
        added = X509_STORE_add_cert(store, authority)
        X509_free(authority)
        count += 1
    BIO_free(bio)
    if added <= 0 or not was_last() or count == 0:
        return FAULT_AUTHORITIES
    # Any authority named is an end of the chain: that of a product may be signed by one that is not named.
    X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN)
    return FAULT_NONE


cdef Fault use_revocations(SSL_CTX* context, const Credentials* given) noexcept nogil:
    cdef X509_STORE* store = SSL_CTX_get_cert_store(context)
    cdef BIO* bio = reading(given.revocations, given.revocations_size)
    cdef X509_CRL* crl
    cdef int count = 0
    cdef int added = 1
    while added > 0:
        crl = PEM_read_bio_X509_CRL(bio, NULL, refuse_password, NULL)
        if crl == NULL:
            break
        added = X509_STORE_add_crl(store, crl)
        X509_CRL_free(crl)
        count += 1
    BIO_free(bio)
    if added <= 0 or not was_last() or count == 0:
        return FAULT_REVOCATIONS
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK)
    return FAULT_NONE


# -- the contexts ----------------------------------------------------------------------------------

cdef int set_rules(SSL_CTX* context, const Credentials* given, Tls* tls) noexcept nogil:
    cdef int mode = SSL_VERIFY_NONE
    if given.ask:
        mode = SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if given.insist else 0)
    SSL_CTX_set_verify(context, mode, NULL)
    SSL_CTX_set_cert_verify_callback(context, verify, tls)
    SSL_CTX_set_app_data(context, tls)
    SSL_CTX_set_options(
        context,
        SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE
        | SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF,
    )
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS)
    SSL_CTX_set_read_ahead(context, 1)  # one receive for all that has come, not two for each record
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_num_tickets(context, 1)
    SSL_CTX_set_timeout(context, TICKET_LIFE_S)
    SSL_CTX_set_max_cert_list(context, CERTIFICATES_BYTES_MAX)
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL)
    SSL_CTX_set_tlsext_ticket_key_evp_cb(context, find_ticket_key)
    SSL_CTX_set_msg_callback(context, watch)
    SSL_CTX_set_msg_callback_arg(context, tls)
    SSL_CTX_set_session_ticket_cb(context, keep_in_ticket, accept_ticket, tls)
    if SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) <= 0:
        return -1
    if SSL_CTX_set_cipher_list(context, CIPHERS) <= 0 or SSL_CTX_set1_groups_list(context, GROUPS) <= 0:
        return -1
    return 0


cdef void digest_rules(const Credentials* given, uint8_t* out) noexcept nogil:
    """Tickets made under other rules for client certificates are no good here."""
    cdef uint8_t digest[3 * RULES_BYTES]
    cdef uint8_t rules[3]
    EVP_Digest(given.authorities, given.authorities_size, digest, NULL, EVP_sha256(), NULL)
    EVP_Digest(given.revocations, given.revocations_size, digest + RULES_BYTES, NULL, EVP_sha256(), NULL)
    rules[0] = given.ask
    rules[1] = given.insist
    rules[2] = <uint8_t>given.name_kind
    EVP_Digest(rules, 3, digest + 2 * RULES_BYTES, NULL, EVP_sha256(), NULL)
    EVP_Digest(digest, 3 * RULES_BYTES, out, NULL, EVP_sha256(), NULL)


cdef Fault make_first(Hosts* hosts, const Credentials* given) noexcept nogil:
    cdef SSL_CTX* context = hosts.contexts[0]
    cdef Fault fault = FAULT_NONE
    if given.authorities_size:
        fault = use_authorities(context, given)
    if fault == FAULT_NONE and given.revocations_size:
        fault = use_revocations(context, given)
    digest_rules(given, hosts.rules)
    if fault == FAULT_NONE and SSL_CTX_set_session_id_context(context, hosts.rules, RULES_BYTES) <= 0:
        fault = FAULT_MEMORY
    return fault


cdef Fault make_context(
    Hosts* hosts, uint32_t pair, const Credentials* given, Tls* tls
) noexcept nogil:
    cdef SSL_CTX* context = SSL_CTX_new(TLS_server_method())
    cdef Fault fault
    cdef int names
    hosts.contexts[pair] = context
    if context == NULL or set_rules(context, given, tls) < 0:
        return FAULT_MEMORY
    fault = use_chain(context, given.pairs + pair)
    if fault == FAULT_NONE:
        fault = use_key(context, given.pairs + pair)
    if fault != FAULT_NONE:
        return fault
    names = add_names(hosts, pair)
    if names < 0:
        return FAULT_MEMORY
    if pair == 0:
        return make_first(hosts, given)
    SSL_CTX_set1_cert_store(context, SSL_CTX_get_cert_store(hosts.contexts[0]))
    return FAULT_NONE if names else FAULT_NAMELESS


cdef Fault make_contexts(
    Hosts* hosts, const Credentials* given, Tls* tls, Culprit* culprit
) noexcept nogil:
    cdef const Host* doubled
    cdef Fault fault
    for culprit.pair in range(given.pairs_count):
        fault = make_context(hosts, culprit.pair, given, tls)
        if fault != FAULT_NONE:
            return fault
    doubled = sort_names(hosts)
    if doubled != NULL:
        culprit.host = doubled[0]
        culprit.pair = min(doubled[0].context, doubled[1].context)
        culprit.other = max(doubled[0].context, doubled[1].context)
        return FAULT_SAME_NAME
    return FAULT_NONE


cdef Fault use_credentials(Core* core, const Credentials* given, Culprit* culprit) noexcept nogil:
    cdef Hosts* hosts = create_hosts(given.pairs_count)
    cdef SSL_CTX* first
    cdef Fault fault
    ERR_clear_error()
    if hosts == NULL:
        return FAULT_MEMORY
    fault = make_contexts(hosts, given, &core.tls, culprit)
    culprit.reason = ERR_reason_error_string(ERR_peek_last_error())
    ERR_clear_error()  # or Python's ssl, in this thread, would take it for its own
    first = hosts.contexts[0]
    if fault == FAULT_NONE and choose_by_name(hosts, &core.tls) < 0:
        fault = FAULT_MEMORY
    if fault != FAULT_NONE:
        destroy_hosts(hosts)
        return fault
    SSL_CTX_free(core.tls.context)
    core.tls.context = first
    core.tls.name_kind = given.name_kind
    return FAULT_NONE
