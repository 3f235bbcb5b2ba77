/* SPDX-License-Identifier: BSD-3-Clause */
/* The checks of doctor, as a table at the end. Sizes are in bytes unless a name says otherwise. */
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pci.h"
#include "vhostctl_doctor.h"
#include "vhostctl_nvme.h"

#define KIB (1ll << 10)
#define MIB (1ll << 20)
#define GIB (1ll << 30)

#define SHM_BAD  (256 * MIB) /* containers come with 64 MiB */
#define FILES_OK 4096

__attribute__((format(printf, 3, 4))) static enum health
found(char finding[FINDING_MAX], enum health health, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(finding, FINDING_MAX, format, args);
	va_end(args);
	return health;
}

static double
gib(long long bytes)
{
	return (double)bytes / (double)GIB;
}

/* 0: unknown. */
static long long
memory_total(const struct patient *patient)
{
	char text[64];
	long long kib;

	if (!doctor_field(patient, "proc/meminfo", "MemTotal:", text, sizeof(text)) ||
	    sscanf(text, "%lld", &kib) != 1)
		return 0;
	return kib * KIB;
}

/* ---- the daemon ---- */

static enum health
look_at_rpc_socket(const struct patient *patient, char finding[FINDING_MAX])
{
	struct stat stat_of;

	if (!patient->answers)
		return found(finding, HEALTH_BAD, "%s", patient->why);
	if (stat(patient->socket, &stat_of) == 0 && stat_of.st_mode & S_IWOTH)
		return found(finding, HEALTH_BAD, "%s: everybody may connect (mode %04o)",
			     patient->socket, stat_of.st_mode & 07777);
	return found(finding, HEALTH_OK, "%s answers", patient->socket);
}

/* What is wrong with who may do what, of a controller's socket and its folder. */
static enum health
look_at_socket(const char *path, char finding[FINDING_MAX])
{
	struct stat socket, folder;
	char parent[PATH_MAX];
	char *slash;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (slash == NULL || slash == parent)
		return HEALTH_OK;
	*slash = '\0';
	if (stat(parent, &folder) != 0 || stat(path, &socket) != 0)
		return found(finding, errno == EACCES ? HEALTH_NOTE : HEALTH_BAD, "%s: %s", path,
			     strerror(errno));
	if (folder.st_mode & S_IWOTH && !(folder.st_mode & S_ISVTX))
		return found(finding, HEALTH_BAD,
			     "%s: everybody may put a socket of their own in (mode %04o)", parent,
			     folder.st_mode & 07777);
	if (socket.st_mode & S_IWOTH && folder.st_mode & S_IXOTH)
		return found(finding, HEALTH_BAD, "%s: everybody may attach the disk (mode %04o)",
			     path, socket.st_mode & 07777);
	if (!(folder.st_mode & S_IXGRP) || !(socket.st_mode & S_IWGRP))
		return found(finding, HEALTH_NOTE, "%s: only its owner, uid %u, may connect", path,
			     socket.st_uid);
	return HEALTH_OK;
}

static enum health
look_at_sockets(const struct patient *patient, char finding[FINDING_MAX])
{
	enum health health = HEALTH_OK;
	json_t *socket;
	size_t i;

	json_array_foreach (patient->sockets, i, socket) {
		char text[FINDING_MAX];
		enum health of_socket = look_at_socket(json_string_value(socket), text);

		if (of_socket > health) {
			health = of_socket;
			snprintf(finding, FINDING_MAX, "%s", text);
		}
	}
	if (health != HEALTH_OK)
		return health;
	return found(finding, HEALTH_OK, "%zu sockets of controllers",
		     json_array_size(patient->sockets));
}

/* "unlimited" is LLONG_MAX, and so is what cannot be read: it is not complained of. */
static long long
limit_of(const struct patient *patient, const char *name)
{
	char path[PATH_MAX], text[128];
	long long limit;

	doctor_proc_file(patient, "limits", path, sizeof(path));
	if (!doctor_field(patient, path, name, text, sizeof(text)) ||
	    sscanf(text, "%lld", &limit) != 1)
		return LLONG_MAX;
	return limit;
}

static const char *
whose(const struct patient *patient)
{
	return patient->pid > 0 ? "of the daemon" : "of this shell; the daemon's is not known";
}

static enum health
look_at_files(const struct patient *patient, char finding[FINDING_MAX])
{
	long long limit = limit_of(patient, "Max open files");

	if (limit == LLONG_MAX)
		return found(finding, HEALTH_OK, "unlimited");
	return found(finding, limit >= FILES_OK || patient->pid == 0 ? HEALTH_OK : HEALTH_BAD,
		     "%lld, %s", limit, whose(patient));
}

