// Loaded into an agent before libvirt: while the file that FAULTS names is there, libvirt's calls are
// counted down in it, and the last of them fails, once.
//
//   refused NUMBER   it is not done, and the error is one of the call alone
//   lost NUMBER      it is not done, and the error is that the connection is gone
//   unheard NUMBER   it is done, and the error is that the connection is gone
//
// Then the file goes, and the call is named on standard error.
#include <dlfcn.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum how { NOT_AT_ALL, REFUSED, LOST, UNHEARD };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static enum how counted(const char *path, const char *call) {
    char word[16];
    unsigned number;
    FILE *file = fopen(path, "r+");
    if (file == NULL)
        return NOT_AT_ALL;
    if (fscanf(file, "%15s %u", word, &number) != 2)
        abort();
    if (number > 1) {
        rewind(file);
        fprintf(file, "%s %-10u\n", word, number - 1);
        fclose(file);
        return NOT_AT_ALL;
    }
    fclose(file);
    fprintf(stderr, "(%s: %s)\n", word, call);
    unlink(path);
    return strcmp(word, "refused") == 0 ? REFUSED : strcmp(word, "lost") == 0 ? LOST : UNHEARD;
}

static enum how how(const char *call) {
    const char *path = getenv("FAULTS");
    if (path == NULL)
        return NOT_AT_ALL;
    pthread_mutex_lock(&lock);
    enum how how = counted(path, call);
    pthread_mutex_unlock(&lock);
    return how;
}

// Leaves an error of libvirt's own: that of a call which is handed nothing.
static void leave_error(enum how how) {
    if (how == REFUSED)
        virSecretFree(NULL);
    else
        virConnectClose(NULL);
}

#define FAILS(type, name, failed, parameters, arguments)                                            \
    type name parameters {                                                                         \
        __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                        \
        enum how it = how(#name);                                                                  \
        if (it == NOT_AT_ALL)                                                                      \
            return real arguments;                                                                 \
        if (it == UNHEARD)                                                                         \
            (void)!real arguments;                                                                 \
        leave_error(it);                                                                           \
        return failed;                                                                             \
    }

#define OF_DOMAIN(name) FAILS(int, name, -1, (virDomainPtr domain), (domain))
#define OF_DOMAIN_FLAGS(name)                                                                       \
    FAILS(int, name, -1, (virDomainPtr domain, unsigned flags), (domain, flags))
#define OF_NETWORK(name) FAILS(int, name, -1, (virNetworkPtr network), (network))

FAILS(virConnectPtr, virConnectOpen, NULL, (const char *uri), (uri))
FAILS(int, virConnectListAllDomains, -1, (virConnectPtr conn, virDomainPtr **domains, unsigned flags),
      (conn, domains, flags))
FAILS(int, virConnectGetAllDomainStats, -1,
      (virConnectPtr conn, unsigned stats, virDomainStatsRecordPtr **records, unsigned flags),
      (conn, stats, records, flags))

FAILS(virDomainPtr, virDomainLookupByName, NULL, (virConnectPtr conn, const char *id), (conn, id))
FAILS(virDomainPtr, virDomainDefineXML, NULL, (virConnectPtr conn, const char *xml), (conn, xml))
OF_DOMAIN(virDomainCreate)
OF_DOMAIN(virDomainDestroy)
OF_DOMAIN(virDomainIsActive)
OF_DOMAIN(virDomainResume)
OF_DOMAIN(virDomainShutdown)
OF_DOMAIN(virDomainSuspend)
OF_DOMAIN_FLAGS(virDomainReboot)
OF_DOMAIN_FLAGS(virDomainReset)
OF_DOMAIN_FLAGS(virDomainUndefineFlags)
FAILS(char *, virDomainGetXMLDesc, NULL, (virDomainPtr domain, unsigned flags), (domain, flags))
FAILS(int, virDomainGetInfo, -1, (virDomainPtr domain, virDomainInfoPtr info), (domain, info))
FAILS(int, virDomainGetState, -1, (virDomainPtr domain, int *state, int *reason, unsigned flags),
      (domain, state, reason, flags))
FAILS(int, virDomainSetAutostart, -1, (virDomainPtr domain, int is_on), (domain, is_on))
FAILS(int, virDomainSetMemoryFlags, -1, (virDomainPtr domain, unsigned long kib, unsigned flags),
      (domain, kib, flags))
FAILS(int, virDomainSetVcpusFlags, -1, (virDomainPtr domain, unsigned count, unsigned flags),
      (domain, count, flags))
FAILS(int, virDomainSetMetadata, -1,
      (virDomainPtr domain, int type, const char *text, const char *key, const char *uri,
       unsigned flags),
      (domain, type, text, key, uri, flags))
FAILS(int, virDomainAttachDeviceFlags, -1, (virDomainPtr domain, const char *xml, unsigned flags),
      (domain, xml, flags))
FAILS(int, virDomainDetachDeviceFlags, -1, (virDomainPtr domain, const char *xml, unsigned flags),
      (domain, xml, flags))
FAILS(int, virDomainBlockResize, -1,
      (virDomainPtr domain, const char *disk, unsigned long long size, unsigned flags),
      (domain, disk, size, flags))
FAILS(int, virDomainBlockStatsFlags, -1,
      (virDomainPtr domain, const char *disk, virTypedParameterPtr stats, int *count, unsigned flags),
      (domain, disk, stats, count, flags))
FAILS(int, virDomainInterfaceStats, -1,
      (virDomainPtr domain, const char *device, virDomainInterfaceStatsPtr stats, size_t size),
      (domain, device, stats, size))
FAILS(int, virDomainListGetStats, -1,
      (virDomainPtr *domains, unsigned stats, virDomainStatsRecordPtr **records, unsigned flags),
      (domains, stats, records, flags))

FAILS(virNetworkPtr, virNetworkLookupByName, NULL, (virConnectPtr conn, const char *name),
      (conn, name))
FAILS(virNetworkPtr, virNetworkDefineXML, NULL, (virConnectPtr conn, const char *xml), (conn, xml))
OF_NETWORK(virNetworkCreate)
OF_NETWORK(virNetworkDestroy)
OF_NETWORK(virNetworkIsActive)
OF_NETWORK(virNetworkUndefine)
FAILS(char *, virNetworkGetXMLDesc, NULL, (virNetworkPtr network, unsigned flags), (network, flags))
FAILS(int, virNetworkSetAutostart, -1, (virNetworkPtr network, int is_on), (network, is_on))
