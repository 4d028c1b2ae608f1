/* relay: the least that a hop can do. Accepts, dials, and passes bytes as they are (epoll, one thread):
 * no TLS, no checks, no deadlines. Two of them in a row are what the kernel costs any chain here.
 *
 *   relay IP PORT TO_IP TO_PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 64 << 10 };

/* One side of a connection: what it said and the other has not taken yet. */
struct side {
    int fd, ended;
    struct side *other;
    char *pending;
    size_t off, len;
};

static int ep;
static char buf[BUFFER] __attribute__((aligned(4096)));

static int tcp(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static struct sockaddr_in address(const char *ip, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    inet_pton(AF_INET, ip, &a.sin_addr);
    return a;
}

static struct side *side(int fd) {
    struct side *s = calloc(1, sizeof *s);
    s->fd = fd;
    return s;
}

static void watch(struct side *s, int op) {
    /* a side is read while the other owes nothing, and written to while it does */
    unsigned events = (s->len || s->ended ? 0 : EPOLLIN) | (s->other->len ? EPOLLOUT : 0);
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(ep, op, s->fd, &e);
}

/* Everything of both sides. */
static void drop(struct side *s) {
    struct side *o = s->other;
    close(s->fd); close(o->fd);
    s->fd = o->fd = -1;
    free(s->pending); free(o->pending);
    s->pending = o->pending = NULL;
}

/* -1: the connection is over. */
static int readable(struct side *s) {
    ssize_t n = recv(s->fd, buf, BUFFER, 0);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) {
        s->ended = 1;
        shutdown(s->other->fd, SHUT_WR);
        watch(s, EPOLL_CTL_MOD);
        return s->other->ended ? -1 : 0;
    }
    ssize_t m = send(s->other->fd, buf, (size_t)n, MSG_NOSIGNAL);
    if (m < 0 && errno != EAGAIN && errno != EINPROGRESS) return -1;
    if (m < 0) m = 0;
    if (m < n) {
        if (!s->pending) s->pending = malloc(BUFFER);
        s->off = 0;
        s->len = (size_t)(n - m);
        memcpy(s->pending, buf + m, s->len);
        watch(s, EPOLL_CTL_MOD);
        watch(s->other, EPOLL_CTL_MOD);
    }
    return 0;
}

static int writable(struct side *s) {
    struct side *from = s->other;
    ssize_t m = send(s->fd, from->pending + from->off, from->len, MSG_NOSIGNAL);
    if (m < 0) return errno == EAGAIN ? 0 : -1;
    from->off += (size_t)m;
    from->len -= (size_t)m;
    if (!from->len) {
        watch(from, EPOLL_CTL_MOD);
        watch(s, EPOLL_CTL_MOD);
    }
    return 0;
}

static void accepted(int listener, const struct sockaddr_in *to) {
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct side *in = side(fd), *out = side(tcp());
    in->other = out; out->other = in;
    if (connect(out->fd, (const void *)to, sizeof *to) < 0 && errno != EINPROGRESS) {
        drop(in); free(in); free(out);
        return;
    }
    watch(in, EPOLL_CTL_ADD);
    watch(out, EPOLL_CTL_ADD);
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: relay IP PORT TO_IP TO_PORT\n"); return 2; }
    signal(SIGPIPE, SIG_IGN);
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct sockaddr_in here = address(argv[1], argv[2]), to = address(argv[3], argv[4]);
    int listener = tcp();
    if (bind(listener, (void *)&here, sizeof here) < 0 || listen(listener, 4096) < 0) { perror("relay"); return 1; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
    struct side *over[512];
    for (;;) {
        int n = epoll_wait(ep, events, 256, -1), ended = 0;
        for (int i = 0; i < n; i++) {
            struct side *s = events[i].data.ptr;
            if (!s) { accepted(listener, &to); continue; }
            if (s->fd < 0) continue;
            int end = 0;
            if (events[i].events & EPOLLOUT) end = writable(s);
            if (!end && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) end = readable(s);
            if (end) { drop(s); over[ended++] = s; }
        }
        /* freed when nothing of this round can name them any more */
        while (ended) { struct side *s = over[--ended]; free(s->other); free(s); }
    }
}
