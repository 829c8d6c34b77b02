// Loaded into an agent before libc: makes a call fail on demand.
//
//   FAULT=CALL:ERRNO:NUMBER[:PART]   the NUMBERth of these calls fails, once, with that error; of those
//                                    that name a path, only calls for one with PART in it count;
//                                    fdatasync counts as fsync
//   FAULT=CALL:ERRNO:*[:PART]        all of them fail
//   FAULT_WHILE=FILE                 none fails, and each waits as long as that file exists
//
// The library reports each such call on standard error.
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char call[32], part[256];
static int error;
static unsigned long number;
static int all;
static atomic_ulong seen;

__attribute__((constructor)) static void read_fault(void) {
    const char *fault = getenv("FAULT");
    char which[16] = "";
    if (fault == NULL)
        return;
    if (sscanf(fault, "%31[^:]:%d:%15[^:]:%255s", call, &error, which, part) < 3)
        abort();
    all = strcmp(which, "*") == 0;
    number = strtoul(which, NULL, 10);
}

static int fails(const char *name, const char *path) {
    static const char message[] = "(fault)\n";
    if (strcmp(name, call) != 0 || (part[0] != '\0' && strstr(path, part) == NULL))
        return 0;
    if (atomic_fetch_add(&seen, 1) + 1 != number && !all)
        return 0;
    const char *file = getenv("FAULT_WHILE");
    if (file != NULL) {
        while (access(file, F_OK) == 0)
            usleep(10000);
        return 0;
    }
    if (write(STDERR_FILENO, message, sizeof message - 1) < 0)
        abort();
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int sync_fails(int fd) {
    char link[32], path[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0)
        path[0] = '\0';
    return fails("fsync", path);
}

int fsync(int fd) {
    return sync_fails(fd) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    return sync_fails(fd) ? -1 : REAL(fdatasync)(fd);
}

int unlink(const char *path) {
    return fails("unlink", path) ? -1 : REAL(unlink)(path);
}

DIR *opendir(const char *path) {
    return fails("opendir", path) ? NULL : REAL(opendir)(path);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails("open64", path) ? -1 : REAL(open64)(path, flags, mode);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument) {
    return fails("pthread_create", "") ? error
                                       : REAL(pthread_create)(thread, attributes, start, argument);
}

int socket(int domain, int type, int protocol) {
    const char *family = domain == AF_NETLINK ? "netlink" : "";
    return fails("socket", family) ? -1 : REAL(socket)(domain, type, protocol);
}

int epoll_wait(int set, struct epoll_event *events, int most, int timeout) {
    return fails("epoll_wait", "") ? -1 : REAL(epoll_wait)(set, events, most, timeout);
}

// Returns a wrong count, beyond the end of the array; the further entries are no pointers.
static int too_many(const char *name, void ***list, int count) {
    if (count < 0 || list == NULL || *list == NULL || !fails(name, ""))
        return count;
    void **longer = realloc(*list, (count + 6) * sizeof *longer);
    if (longer == NULL)
        abort();
    for (int past = 1; past < 6; past++)
        longer[count + past] = (void *)1;
    *list = longer;
    return count + 5;
}

int virConnectListAllDomains(void *connection, void ***domains, unsigned int flags) {
    int (*real)(void *, void ***, unsigned int) =
        (int (*)(void *, void ***, unsigned int))dlsym(RTLD_NEXT, "virConnectListAllDomains");
    return too_many("virConnectListAllDomains", domains, real(connection, domains, flags));
}

int virConnectGetAllDomainStats(void *connection, unsigned int stats, void ***records,
                                unsigned int flags) {
    int (*real)(void *, unsigned int, void ***, unsigned int) =
        (int (*)(void *, unsigned int, void ***, unsigned int))dlsym(RTLD_NEXT,
                                                                     "virConnectGetAllDomainStats");
    int count = real(connection, stats, records, flags);
    return too_many("virConnectGetAllDomainStats", records, count);
}

char *virDomainGetXMLDesc(void *domain, unsigned int flags) {
    char *(*real)(void *, unsigned int) =
        (char *(*)(void *, unsigned int))dlsym(RTLD_NEXT, "virDomainGetXMLDesc");
    return fails("virDomainGetXMLDesc", "") ? strdup("<domain") : real(domain, flags);
}