/* ---- NVMe devices ---- */

/* Whether it is a program's already, or could be: no file system of the machine is on it. */
static bool
is_for_guests(const struct patient *patient, const char *address)
{
	char driver[PCI_NAME_MAX];
	bool is_free;
	json_t *uses;

	if (pci_link(patient->root, address, "driver", driver) == 0 &&
	    strcmp(driver, "vfio-pci") == 0)
		return true;
	uses = nvme_uses(patient->root, address);
	is_free = json_array_size(uses) == 0;
	json_decref(uses);
	return is_free;
}

static unsigned int
count_nvme(const struct patient *patient)
{
	char path[PATH_MAX], class[32];
	unsigned int count = 0;
	struct dirent *entry;
	DIR *folder;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices", patient->root);
	folder = opendir(path);
	while (folder != NULL && (entry = readdir(folder)) != NULL)
		count += pci_read(patient->root, entry->d_name, "class", class, sizeof(class)) ==
				 0 &&
			 strtoul(class, NULL, 16) == NVME_PCI_CLASS &&
			 is_for_guests(patient, entry->d_name);
	if (folder != NULL)
		closedir(folder);
	return count;
}

/* Files that match a pattern below root; *paths is globfree()d by the caller. */
static size_t
find_files(const struct patient *patient, const char *pattern, glob_t *paths)
{
	char whole[PATH_MAX];

	memset(paths, 0, sizeof(*paths));
	snprintf(whole, sizeof(whole), "%s/%s", patient->root, pattern);
	return glob(whole, 0, NULL, paths) == 0 ? paths->gl_pathc : 0;
}

static bool
has_iommu(const struct patient *patient)
{
	glob_t paths;
	bool has = find_files(patient, "sys/kernel/iommu_groups/*", &paths) > 0;

	globfree(&paths);
	return has;
}

static enum health
look_at_iommu(const struct patient *patient, char finding[FINDING_MAX])
{
	unsigned int devices = count_nvme(patient);

	if (has_iommu(patient))
		return found(finding, HEALTH_OK, "on");
	return found(finding, devices > 0 ? HEALTH_BAD : HEALTH_NOTE,
		     "off or missing; there are %u NVMe devices for guests", devices);
}

static enum health
look_at_vfio(const struct patient *patient, char finding[FINDING_MAX])
{
	bool needed = count_nvme(patient) > 0 && has_iommu(patient);

	if (pci_has_driver(patient->root, "vfio-pci"))
		return found(finding, HEALTH_OK, "loaded");
	return found(finding, needed ? HEALTH_BAD : HEALTH_NOTE, "not loaded%s",
		     needed ? "" : "; nothing here needs it");
}

static enum health
look_at_memlock(const struct patient *patient, char finding[FINDING_MAX])
{
	long long limit = limit_of(patient, "Max locked memory");
	bool needed = count_nvme(patient) > 0 && has_iommu(patient);

	if (limit == LLONG_MAX)
		return found(finding, HEALTH_OK, "unlimited");
	if (limit >= memory_total(patient))
		return found(finding, HEALTH_OK, "%.1f GiB, %s", gib(limit), whose(patient));
	return found(finding, needed && patient->pid > 0 ? HEALTH_BAD : HEALTH_NOTE, "%lld KiB, %s",
		     limit / KIB, whose(patient));
}

/* ---- memory ---- */

/* -1: it is not mounted. A tmpfs whose size is not said has half of the memory. */
static long long
shm_size(const struct patient *patient)
{
	static const struct {
		char unit;
		long long size;
	} units[] = {{'k', KIB}, {'m', MIB}, {'g', GIB}};
	char options[1024], unit = '\0';
	long long size = 0;
	const char *text;

	if (!doctor_field(patient, "proc/mounts", "tmpfs /dev/shm ", options, sizeof(options)) &&
	    !doctor_field(patient, "proc/mounts", "shm /dev/shm ", options, sizeof(options)))
		return -1;
	text = strstr(options, ",size=");
	if (text == NULL)
		return memory_total(patient) / 2;
	sscanf(text, ",size=%lld%c", &size, &unit);
	if (unit == '%')
		return memory_total(patient) / 100 * size;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (units[i].unit == unit)
			return size * units[i].size;
	}
	return size;
}

