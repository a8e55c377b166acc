// Preloaded into a node, between it and the C library, to fail its syncs or to note what they made durable.
//
//   ORDO_SHIM_FAIL=FILE     while FILE exists, fsync and fdatasync fail with EIO. Each failed call is a line in
//                           FILE.calls: the path it was for.
//   ORDO_SHIM_JOURNAL=FILE  notes, in order, every pwrite to a file in a folder called "log" with the bytes that stood
//                           there before, and every sync of any file, which it makes slow. From that and the files as they are, the
//                           images that a power loss could have left can be made. See power.rs.
//
//   ORDO_SHIM_SLOW=MS       every fsync and fdatasync takes that much longer.
//
//   ORDO_SHIM_KILL="POINT N" kills the process at the N-th time it gets to a point. The points are its calls to the
//                           system, which are where a crash makes a difference: before a write to the log, in its
//                           middle, before and after its sync, the same of META (votes and the purge point), before a
//                           file is renamed, linked (a snapshot) or removed, before a table file is synced, before
//                           something is sent.
//
// Records of the journal, in the machine's own byte order: a 32-byte head { u64 kind, inode, a, b } and, for a write,
// the old bytes. A write is noted before it is made and a sync's end after it: a process killed in between leaves a
// journal that says less was durable than was, which is what a power loss might have left, too.
//   'W'  a = offset, b = old bytes that follow (fewer than written where the file ended)
//   'B'  a = number of the sync, b = the file's length: a sync begins
//   'E'  a = number of the sync: it has succeeded
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define SYNC_US 4000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static uint64_t syncs;

// The point at which the process is to be killed, and how many times it still passes it.
static char point[32];
static long passes;

__attribute__((constructor)) static void begin(void) {
    const char *kill_at = getenv("ORDO_SHIM_KILL");
    if (kill_at != NULL && sscanf(kill_at, "%31s %ld", point, &passes) != 2) abort();
}

static int is_due(const char *name) {
    return strcmp(point, name) == 0 && __atomic_sub_fetch(&passes, 1, __ATOMIC_SEQ_CST) == 0;
}

static void pass(const char *name) {
    if (is_due(name)) kill(getpid(), SIGKILL);
}

enum what { OTHER, SEGMENT, META, TABLE };

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return -1;
    path[length] = 0;
    return 0;
}

static void write_all(int fd, const void *bytes, size_t length) {
    for (const char *at = bytes; length > 0;) {
        ssize_t written = write(fd, at, length);
        // A journal with a hole would prove nothing.
        if (written <= 0) abort();
        at += written;
        length -= written;
    }
}

// Called with the lock held.
static int opened(void) {
    const char *file = getenv("ORDO_SHIM_JOURNAL");
    if (journal < 0 && file != NULL) journal = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return journal;
}

static void note(uint64_t kind, uint64_t inode, uint64_t a, uint64_t b, const void *bytes, size_t length) {
    uint64_t head[4] = {kind, inode, a, b};
    write_all(journal, head, sizeof head);
    if (length > 0) write_all(journal, bytes, length);
}

static enum what what_is(int fd) {
    char path[PATH_MAX];
    if (path_of(fd, path) != 0) return OTHER;
    if (strstr(path, "/log/META") != NULL) return META;
    if (strstr(path, "/log/") != NULL) return SEGMENT;
    return strstr(path, ".sst") != NULL ? TABLE : OTHER;
}

static int fails(int fd) {
    const char *trigger = getenv("ORDO_SHIM_FAIL");
    if (trigger == NULL || access(trigger, F_OK) != 0) return 0;
    char calls[PATH_MAX], path[PATH_MAX] = "?", line[PATH_MAX + 1];
    snprintf(calls, sizeof calls, "%s.calls", trigger);
    path_of(fd, path);
    int length = snprintf(line, sizeof line, "%s\n", path);
    int file = open(calls, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0) {
        write_all(file, line, length);
        close(file);
    }
    return 1;
}

static int synced(int fd, int (*real)(int)) {
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    const char *slow_ms = getenv("ORDO_SHIM_SLOW");
    if (slow_ms != NULL) usleep(1000 * (useconds_t)atoi(slow_ms));
    enum what what = point[0] ? what_is(fd) : OTHER;
    pass(what == SEGMENT ? "log-sync" : what == META ? "vote-sync" : what == TABLE ? "table-sync" : "other-sync");
    struct stat is;
    uint64_t number = 0;
    pthread_mutex_lock(&lock);
    int noted = opened() >= 0 && fstat(fd, &is) == 0 && S_ISREG(is.st_mode);
    if (noted) note('B', is.st_ino, number = ++syncs, is.st_size, NULL, 0);
    pthread_mutex_unlock(&lock);
    // As long as a disk would take: what is killed is to be killed in between.
    if (noted) usleep(SYNC_US);
    int result = real(fd);
    if (noted && result == 0) {
        pthread_mutex_lock(&lock);
        note('E', is.st_ino, number, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    pass(what == SEGMENT ? "log-synced" : what == META ? "vote-synced" : "other-synced");
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    return synced(fd, real);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return synced(fd, real);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    REAL(pwrite64);
    enum what what = point[0] ? what_is(fd) : OTHER;
    if (what == SEGMENT || what == META) {
        pass(what == SEGMENT ? "log-write" : "vote-write");
        if (is_due(what == SEGMENT ? "log-torn" : "vote-torn")) {
            real(fd, bytes, length / 1024 * 512, offset);
            kill(getpid(), SIGKILL);
        }
    }
    char path[PATH_MAX];
    struct stat is;
    if (getenv("ORDO_SHIM_JOURNAL") != NULL && path_of(fd, path) == 0 && strstr(path, "/log/") != NULL &&
        fstat(fd, &is) == 0) {
        char *old = malloc(length);
        if (old == NULL) abort();
        ssize_t there = pread64(fd, old, length, offset);
        pthread_mutex_lock(&lock);
        if (opened() >= 0) note('W', is.st_ino, offset, there < 0 ? 0 : there, old, there < 0 ? 0 : there);
        pthread_mutex_unlock(&lock);
        free(old);
    }
    return real(fd, bytes, length, offset);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    pass("rename");
    int result = real(from, to);
    pass("renamed");
    return result;
}

int link(const char *from, const char *to) {
    REAL(link);
    pass("link");
    return real(from, to);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(linkat);
    pass("link");
    return real(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path) {
    REAL(unlink);
    pass("unlink");
    return real(path);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    REAL(send);
    pass("send");
    return real(fd, bytes, length, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    pass("send");
    return real(fd, parts, count);
}
