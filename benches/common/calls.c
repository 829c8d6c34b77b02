/*
 * The agent's libvirt calls without an agent: threads with a connection each, which call one after
 * the other for a while.
 *
 *   calls URI DOMAINS THREADS MILLISECONDS lookup|state|cpu|disk|nic|own|own-events|monitor|all
 *
 * DOMAINS is a list by comma: each is asked for in turn, every thread beginning with another one.
 * Each may be followed by a slash and the device of its NIC.
 *
 * lookup:  virDomainLookupByName and virDomainGetState, as Status does.
 * state:   virDomainGetState alone, on a handle that was looked up before.
 * cpu:     the lookup and virDomainListGetStats of processor times, as CPUMetrics does.
 * disk:    the lookup and virDomainListGetStats of disks, as DiskMetrics does.
 * nic:     the lookup and virDomainInterfaceStats, as NicMetrics does for a guest of one NIC.
 * own:     virConnectGetAllDomainStats of state and interfaces, as a fast sample does.
 * own-events: the same with libvirt's event loop in a thread beside, and keepalive, which needs it.
 * monitor: the same of memory, virtual processors and disks, as a slow sample does.
 * all:     the same of all six groups.
 *
 * Prints "resident", the memory in KiB with the connections open; a line with the nanoseconds of each
 * call; then "elapsed" and "cpu" in nanoseconds.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 20, BULK_WARM_UP = 1, THREADS_MAX = 64, CALLS_MAX = 1 << 20, DOMAINS_MAX = 64 };

static const unsigned OWN = VIR_DOMAIN_STATS_STATE | VIR_DOMAIN_STATS_INTERFACE;
static const unsigned MONITOR =
    VIR_DOMAIN_STATS_BALLOON | VIR_DOMAIN_STATS_VCPU | VIR_DOMAIN_STATS_BLOCK;

struct caller {
    pthread_t thread;
    uint64_t *taken_ns;
    size_t calls, first;
};

static const char *uri;
static size_t domains;
static char *names[DOMAINS_MAX], *devices[DOMAINS_MAX];
static int has_events;
/* The query of one domain. */
static enum { STATE, LOOKUP, CPU, DISK, NIC } question;
/* Groups of statistics of all domains; 0: each call queries one domain. */
static unsigned groups, bulk_flags;
static uint64_t length_ns;
static pthread_barrier_t start, end;

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "calls: %s: %s\n", what, virGetLastErrorMessage());
    exit(1);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static long resident_kib(void)
{
    long size, resident;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm || fscanf(statm, "%ld %ld", &size, &resident) != 2)
        exit(2);
    fclose(statm);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void *run_events(void *argument)
{
    while (virEventRunDefaultImpl() == 0)
        ;
    return argument;
}

static void ask_all(virConnectPtr connection)
{
    virDomainStatsRecordPtr *records = NULL;
    if (virConnectGetAllDomainStats(connection, groups, &records, bulk_flags) < 1)
        fail("ask for statistics");
    virDomainStatsRecordListFree(records);
}

static int ask_one(virDomainPtr domain, size_t which)
{
    int state;
    virDomainInterfaceStatsStruct counters;
    virDomainStatsRecordPtr *records = NULL;
    virDomainPtr list[] = {domain, NULL};
    unsigned wanted = VIR_DOMAIN_STATS_CPU_TOTAL | VIR_DOMAIN_STATS_VCPU, flags = 0;
    switch (question) {
    case STATE:
    case LOOKUP:
        return virDomainGetState(domain, &state, NULL, 0);
    case NIC:
        return virDomainInterfaceStats(domain, devices[which], &counters, sizeof counters);
    case DISK:
        wanted = VIR_DOMAIN_STATS_BLOCK;
        flags = VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        break;
    case CPU:
        break;
    }
    int count = virDomainListGetStats(list, wanted, &records, flags);
    virDomainStatsRecordListFree(records);
    return count;
}

static void ask(virConnectPtr connection, virDomainPtr *known, size_t which)
{
    if (groups) {
        ask_all(connection);
        return;
    }
    virDomainPtr domain =
        question == STATE ? known[which] : virDomainLookupByName(connection, names[which]);
    if (!domain || ask_one(domain, which) < 0)
        fail("ask for a domain");
    if (question != STATE)
        virDomainFree(domain);
}