static enum health
look_at_shm(const struct patient *patient, char finding[FINDING_MAX])
{
	long long size = shm_size(patient);

	if (size < 0)
		return found(finding, HEALTH_NOTE, "no tmpfs is mounted on /dev/shm");
	return found(finding,
		     size < SHM_BAD                     ? HEALTH_BAD
		     : size < memory_total(patient) / 4 ? HEALTH_NOTE
							: HEALTH_OK,
		     "/dev/shm has %.2f GiB of %.1f GiB of memory", gib(size),
		     gib(memory_total(patient)));
}

/* Of all sizes of pages together; the names say how many KiB a page has. */
static enum health
look_at_hugepages(const struct patient *patient, char finding[FINDING_MAX])
{
	long long reserved = 0, unused = 0;
	glob_t paths;
	size_t count = find_files(patient, "sys/kernel/mm/hugepages/hugepages-*kB", &paths);

	for (size_t i = 0; i < count; i++) {
		const char *path = paths.gl_pathv[i] + strlen(patient->root) + 1;
		long long kib = atoll(strrchr(path, '-') + 1);
		char file[PATH_MAX];

		snprintf(file, sizeof(file), "%s/nr_hugepages", path);
		reserved += doctor_number(patient, file) * kib * KIB;
		snprintf(file, sizeof(file), "%s/free_hugepages", path);
		unused += doctor_number(patient, file) * kib * KIB;
	}
	globfree(&paths);
	if (reserved <= 0)
		return found(finding, HEALTH_OK, "none reserved");
	return found(finding,
		     unused <= 0                                                 ? HEALTH_OK
		     : unused == reserved && unused > memory_total(patient) / 20 ? HEALTH_BAD
										 : HEALTH_NOTE,
		     "%.2f GiB reserved, %.2f GiB of it unused", gib(reserved), gib(unused));
}

static enum health
look_at_swap(const struct patient *patient, char finding[FINDING_MAX])
{
	long long total = 0, available = 0;
	char text[64];

	if (doctor_field(patient, "proc/meminfo", "SwapTotal:", text, sizeof(text)))
		total = atoll(text) * KIB;
	if (doctor_field(patient, "proc/meminfo", "SwapFree:", text, sizeof(text)))
		available = atoll(text) * KIB;
	if (total == 0)
		return found(finding, HEALTH_OK, "none");
	return found(finding,
		     total - available > memory_total(patient) / 20 ? HEALTH_BAD : HEALTH_NOTE,
		     "%.1f of %.1f GiB in use", gib(total - available), gib(total));
}

static enum health
look_at_ksm(const struct patient *patient, char finding[FINDING_MAX])
{
	bool runs = doctor_number(patient, "sys/kernel/mm/ksm/run") == 1;

	return found(finding, runs ? HEALTH_NOTE : HEALTH_OK, runs ? "on" : "off");
}

/* ---- the kernel and the CPUs ---- */

static enum health
look_at_kernel(const struct patient *patient, char finding[FINDING_MAX])
{
	char release[128] = "";
	int major = 0, minor = 0;

	doctor_read(patient, "proc/sys/kernel/osrelease", release, sizeof(release));
	if (sscanf(release, "%d.%d", &major, &minor) != 2)
		return found(finding, HEALTH_NOTE, "unknown: '%s'", release);
	return found(finding,
		     major * 1000 + minor < 5011   ? HEALTH_BAD
		     : major * 1000 + minor < 6001 ? HEALTH_NOTE
						   : HEALTH_OK,
		     "%s", release);
}

static enum health
look_at_io_uring(const struct patient *patient, char finding[FINDING_MAX])
{
	long long disabled = doctor_number(patient, "proc/sys/kernel/io_uring_disabled");

	if (disabled <= 0)
		return found(finding, HEALTH_OK, "allowed");
	if (disabled == 1)
		return found(finding, HEALTH_NOTE,
			     "for root and the group %lld only (kernel.io_uring_disabled = 1)",
			     doctor_number(patient, "proc/sys/kernel/io_uring_group"));
	return found(finding, HEALTH_BAD, "switched off (kernel.io_uring_disabled = %lld)",
		     disabled);
}

/* The drivers of Intel and AMD that choose by themselves call that "powersave". */
static bool
chooses_by_itself(const struct patient *patient, const char *governor_path)
{
	char file[PATH_MAX], driver[64] = "";

	snprintf(file, sizeof(file), "%.*s/scaling_driver",
		 (int)(strrchr(governor_path, '/') - governor_path), governor_path);
	return doctor_read(patient, file, driver, sizeof(driver)) &&
	       (strcmp(driver, "intel_pstate") == 0 || strcmp(driver, "amd-pstate-epp") == 0);
}

