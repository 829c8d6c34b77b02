/* What sys/bindings.rs is made from; build.rs names what is taken from it. */
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
