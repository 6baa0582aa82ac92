# What the plane asks of OpenSSL 3 (libssl, libcrypto).

from libc.stdint cimport uint8_t, uint64_t

cdef extern from "openssl/ssl.h" nogil:
    enum:
        TLS1_2_VERSION, TLS1_3_VERSION
        SSL_OP_NO_COMPRESSION, SSL_OP_NO_RENEGOTIATION, SSL_OP_IGNORE_UNEXPECTED_EOF
        SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA
        SSL_MODE_RELEASE_BUFFERS
        SSL_SESS_CACHE_OFF
        SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
        SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL
        SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_ALERT_FATAL, SSL_TLSEXT_ERR_NOACK
        TLSEXT_TYPE_server_name
        SSL3_RT_HANDSHAKE, SSL3_RT_ALERT, SSL3_MT_KEY_UPDATE, SSL_RECEIVED_SHUTDOWN
        SSL_CLIENT_HELLO_SUCCESS, SSL_CLIENT_HELLO_ERROR
        SSL_TICKET_SUCCESS, SSL_TICKET_SUCCESS_RENEW
        SSL_TICKET_RETURN_IGNORE_RENEW, SSL_TICKET_RETURN_USE, SSL_TICKET_RETURN_USE_RENEW

    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CIPHER:
        pass
    ctypedef struct SSL_SESSION:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct X509_CRL:
        pass
    ctypedef struct X509_NAME:
        pass
    ctypedef struct X509_NAME_ENTRY:
        pass
    ctypedef struct X509_STORE:
        pass
    ctypedef struct X509_STORE_CTX:
        pass
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_MD:
        pass
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    ctypedef struct ENGINE:
        pass
    ctypedef struct CRYPTO_EX_DATA:
        pass
    ctypedef struct OSSL_PARAM:
        pass
    ctypedef struct ASN1_STRING:
        pass
    ctypedef struct ASN1_TIME:
        pass
    ctypedef struct X509_REVOKED:
        pass
    ctypedef struct OSSL_LIB_CTX:
        pass
    ctypedef struct GENERAL_NAME:
        pass
    ctypedef struct X509Stack "STACK_OF(X509)":
        pass
    ctypedef struct GeneralNames "GENERAL_NAMES":
        pass
    ctypedef struct RevokedStack "STACK_OF(X509_REVOKED)":
        pass

    const SSL_METHOD* TLS_server_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    void SSL_CTX_free(SSL_CTX* context)
    int SSL_CTX_set_min_proto_version(SSL_CTX* context, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX* context, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX* context, long mode)
    long SSL_CTX_set_session_cache_mode(SSL_CTX* context, long mode)
    int SSL_CTX_set_cipher_list(SSL_CTX* context, const char* names)
    int SSL_CTX_set1_groups_list(SSL_CTX* context, const char* names)
    int SSL_CTX_set_num_tickets(SSL_CTX* context, size_t count)
    long SSL_CTX_set_timeout(SSL_CTX* context, long seconds)
    void SSL_CTX_set_read_ahead(SSL_CTX* context, int yes)
    long SSL_CTX_set_max_cert_list(SSL_CTX* context, long size)
    int SSL_CTX_set_session_id_context(SSL_CTX* context, const uint8_t* data, unsigned int size)
    int SSL_CTX_use_certificate(SSL_CTX* context, X509* certificate)
    int SSL_CTX_add1_chain_cert(SSL_CTX* context, X509* certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX* context, EVP_PKEY* key)
    X509_STORE* SSL_CTX_get_cert_store(const SSL_CTX* context)
    void SSL_CTX_set_cert_verify_callback(
        SSL_CTX* context, int (*verify)(X509_STORE_CTX*, void*) noexcept nogil, void* argument)
    void SSL_CTX_set_verify(SSL_CTX* context, int mode, void* callback)
    void SSL_CTX_set_alpn_select_cb(
        SSL_CTX* context,
        int (*choose)(SSL*, const uint8_t**, uint8_t*, const uint8_t*, unsigned int, void*) noexcept nogil,
        void* argument)
    int SSL_CTX_set_tlsext_ticket_key_evp_cb(
        SSL_CTX* context,
        int (*find)(SSL*, uint8_t*, uint8_t*, EVP_CIPHER_CTX*, EVP_MAC_CTX*, int) noexcept nogil)
    int SSL_CTX_set_session_ticket_cb(
        SSL_CTX* context, int (*made)(SSL*, void*) noexcept nogil,
        int (*opened)(SSL*, SSL_SESSION*, const uint8_t*, size_t, int, void*) noexcept nogil,
        void* argument)
    void SSL_CTX_set_msg_callback(
        SSL_CTX* context,
        void (*watch)(int, int, int, const void*, size_t, SSL*, void*) noexcept nogil)
    long SSL_CTX_set_msg_callback_arg(SSL_CTX* context, void* argument)
    int SSL_CTX_set_app_data(SSL_CTX* context, void* data)
    void* SSL_CTX_get_app_data(SSL_CTX* context)
    int SSL_CTX_get_ex_new_index(
        long number, void* pointer, void* new, void* duplicate,
        void (*free)(void*, void*, CRYPTO_EX_DATA*, int, long, void*) noexcept nogil)
    int SSL_CTX_set_ex_data(SSL_CTX* context, int index, void* data)
    X509* SSL_CTX_get0_certificate(const SSL_CTX* context)
    void SSL_CTX_set1_cert_store(SSL_CTX* context, X509_STORE* store)
    void SSL_CTX_set_client_hello_cb(
        SSL_CTX* context, int (*choose)(SSL*, int*, void*) noexcept nogil, void* argument)
    long SSL_CTX_set_tlsext_servername_callback(
        SSL_CTX* context, int (*acknowledge)(SSL*, int*, void*) noexcept nogil)
    long SSL_CTX_set_tlsext_servername_arg(SSL_CTX* context, void* argument)
    SSL_CTX* SSL_get_SSL_CTX(const SSL* ssl)
    SSL_CTX* SSL_set_SSL_CTX(SSL* ssl, SSL_CTX* context)
    int SSL_set_session_id_context(SSL* ssl, const uint8_t* data, unsigned int size)
    int SSL_client_hello_get0_ext(SSL* ssl, unsigned int type, const uint8_t** out, size_t* size)

    SSL* SSL_new(SSL_CTX* context)
    void SSL_free(SSL* ssl)
    void SSL_set_bio(SSL* ssl, BIO* reading, BIO* writing)
    void SSL_set_accept_state(SSL* ssl)
    int SSL_read(SSL* ssl, void* buffer, int size)
    int SSL_write(SSL* ssl, const void* data, int size)
    int SSL_shutdown(SSL* ssl)
    void SSL_set_shutdown(SSL* ssl, int mode)
    int SSL_get_error(const SSL* ssl, int returned)
    int SSL_version(const SSL* ssl)
    int SSL_is_init_finished(const SSL* ssl)
    int SSL_session_reused(const SSL* ssl)
    SSL_SESSION* SSL_get_session(const SSL* ssl)
    SSL_SESSION* SSL_SESSION_new()
    void SSL_SESSION_free(SSL_SESSION* session)
    int SSL_SESSION_set_cipher(SSL_SESSION* session, const SSL_CIPHER* cipher)
    int SSL_SESSION_set_protocol_version(SSL_SESSION* session, int version)
    const SSL_CIPHER* SSL_SESSION_get0_cipher(const SSL_SESSION* session)
    int SSL_SESSION_get_protocol_version(const SSL_SESSION* session)
    X509* SSL_SESSION_get0_peer(SSL_SESSION* session)
    int i2d_SSL_SESSION(const SSL_SESSION* session, uint8_t** out)
    SSL_SESSION* d2i_SSL_SESSION(SSL_SESSION** session, const uint8_t** data, long size)
    X509Stack* SSL_get_peer_cert_chain(const SSL* ssl)
    int SSL_SESSION_set1_ticket_appdata(SSL_SESSION* session, const void* data, size_t size)
    int SSL_SESSION_get0_ticket_appdata(SSL_SESSION* session, void** data, size_t* size)