static void *call(void *argument)
{
    struct caller *caller = argument;
    virConnectPtr connection = virConnectOpen(uri);
    if (!connection)
        fail("open the connection");
    if (has_events && virConnectSetKeepAlive(connection, 2, 3) < 0)
        fail("keep the connection alive");
    virDomainPtr known[DOMAINS_MAX];
    for (size_t i = 0; question == STATE && i < domains; i++)
        if (!(known[i] = virDomainLookupByName(connection, names[i])))
            fail("look the domain up");
    size_t which = caller->first % domains;
    for (int i = 0; i < (groups ? BULK_WARM_UP : WARM_UP); i++)
        ask(connection, known, which);

    pthread_barrier_wait(&start);
    pthread_barrier_wait(&start);
    uint64_t begin = now_ns(CLOCK_MONOTONIC), asked = begin;
    while (asked - begin < length_ns && caller->calls < CALLS_MAX) {
        ask(connection, known, which);
        which = (which + 1) % domains;
        uint64_t answered = now_ns(CLOCK_MONOTONIC);
        caller->taken_ns[caller->calls++] = answered - asked;
        asked = answered;
    }
    pthread_barrier_wait(&end);

    for (size_t i = 0; question == STATE && i < domains; i++)
        virDomainFree(known[i]);
    virConnectClose(connection);
    return NULL;
}

static void read_domains(char *list)
{
    for (char *word = strtok(list, ","); word && domains < DOMAINS_MAX; word = strtok(NULL, ",")) {
        names[domains] = word;
        devices[domains] = strchr(word, '/');
        if (devices[domains])
            *devices[domains]++ = 0;
        domains++;
    }
}

int main(int argc, char **argv)
{
    static struct caller callers[THREADS_MAX];
    if (argc != 6 || virInitialize() < 0)
        return 2;
    uri = argv[1];
    read_domains(argv[2]);
    unsigned threads = (unsigned)atoi(argv[3]);
    length_ns = (uint64_t)atoi(argv[4]) * 1000000;
    question = strcmp(argv[5], "lookup") == 0 ? LOOKUP
               : strcmp(argv[5], "cpu") == 0  ? CPU
               : strcmp(argv[5], "disk") == 0 ? DISK
               : strcmp(argv[5], "nic") == 0  ? NIC
                                              : STATE;
    has_events = strcmp(argv[5], "own-events") == 0;
    groups = has_events || strcmp(argv[5], "own") == 0 ? OWN
             : strcmp(argv[5], "monitor") == 0         ? MONITOR
             : strcmp(argv[5], "all") == 0 ? OWN | MONITOR | VIR_DOMAIN_STATS_CPU_TOTAL
                                           : 0;
    bulk_flags = groups & MONITOR ? VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT : 0;
    if (threads < 1 || threads > THREADS_MAX || domains < 1)
        return 2;

    pthread_t events;
    if (has_events &&
        (virEventRegisterDefaultImpl() < 0 || pthread_create(&events, NULL, run_events, NULL)))
        return 2;
    pthread_barrier_init(&start, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        callers[i].first = i;
        callers[i].taken_ns = malloc(CALLS_MAX * sizeof(uint64_t));
        if (!callers[i].taken_ns || pthread_create(&callers[i].thread, NULL, call, &callers[i]))
            return 2;
    }
    pthread_barrier_wait(&start);
    printf("resident %ld\n", resident_kib());
    pthread_barrier_wait(&start);
    uint64_t begin = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    pthread_barrier_wait(&end);
    uint64_t elapsed = now_ns(CLOCK_MONOTONIC) - begin;
    cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;

    for (unsigned i = 0; i < threads; i++) {
        pthread_join(callers[i].thread, NULL);
        for (size_t k = 0; k < callers[i].calls; k++)
            printf("%" PRIu64 "\n", callers[i].taken_ns[k]);
    }
    printf("elapsed %" PRIu64 "\ncpu %" PRIu64 "\n", elapsed, cpu);
    return 0;
}