static enum health
look_at_governor(const struct patient *patient, char finding[FINDING_MAX])
{
	enum health worst = HEALTH_OK;
	char governor[64] = "", slow[64] = "";
	size_t count, others = 0;
	glob_t paths;

	count = find_files(patient, "sys/devices/system/cpu/cpu*/cpufreq/scaling_governor", &paths);
	for (size_t i = 0; i < count; i++) {
		const char *path = paths.gl_pathv[i] + strlen(patient->root) + 1;
		enum health health = HEALTH_NOTE;

		if (!doctor_read(patient, path, governor, sizeof(governor)) ||
		    strcmp(governor, "performance") == 0)
			continue;
		if (strcmp(governor, "powersave") == 0 && !chooses_by_itself(patient, path))
			health = HEALTH_BAD;
		if (health >= worst)
			snprintf(slow, sizeof(slow), "%s", governor);
		worst = health > worst ? health : worst;
		others++;
	}
	globfree(&paths);
	if (count == 0)
		return found(finding, HEALTH_OK, "the CPUs' frequency is not for Linux to choose");
	if (others == 0)
		return found(finding, HEALTH_OK, "performance");
	return found(finding, worst, "%s on %zu of %zu CPUs", slow, others, count);
}

/* Cores that nothing is put on unless it asks for them. */
static enum health
look_at_isolated(const struct patient *patient, char finding[FINDING_MAX])
{
	struct cpumask isolated = {0}, unused;
	char list[128] = "";

	doctor_read(patient, "sys/devices/system/cpu/isolated", list, sizeof(list));
	if (cpumask_parse(&isolated, list) != 0)
		return found(finding, patient->polls ? HEALTH_NOTE : HEALTH_OK, "none%s",
			     patient->polls ? ", and reactors poll all the time" : "");
	unused = isolated;
	if (cpumask_and(&unused, &patient->reactors))
		return found(finding, HEALTH_OK, "%s; reactors run on %u of them", list,
			     cpumask_count(&unused));
	return found(finding, HEALTH_NOTE, "%s, and no reactor runs there", list);
}

/* ---- the table ---- */

const struct check doctor_checks[] = {
	{"daemon", look_at_rpc_socket,
	 "who reaches the RPC socket makes and removes all disks, and opens any file",
	 "start vhostd, or name its socket with -s; chmod o-rwx the socket"},
	{"sockets", look_at_sockets,
	 "QEMU connects to these sockets as its own user: libvirt-qemu under libvirt",
	 "vhostd --group kvm, a --socket-dir that others cannot write to"},
	{"open files", look_at_files,
	 "a guest takes about five descriptors, and three more for each queue",
	 "LimitNOFILE=65536 in the unit, or ulimit -n"},
	{"kernel", look_at_kernel,
	 "vhostd needs system calls of Linux 5.11; 6.1 and newer are tested", "a newer kernel"},
	{"io_uring", look_at_io_uring, "without it no file and no block device can be a disk",
	 "sysctl kernel.io_uring_disabled=0"},
	{"shared memory", look_at_shm,
	 "a guest whose memory is a file there dies with SIGBUS when it is full",
	 "mount -o remount,size=75% /dev/shm, or memory-backend-memfd, which it does not limit"},
	{"hugepages", look_at_hugepages,
	 "memory that is reserved and not used is lost; vhostd itself needs none",
	 "sysctl vm.nr_hugepages=0, or give them to guests: memory-backend-memfd,hugetlb=on"},
	{"swap", look_at_swap,
	 "a reactor that touches guest memory on swap waits, and all its guests with it",
	 "swapoff -a, sysctl vm.swappiness=1, or less memory for guests"},
	{"ksm", look_at_ksm, "guests' memory is shared, which KSM cannot merge: it only takes CPU",
	 "echo 2 > /sys/kernel/mm/ksm/run"},
	{"memory lock", look_at_memlock,
	 "a guest's memory is locked while an NVMe device reads and writes it",
	 "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited"},
	{"iommu", look_at_iommu, "NVMe devices are driven through it and not without",
	 "enable VT-d or AMD-Vi in the firmware; intel_iommu=on among the kernel's parameters"},
	{"vfio-pci", look_at_vfio, "the driver that gives NVMe devices to programs",
	 "modprobe vfio-pci"},
	{"governor", look_at_governor,
	 "a CPU that clocks down between requests takes longer for "
	 "each of them",
	 "cpupower frequency-set -g performance"},
	{"isolated cores", look_at_isolated,
	 "other work on a reactor's core delays guests; a core kept free that guests' CPUs do not "
	 "have either is lost",
	 "isolcpus= among the kernel's parameters and vhostd --cpus with the same cores"},
};
const size_t doctor_check_count = sizeof(doctor_checks) / sizeof(doctor_checks[0]);
