/* The floor: what one core can do with epoll and nothing above it. Frames of the gateway's TCP link (opcode u8,
 * length u24) are cut and sent back; `P` goes to everyone. No handshake, no state, no checks: floor PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 65536, BYTES = 65536, HELD = 256 };

static uint8_t held[CONNECTIONS][HELD];
static uint16_t held_size[CONNECTIONS];
static uint8_t is_open[CONNECTIONS];
static uint8_t in[BYTES + HELD], out[BYTES * 2], push[404];

static void leave(int fd)
{
    is_open[fd] = 0;
    held_size[fd] = 0;
    close(fd);
}

static void serve(int fd)
{
    size_t size = held_size[fd], at = 0, sent = 0;
    memcpy(in, held[fd], size);
    ssize_t got = recv(fd, in + size, BYTES, 0);
    if (got <= 0) {
        leave(fd);
        return;
    }
    size += got;
    while (size - at >= 4) {
        size_t length = (size_t)in[at + 1] << 16 | in[at + 2] << 8 | in[at + 3];
        if (size - at < 4 + length)
            break;
        if (length == 1 && in[at + 4] == 'P') {
            for (int other = 0; other < CONNECTIONS; other++)
                if (is_open[other])
                    send(other, push, sizeof push, MSG_NOSIGNAL);
        } else {
            memcpy(out + sent, in + at, 4 + length);
            sent += 4 + length;
        }
        at += 4 + length;
    }
    held_size[fd] = size - at > HELD ? 0 : size - at;
    memcpy(held[fd], in + at, held_size[fd]);
    if (sent && send(fd, out, sent, MSG_NOSIGNAL) != (ssize_t)sent)
        leave(fd);
}

int main(int count, char **arguments)
{
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(arguments[1]) : 0)};
    struct epoll_event wanted = {.events = EPOLLIN}, events[512];
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(push, ' ', sizeof push);
    memcpy(push, "\x01\x00\x01\x90{\"type\":\"upgrade\"}", 22);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    wanted.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) {
                serve(events[i].data.fd);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            if (fd >= CONNECTIONS) {
                close(fd);
                continue;
            }
            is_open[fd] = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            wanted.data.fd = fd;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
        }
    }
}
