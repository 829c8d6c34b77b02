// Loaded into an agent before libvirt. While the file that FAULTS names exists, the library counts libvirt's calls
// down in it, and makes the last of them fail, once.
//
//   refused NUMBER   the call is not made, and its error concerns this call alone
//   lost NUMBER      the call is not made, and its error says that the connection is lost
//   unheard NUMBER   the call is made, and its error says that the connection is lost; only calls that change
//                    something count
//   killed NUMBER    the call is not made, and the agent is killed
//   died NUMBER      the call is made, and the agent is killed; the same calls count as for unheard
//   slow NUMBER      the call takes 3 s more
//
// Then the library removes the file, and names the call on standard error. If the name of a call follows the number,
// only that call counts.
#include <dlfcn.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum how { NOT_AT_ALL, REFUSED, LOST, UNHEARD, KILLED, DIED, SLOW };

static const char *const WORDS[] = {"", "refused", "lost", "unheard", "killed", "died", "slow"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static enum how counted(const char *path, const char *call, int changes) {
    char word[16], only[64] = "";
    unsigned number;
    FILE *file = fopen(path, "r+");
    if (file == NULL)
        return NOT_AT_ALL;
    if (fscanf(file, "%15s %u %63s", word, &number, only) < 2)
        abort();
    enum how how = SLOW;
    while (how > NOT_AT_ALL && strcmp(word, WORDS[how]) != 0)
        how--;
    if (((how == UNHEARD || how == DIED) && !changes) || (*only && strcmp(only, call) != 0)) {
        fclose(file);
        return NOT_AT_ALL;
    }
    if (number > 1) {
        rewind(file);
        fprintf(file, "%s %-10u %s\n", word, number - 1, only);
        fclose(file);
        return NOT_AT_ALL;
    }
    fclose(file);
    fprintf(stderr, "(%s: %s)\n", word, call);
    unlink(path);
    return how;
}

static enum how how(const char *call, int changes) {
    const char *path = getenv("FAULTS");
    if (path == NULL)
        return NOT_AT_ALL;
    pthread_mutex_lock(&lock);
    enum how how = counted(path, call, changes);
    pthread_mutex_unlock(&lock);
    return how;
}

// Sets an error of libvirt itself: that of a call with a null argument.
static void leave_error(enum how how) {
    if (how == REFUSED)
        virSecretFree(NULL);
    else
        virConnectClose(NULL);
}

#define FAILS(changes, type, name, failed, parameters, arguments)                                  \
    type name parameters {                                                                         \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                       \
        enum how it = how(#name, changes);                                                         \
        if (it == SLOW)                                                                            \
            sleep(3);                                                                              \
        if (it == NOT_AT_ALL || it == SLOW)                                                        \
            return real arguments;                                                                 \
        if (it == UNHEARD || it == DIED)                                                           \
            (void)!real arguments;                                                                 \
        if (it == KILLED || it == DIED)                                                            \
            raise(SIGKILL);                                                                        \
        leave_error(it);                                                                           \
        return failed;                                                                             \
    }

#define READS(...) FAILS(0, __VA_ARGS__)
#define CHANGES(...) FAILS(1, __VA_ARGS__)
#define CHANGES_DOMAIN(name) CHANGES(int, name, -1, (virDomainPtr domain), (domain))
#define CHANGES_DOMAIN_BY(name)                                                                     \
    CHANGES(int, name, -1, (virDomainPtr domain, unsigned flags), (domain, flags))
#define CHANGES_NETWORK(name) CHANGES(int, name, -1, (virNetworkPtr network), (network))

READS(virConnectPtr, virConnectOpen, NULL, (const char *uri), (uri))
READS(int, virConnectListAllDomains, -1, (virConnectPtr conn, virDomainPtr **domains, unsigned flags),
      (conn, domains, flags))
READS(int, virConnectGetAllDomainStats, -1,
      (virConnectPtr conn, unsigned stats, virDomainStatsRecordPtr **records, unsigned flags),
      (conn, stats, records, flags))

READS(virDomainPtr, virDomainLookupByName, NULL, (virConnectPtr conn, const char *id), (conn, id))
CHANGES(virDomainPtr, virDomainDefineXML, NULL, (virConnectPtr conn, const char *xml), (conn, xml))
CHANGES_DOMAIN(virDomainCreate)
CHANGES(virDomainPtr, virDomainCreateXML, NULL, (virConnectPtr conn, const char *xml, unsigned flags),
        (conn, xml, flags))
CHANGES_DOMAIN(virDomainDestroy)
READS(int, virDomainIsActive, -1, (virDomainPtr domain), (domain))
CHANGES_DOMAIN(virDomainResume)
CHANGES_DOMAIN(virDomainSuspend)
CHANGES_DOMAIN_BY(virDomainReboot)
CHANGES_DOMAIN_BY(virDomainReset)
CHANGES_DOMAIN_BY(virDomainUndefineFlags)
READS(char *, virDomainGetXMLDesc, NULL, (virDomainPtr domain, unsigned flags), (domain, flags))
READS(int, virDomainGetInfo, -1, (virDomainPtr domain, virDomainInfoPtr info), (domain, info))
READS(int, virDomainGetState, -1, (virDomainPtr domain, int *state, int *reason, unsigned flags),
      (domain, state, reason, flags))
CHANGES(int, virDomainSetAutostart, -1, (virDomainPtr domain, int is_on), (domain, is_on))
CHANGES(int, virDomainSetMemoryFlags, -1, (virDomainPtr domain, unsigned long kib, unsigned flags),
      (domain, kib, flags))
CHANGES(int, virDomainSetVcpusFlags, -1, (virDomainPtr domain, unsigned count, unsigned flags),
      (domain, count, flags))
CHANGES(int, virDomainSetMetadata, -1,
      (virDomainPtr domain, int type, const char *text, const char *key, const char *uri,
       unsigned flags),
      (domain, type, text, key, uri, flags))
CHANGES(int, virDomainAttachDeviceFlags, -1, (virDomainPtr domain, const char *xml, unsigned flags),
      (domain, xml, flags))
CHANGES(int, virDomainDetachDeviceFlags, -1, (virDomainPtr domain, const char *xml, unsigned flags),
      (domain, xml, flags))
CHANGES(int, virDomainBlockResize, -1,
      (virDomainPtr domain, const char *disk, unsigned long long size, unsigned flags),
      (domain, disk, size, flags))
READS(int, virDomainBlockStatsFlags, -1,
      (virDomainPtr domain, const char *disk, virTypedParameterPtr stats, int *count, unsigned flags),
      (domain, disk, stats, count, flags))
READS(int, virDomainInterfaceStats, -1,
      (virDomainPtr domain, const char *device, virDomainInterfaceStatsPtr stats, size_t size),
      (domain, device, stats, size))
READS(int, virDomainListGetStats, -1,
      (virDomainPtr *domains, unsigned stats, virDomainStatsRecordPtr **records, unsigned flags),
      (domains, stats, records, flags))

READS(virNetworkPtr, virNetworkLookupByName, NULL, (virConnectPtr conn, const char *name),
      (conn, name))
CHANGES(virNetworkPtr, virNetworkDefineXML, NULL, (virConnectPtr conn, const char *xml), (conn, xml))
CHANGES_NETWORK(virNetworkCreate)
CHANGES_NETWORK(virNetworkDestroy)
READS(int, virNetworkIsActive, -1, (virNetworkPtr network), (network))
CHANGES_NETWORK(virNetworkUndefine)
READS(char *, virNetworkGetXMLDesc, NULL, (virNetworkPtr network, unsigned flags), (network, flags))
CHANGES(int, virNetworkSetAutostart, -1, (virNetworkPtr network, int is_on), (network, is_on))
