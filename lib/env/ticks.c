/* SPDX-License-Identifier: BSD-3-Clause */
#include "env.h"

#include <cpuid.h>
#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#define CALIBRATION_NS 10000000u

static pthread_once_t hz_once = PTHREAD_ONCE_INIT;
static uint64_t hz;

uint64_t
env_ticks(void)
{
	return __rdtsc();
}

/*
 * Intel SDM vol. 2A, CPUID leaf 15h: TSC = core crystal clock * EBX / EAX. 0 where it is not
 * enumerated.
 */
static uint64_t
hz_from_crystal(void)
{
	unsigned int denominator, numerator, crystal_hz, edx;

	if (__get_cpuid_max(0, NULL) < 0x15)
		return 0;
	__cpuid(0x15, denominator, numerator, crystal_hz, edx);
	if (denominator == 0 || numerator == 0)
		return 0;
	return (uint64_t)crystal_hz * numerator / denominator;
}

/*
 * The timing leaf that VMware, KVM and others offer to their guests: EAX is the TSC's rate in kHz.
 */
static uint64_t
hz_from_hypervisor(void)
{
	unsigned int eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & 1u << 31))
		return 0;
	__cpuid(0x40000000, eax, ebx, ecx, edx);
	if (eax < 0x40000010)
		return 0;
	__cpuid(0x40000010, eax, ebx, ecx, edx);
	return (uint64_t)eax * 1000;
}

static uint64_t
clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/*
 * Both clocks at one moment: of some tries the one that took least, so that preemption does no
 * harm.
 */
static uint64_t
sample(uint64_t *ns)
{
	uint64_t best = UINT64_MAX, ticks = 0;

	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc();
		uint64_t at = clock_ns();
		uint64_t took = __rdtsc() - before;

		if (took >= best)
			continue;
		best = took;
		ticks = before + took / 2;
		*ns = at;
	}
	return ticks;
}

static uint64_t
hz_measured(void)
{
	uint64_t ns_begin, ns_end, begin, end;

	begin = sample(&ns_begin);
	while (clock_ns() - ns_begin < CALIBRATION_NS)
		_mm_pause();
	end = sample(&ns_end);
	return (uint64_t)((double)(end - begin) * 1e9 / (double)(ns_end - ns_begin));
}

static void
find_hz(void)
{
	hz = hz_from_crystal();
	if (hz == 0)
		hz = hz_from_hypervisor();
	if (hz == 0)
		hz = hz_measured();
}

uint64_t
env_ticks_hz(void)
{
	pthread_once(&hz_once, find_hz);
	return hz;
}
