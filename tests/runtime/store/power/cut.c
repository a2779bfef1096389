// Preloaded into a process: it sees every change to files below a folder, and can end the process at any of them.
//
// cut_arm(root, n, mode) counts from the next one: at the n-th the process is killed (KILL), or killed in the midst of a
// write (HALF), or told that the disk is full, from then on (FULL) or this once (FAIL). cut_log(fd) has every change
// written down: a line `operation size path1 path2`, fields parted by tabs, then `size` bytes that were written. What
// failed by itself changed nothing, and is counted all the same.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL, HALF, FULL, FAIL };

static char root[4096];
static size_t root_length;
static long count, cut;
static int mode, log_fd = -1;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void cut_arm(const char *folder, long n, int how) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    count = 0;
    cut = n;
    mode = how;
}

void cut_log(int fd) { log_fd = fd; }

long cut_count(void) { return count; }

static ssize_t plain_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

static int below(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

// Whether the operation is to fail; it may not return. Of a write, the first half may come first.
static int stop(int fd, const void *data, size_t size) {
    count++;
    if (!cut || count < cut || (mode != FULL && count > cut)) return 0;
    if (mode == HALF && size) plain_write(fd, data, size / 2);
    if (mode == KILL || mode == HALF) kill(getpid(), SIGKILL);
    return 1;
}

static void note(const char *what, const char *path, const char *other, const void *data, size_t size) {
    if (log_fd < 0) return;
    char line[9000];
    int length = snprintf(line, sizeof line, "%s\t%zu\t%s\t%s\n", what, size, path, other);
    plain_write(log_fd, line, length);
    if (size) plain_write(log_fd, data, size);
}

// What needs room on the disk fails when that is full; what gives some back, and fsync of what has its room, does not.
#define NEEDS_ROOM(path) \
    if (below(path) && stop(-1, 0, 0)) { errno = ENOSPC; return -1; }
#define GIVES_ROOM(path) \
    if (below(path) && stop(-1, 0, 0) && mode == FAIL) { errno = EIO; return -1; }
#define NOTED(what, path, other) \
    int error = errno; \
    if (below(path)) note(result ? "failed" : what, path, other, 0, 0); \
    errno = error; \
    return result

static int opened(const char *name, const char *path, int flags, mode_t bits) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    int changes = (flags & (O_CREAT | O_TRUNC)) && below(path);
    if (changes && stop(-1, 0, 0)) { errno = ENOSPC; return -1; }
    int fd = real(path, flags, bits);
    if (changes) note(fd < 0 ? "failed" : "create", path, "", 0, 0);
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return opened(#name, path, flags, bits); \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
    char path[4096];
    int ours = root_length && fd != log_fd && path_of(fd, path, sizeof path);
    if (ours && stop(fd, data, size)) { errno = ENOSPC; return -1; }
    ssize_t written = plain_write(fd, data, size);
    if (ours && written > 0) note("write", path, "", data, written);
    return written;
}

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        char path[4096] = ""; \
        if (root_length) path_of(fd, path, sizeof path); \
        GIVES_ROOM(path) \
        int result = real(fd); \
        NOTED("fsync", path, ""); \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    NEEDS_ROOM(new)
    int result = real(old, new);
    NOTED("rename", new, old);
}

int renameat(int a, const char *old, int b, const char *new) {
    REAL(int, "renameat", int, const char *, int, const char *);
    NEEDS_ROOM(new)
    int result = real(a, old, b, new);
    NOTED("rename", new, old);
}

int symlink(const char *target, const char *path) {
    REAL(int, "symlink", const char *, const char *);
    NEEDS_ROOM(path)
    int result = real(target, path);
    NOTED("symlink", path, target);
}

int mkdir(const char *path, mode_t bits) {
    REAL(int, "mkdir", const char *, mode_t);
    NEEDS_ROOM(path)
    int result = real(path, bits);
    NOTED("mkdir", path, "");
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    GIVES_ROOM(path)
    int result = real(path);
    NOTED("unlink", path, "");
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    GIVES_ROOM(path)
    int result = real(path);
    NOTED("rmdir", path, "");
}