cdef extern from "openssl/bio.h" nogil:
    enum:
        BIO_TYPE_SOURCE_SINK
        BIO_CTRL_FLUSH, BIO_CTRL_EOF
    BIO_METHOD* BIO_meth_new(int type, const char* name)
    void BIO_meth_free(BIO_METHOD* method)
    int BIO_meth_set_write(BIO_METHOD* method, int (*call)(BIO*, const char*, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD* method, int (*call)(BIO*, char*, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD* method, long (*call)(BIO*, int, long, void*) noexcept nogil)
    BIO* BIO_new(const BIO_METHOD* method)
    BIO* BIO_new_mem_buf(const void* data, int size)
    int BIO_free(BIO* bio)
    int BIO_up_ref(BIO* bio)
    void BIO_set_data(BIO* bio, void* data)
    void* BIO_get_data(BIO* bio)
    void BIO_set_init(BIO* bio, int yes)
    void BIO_clear_retry_flags(BIO* bio)
    void BIO_set_retry_read(BIO* bio)

cdef extern from "openssl/pem.h" nogil:
    X509* PEM_read_bio_X509(
        BIO* bio, X509** out, int (*ask)(char*, int, int, void*) noexcept nogil, void* argument)
    X509_CRL* PEM_read_bio_X509_CRL(
        BIO* bio, X509_CRL** out, int (*ask)(char*, int, int, void*) noexcept nogil, void* argument)
    EVP_PKEY* PEM_read_bio_PrivateKey(
        BIO* bio, EVP_PKEY** out, int (*ask)(char*, int, int, void*) noexcept nogil, void* argument)

cdef extern from "openssl/x509v3.h" nogil:
    enum:
        X509_V_FLAG_CRL_CHECK, X509_V_FLAG_PARTIAL_CHAIN
        NID_commonName, NID_subject_alt_name
        GEN_URI, GEN_DNS
    void X509_free(X509* certificate)
    void X509_CRL_free(X509_CRL* crl)
    X509_NAME* X509_get_subject_name(const X509* certificate)
    const ASN1_TIME* X509_get0_notAfter(const X509* certificate)
    int X509_cmp_current_time(const ASN1_TIME* time)
    X509_NAME* X509_get_issuer_name(const X509* certificate)
    const ASN1_STRING* X509_get0_serialNumber(const X509* certificate)
    unsigned long X509_NAME_hash_ex(
        const X509_NAME* name, OSSL_LIB_CTX* library, const char* properties, int* good)
    X509_NAME* X509_CRL_get_issuer(const X509_CRL* crl)
    RevokedStack* X509_CRL_get_REVOKED(X509_CRL* crl)
    int sk_X509_REVOKED_num(const RevokedStack* stack)
    X509_REVOKED* sk_X509_REVOKED_value(const RevokedStack* stack, int index)
    const ASN1_STRING* X509_REVOKED_get0_serialNumber(const X509_REVOKED* revoked)
    int X509_NAME_get_index_by_NID(const X509_NAME* name, int nid, int after)
    X509_NAME_ENTRY* X509_NAME_get_entry(const X509_NAME* name, int index)
    ASN1_STRING* X509_NAME_ENTRY_get_data(const X509_NAME_ENTRY* entry)
    void* X509_get_ext_d2i(const X509* certificate, int nid, int* critical, int* index)
    int X509_digest(const X509* certificate, const EVP_MD* kind, uint8_t* out, unsigned int* size)
    int X509_STORE_add_cert(X509_STORE* store, X509* certificate)
    int X509_STORE_add_crl(X509_STORE* store, X509_CRL* crl)
    int X509_STORE_set_flags(X509_STORE* store, unsigned long flags)
    int X509_verify_cert(X509_STORE_CTX* verifying)
    X509Stack* X509_STORE_CTX_get0_chain(const X509_STORE_CTX* verifying)
    void X509_STORE_CTX_set0_verified_chain(X509_STORE_CTX* verifying, X509Stack* chain)
    X509* sk_X509_pop(X509Stack* stack)
    int sk_X509_num(const X509Stack* stack)
    X509* sk_X509_value(const X509Stack* stack, int index)
    int sk_GENERAL_NAME_num(const GeneralNames* names)
    GENERAL_NAME* sk_GENERAL_NAME_value(const GeneralNames* names, int index)
    void GENERAL_NAMES_free(GeneralNames* names)
    void* GENERAL_NAME_get0_value(const GENERAL_NAME* name, int* kind)
    const uint8_t* ASN1_STRING_get0_data(const ASN1_STRING* string)
    int ASN1_STRING_length(const ASN1_STRING* string)

cdef extern from "openssl/evp.h" nogil:
    void EVP_PKEY_free(EVP_PKEY* key)
    const EVP_MD* EVP_sha256()
    const EVP_CIPHER* EVP_aes_256_cbc()
    int EVP_EncryptInit_ex(
        EVP_CIPHER_CTX* context, const EVP_CIPHER* kind, ENGINE* engine,
        const uint8_t* key, const uint8_t* iv)
    int EVP_DecryptInit_ex(
        EVP_CIPHER_CTX* context, const EVP_CIPHER* kind, ENGINE* engine,
        const uint8_t* key, const uint8_t* iv)
    int EVP_Digest(
        const void* data, size_t size, uint8_t* out, unsigned int* out_size,
        const EVP_MD* kind, ENGINE* engine)
    int EVP_MAC_CTX_set_params(EVP_MAC_CTX* context, const OSSL_PARAM* parameters)

cdef extern from "openssl/params.h" nogil:
    OSSL_PARAM OSSL_PARAM_construct_octet_string(const char* name, void* data, size_t size)
    OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char* name, char* text, size_t size)
    OSSL_PARAM OSSL_PARAM_construct_end()

cdef extern from "openssl/rand.h" nogil:
    int RAND_bytes(uint8_t* out, int size)

cdef extern from "openssl/err.h" nogil:
    enum:
        ERR_LIB_PEM, PEM_R_NO_START_LINE
    int ERR_GET_LIB(unsigned long error)
    int ERR_GET_REASON(unsigned long error)
    void ERR_clear_error()
    unsigned long ERR_peek_last_error()
    const char* ERR_reason_error_string(unsigned long error)
