# What the fleet asks of Linux, glibc and libcrypto beyond what the plane asks.

from libc.stdint cimport uint16_t, uint32_t

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLL_CTL_MOD

cdef extern from "time.h" nogil:
    enum:
        CLOCK_MONOTONIC

cdef extern from "sys/socket.h" nogil:
    enum:
        SOCK_STREAM
        MSG_TRUNC
        SO_ERROR
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    int socket(int family, int kind, int protocol)
    int bind(int fd, const sockaddr* address, socklen_t size)
    int connect(int fd, const sockaddr* address, socklen_t size)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* size)

cdef extern from "netinet/in.h" nogil:
    enum:
        IPPROTO_IP
        IP_BIND_ADDRESS_NO_PORT
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    uint32_t htonl(uint32_t value)
    uint16_t htons(uint16_t value)

cdef extern from "openssl/evp.h" nogil:
    ctypedef struct EVP_MD:
        pass
    const EVP_MD* EVP_sha256()

cdef extern from "openssl/hmac.h" nogil:
    unsigned char* HMAC(
        const EVP_MD* kind, const void* key, int key_size, const unsigned char* data, size_t size,
        unsigned char* out, unsigned int* out_size)
