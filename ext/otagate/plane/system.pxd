# What the plane asks of Linux and of glibc.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.types cimport off_t

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLERR, EPOLLHUP, EPOLLET
        EPOLL_CTL_ADD, EPOLL_CTL_DEL
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int events_max, int timeout_ms)

cdef extern from "time.h" nogil:
    enum:
        CLOCK_BOOTTIME
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int clock_gettime(int clock, timespec* time)

cdef extern from "sys/timerfd.h" nogil:
    enum:
        TFD_NONBLOCK, TFD_CLOEXEC
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* value, itimerspec* former)

cdef extern from "sys/socket.h" nogil:
    enum:
        SOCK_NONBLOCK, SOCK_CLOEXEC
        MSG_NOSIGNAL, MSG_MORE
        SOL_SOCKET, SO_SNDBUF, SO_LINGER
        SHUT_WR
        AF_INET, AF_INET6
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t send(int fd, const void* buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t size)
    int getpeername(int fd, sockaddr* address, socklen_t* size)
    int shutdown(int fd, int how)

cdef extern from "netinet/in.h" nogil:
    enum:
        IPPROTO_TCP
        INET6_ADDRSTRLEN
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr

cdef extern from "netinet/tcp.h" nogil:
    enum:
        TCP_NODELAY

cdef extern from "arpa/inet.h" nogil:
    const char* inet_ntop(int family, const void* address, char* out, socklen_t size)
    unsigned short ntohs(unsigned short port)

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, int* value)

cdef extern from "linux/sockios.h" nogil:
    enum:
        SIOCOUTQ                        # bytes in the send queue that the peer has not acknowledged

cdef extern from "sys/sendfile.h" nogil:
    ssize_t sendfile(int out, int source, off_t* offset, size_t size)

cdef extern from "sys/mman.h" nogil:
    enum:
        PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void* MAP_FAILED
    void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset)
    int munmap(void* address, size_t size)

cdef extern from "unistd.h" nogil:
    ssize_t pread(int fd, void* buffer, size_t size, off_t offset)

cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void* buffer, size_t size, unsigned int flags)

cdef extern from "sys/stat.h" nogil:
    struct stat_t "stat":
        off_t st_size
    int fstat(int fd, stat_t* out)

cdef extern from "string.h" nogil:
    void explicit_bzero(void* data, size_t size)
    void* memmem(const void* data, size_t size, const void* wanted, size_t wanted_size)
