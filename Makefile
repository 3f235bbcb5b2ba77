# SPDX-License-Identifier: BSD-3-Clause
#
#   make             build everything into build/
#   make run         install what is missing, build, serve a disk in the foreground
#   make test        install what is missing, build, run every suite
#   make check       build, run unit and integration tests
#   make fuzz        install what is missing, build with clang, run the fuzzers (FUZZ_SECONDS=600 each)
#   make bench       build, measure next to qemu-storage-daemon; BENCH_ARGS=--quick: in two minutes
#   make install     install into $(DESTDIR)$(PREFIX)
#   make deb         install what is missing, build the Debian package into build/deb/
#   make SANITIZE=address,undefined ...   the same in build-asan/
#   make SANITIZE=thread ...              the same in build-tsan/

VERSION := 0.1.0
# A make below this one has them already.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=$(shell nproc) --output-sync=target
endif

ifeq ($(SANITIZE),)
BUILD ?= build
else ifeq ($(SANITIZE),thread)
BUILD ?= build-tsan
else
BUILD ?= build-asan
endif

PREFIX  ?= /usr
DESTDIR ?=
UNIT_DIR ?= $(PREFIX)/lib/systemd/system
RUN_DIR ?= run
CC      := gcc
PYTHON  ?= /usr/bin/python3

CSTD     := -std=gnu11
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror
OPTIMISE ?= -O2
# SSE4.2 is what DPDK's inline functions need.
CFLAGS   := $(CSTD) $(WARNINGS) $(OPTIMISE) -g -march=x86-64-v2 -fno-strict-aliasing -fstack-protector-strong -pthread
# Structures of the kernel's with an array at their end are parts of ours.
CFLAGS += $(if $(findstring clang,$(CC)),-Wno-gnu-variable-sized-type-not-at-end)
CPPFLAGS := -D_GNU_SOURCE -DVHOSTD_VERSION='"$(VERSION)"' -Iinclude -MMD -MP
LDFLAGS  := -pthread -Wl,--as-needed $(EXTRA_LDFLAGS)
ifneq ($(SANITIZE),)
CFLAGS   += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
LDFLAGS  += -fsanitize=$(SANITIZE)
endif

# DPDK: the few static archives the daemon needs. The shared EAL would load every driver plug-in.
DPDK_CPPFLAGS := -isystem /usr/include/dpdk -isystem /usr/include/$(shell $(CC) -print-multiarch)/dpdk -include rte_config.h
DPDK_LIBS := $(addprefix -l:librte_,$(addsuffix .a,vhost cryptodev dmadev ethdev meter hash rcu net mbuf mempool pci ring eal kvargs telemetry))
HTTP_LIBS := $(shell pkg-config --libs libmicrohttpd 2>/dev/null)
LIBS := -Wl,--start-group $(DPDK_LIBS) -Wl,--end-group -ljansson -luring -lnuma -lbsd -lsystemd $(HTTP_LIBS) -ldl -lm

# ---- rooms: lib/<room>/*.c is one archive ----

ROOMS := app metrics jsonrpc vhost scsi reservation bdev nvme event thread virtio env
# Archives besides the rooms: the RPC methods, our front-end and the load that it makes, what tests
# share, parts of benchmarks.
EXTRA := rpc client load testlib probes path
EXTRA_DIRS := rpc lib/client lib/load tests/testlib bench/probes bench/path
dir_of = $(if $(filter $(1),$(ROOMS)),lib/$(1),$(filter $(1) %/$(1),$(EXTRA_DIRS)))
archive = $(BUILD)/lib$(1).a

define archive_rules
$(1)_SRCS := $$(filter-out rpc/vhostctl%.c,$$(wildcard $$(call dir_of,$(1))/*.c))
$(1)_OBJS := $$($(1)_SRCS:%.c=$$(BUILD)/obj/%.o)
$$(call archive,$(1)): $$($(1)_OBJS)
	@rm -f $$@
	$$(Q)ar rcs $$@ $$^
endef
$(foreach room,$(ROOMS) $(EXTRA),$(eval $(call archive_rules,$(room))))

Q := @

ROOM_ARCHIVES := $(foreach room,$(ROOMS),$(call archive,$(room)))

# ---- programs ----

BENCH_SRCS := $(wildcard bench/*.c)
BENCH_BINS := $(BENCH_SRCS:bench/%.c=$(BUILD)/bin/%)
UNIT_BINS  := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
INTEGRATION_BINS := $(patsubst tests/integration/%.c,$(BUILD)/integration/%,$(wildcard tests/integration/test_*.c))
# Each fuzz target as a test program with a driver of ours, and (clang only) with libFuzzer.
FUZZ_SRCS  := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BINS  := $(FUZZ_SRCS:tests/fuzz/%.c=$(BUILD)/fuzz/test_%)
FUZZERS    := $(FUZZ_SRCS:tests/fuzz/%.c=$(BUILD)/fuzz/%)
# What tests slip under programs of others.
PRELOADS   := $(patsubst tests/preload/%.c,$(BUILD)/preload/%.so,$(wildcard tests/preload/*.c))
# What tests run inside of a guest.
GUEST_BINS := $(patsubst tests/guest/%.c,$(BUILD)/in-guest/%,$(wildcard tests/guest/*.c))
PROGRAMS   := $(BUILD)/bin/vhostd $(BUILD)/bin/vhostctl
# What tests and benchmarks of NVMe talk to.
NVME_DEVICE := $(BUILD)/bin/nvme_device

# The archives are rules already: without this the first of them would be what `make` builds.
.DEFAULT_GOAL := all
.PHONY: all programs run test check bench fuzz fuzzers install deb deps clean check-format tests docs unit integration qemu
all: programs $(BENCH_BINS) $(NVME_DEVICE)
programs: $(PROGRAMS)
tests: $(UNIT_BINS) $(INTEGRATION_BINS) $(FUZZ_BINS) $(NVME_DEVICE) $(GUEST_BINS) $(PRELOADS)
fuzzers: $(FUZZERS)

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@printf '  %-5s %s\n' CC $<
	$(Q)$(CC) $(CPPFLAGS) $(EXTRA_CPPFLAGS) $(CFLAGS) -c $< -o $@

# Only these see DPDK.
$(BUILD)/obj/lib/env/%.o: EXTRA_CPPFLAGS += $(DPDK_CPPFLAGS)
$(BUILD)/obj/lib/vhost/vhost_user.o: EXTRA_CPPFLAGS += $(DPDK_CPPFLAGS)
# A fuzz target is what vhost_user.o calls instead.
$(BUILD)/obj/tests/fuzz/%.o: EXTRA_CPPFLAGS += $(DPDK_CPPFLAGS) -Irpc
$(BUILD)/obj/lib/load/%.o: EXTRA_CPPFLAGS += -Ilib
$(BUILD)/obj/tests/%.o $(BUILD)/obj/bench/%.o: EXTRA_CPPFLAGS += -Ilib/client -Itests/testlib -Itests -Ilib

define link
@printf '  %-5s %s\n' LINK $@
@mkdir -p $(@D)
$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(1)
endef

# lib/vhost/vhost_user.c stands in for DPDK's accept() and recvmsg().
VHOSTD_OBJS := $(BUILD)/obj/vhostd/main.o
$(BUILD)/bin/vhostd: $(VHOSTD_OBJS) $(call archive,rpc) $(ROOM_ARCHIVES)
	$(call link,-Xlinker --wrap=accept -Xlinker --wrap=recvmsg $(LIBS))

# vhostctl shares the methods' tables with the daemon and nothing else; its load is that of the
# benchmarks. libvirt is its own.
VHOSTCTL_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard rpc/vhostctl*.c rpc/schema*.c)) $(BUILD)/obj/lib/jsonrpc/params.o $(BUILD)/obj/lib/env/cpumask.o $(BUILD)/obj/lib/env/errmsg.o $(BUILD)/obj/lib/env/pci.o
$(BUILD)/obj/rpc/vhostctl_libvirt%: EXTRA_CPPFLAGS += $(shell pkg-config --cflags libvirt libxml-2.0)
$(BUILD)/obj/rpc/vhostctl_bench.o: EXTRA_CPPFLAGS += -Ilib
$(BUILD)/bin/vhostctl: $(VHOSTCTL_OBJS) $(call archive,load) $(call archive,client)
	$(call link,-ljansson -lncursesw -ltinfo -lm $(shell pkg-config --libs libvirt libxml-2.0))

NVME_DEVICE_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/nvme_device/*.c))
$(NVME_DEVICE): $(NVME_DEVICE_OBJS)
	$(call link,-ljansson)

# A test or a benchmark names the archives it links in a comment: /* links: virtio env */
links_of = $(foreach room,$(shell sed -n 's,^/\* links: \(.*\) \*/$$,\1,p' $(1)),$(call archive,$(room)))
# ... and the linker's flags that it needs: /* ldflags: -Wl,--wrap=calloc */
ldflags_of = $(shell sed -n 's,^/\* ldflags: \(.*\) \*/$$,\1,p' $(1))
.SECONDEXPANSION:
$(BENCH_BINS): $(BUILD)/bin/%: $(BUILD)/obj/bench/%.o $$(call links_of,bench/$$*.c)
	$(call link,$(call ldflags_of,bench/$*.c) $(LIBS))
$(UNIT_BINS): $(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $$(call links_of,tests/unit/$$*.c)
	$(call link,$(call ldflags_of,tests/unit/$*.c) -lcmocka $(LIBS))
$(INTEGRATION_BINS): $(BUILD)/integration/%: $(BUILD)/obj/tests/integration/%.o $$(call links_of,tests/integration/$$*.c)
	$(call link,$(call ldflags_of,tests/integration/$*.c) -lcmocka $(LIBS))
$(BUILD)/unit/test_scsi_conformance: $(BUILD)/preload/sg_socket.so
# No sanitizers: the programs have none.
$(PRELOADS): $(BUILD)/preload/%.so: tests/preload/%.c $(wildcard tests/preload/*.h)
	@printf '  %-5s %s\n' LINK $@
	@mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE $(CSTD) $(WARNINGS) $(OPTIMISE) -g -fPIC -shared $< -o $@
$(GUEST_BINS): $(BUILD)/in-guest/%: $(BUILD)/obj/tests/guest/%.o $$(call links_of,tests/guest/$$*.c)
	$(call link,$(LIBS))
$(FUZZ_BINS): $(BUILD)/fuzz/test_%: $(BUILD)/obj/tests/fuzz/%.o $(BUILD)/obj/tests/fuzz/driver.o $$(call links_of,tests/fuzz/$$*.c)
	$(call link,$(call ldflags_of,tests/fuzz/$*.c) -lcmocka $(LIBS))
$(FUZZERS): $(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $$(call links_of,tests/fuzz/$$*.c)
	$(call link,$(call ldflags_of,tests/fuzz/$*.c) -fsanitize=fuzzer $(LIBS))

# ---- what people call ----

# Packages are installed before make reads what they contain, hence the second make.
deps:
	@packaging/install-deps.sh build

# "+": what it prints is not held back until it ends.
run:
	@packaging/install-deps.sh build
	@$(MAKE) --no-print-directory all
	+@packaging/run.sh '$(BUILD)' '$(RUN_DIR)'

RUN_TESTS := $(PYTHON) tests/run.py

unit: tests
	+@$(RUN_TESTS) unit:$(BUILD)
integration: all tests
	+@$(RUN_TESTS) integration:$(BUILD)
qemu: all $(GUEST_BINS)
	+@$(RUN_TESTS) qemu:$(BUILD)
# Most tests wait most of the time.
check: all tests
	+@FUZZ_MS=1000 $(RUN_TESTS) --jobs $$(($$(nproc) * 2)) unit:$(BUILD) integration:$(BUILD) fuzz:$(BUILD)

# All variants, whatever SANITIZE says; BUILD is that of the plain one. Guests with sanitizers take
# their time: those whose front-end comes and goes.
test: PLAIN := $(if $(SANITIZE),build,$(BUILD))
test:
	@packaging/install-deps.sh build deb test
	@$(MAKE) --no-print-directory SANITIZE= BUILD=$(PLAIN) all tests
	@$(MAKE) --no-print-directory SANITIZE=address,undefined BUILD=$(PLAIN)-asan all tests
	@$(MAKE) --no-print-directory SANITIZE=thread BUILD=$(PLAIN)-tsan all tests
	+@FUZZ_MS=8000 VHOSTD_KILL_ROUNDS=50 VHOSTD_RESET_SECONDS=5 VHOSTD_POWER_CUTS=200 VHOSTD_ATTACH_CYCLES=100 \
		$(RUN_TESTS) --again unit:$(PLAIN) integration:$(PLAIN) fuzz:$(PLAIN) \
		unit:$(PLAIN)-asan integration:$(PLAIN)-asan fuzz:$(PLAIN)-asan \
		unit:$(PLAIN)-tsan integration:$(PLAIN)-tsan qemu:$(PLAIN) \
		'qemu:$(PLAIN)-asan:test_(kill|hotplug)'

# Optimised less: libFuzzer sees more of the code. Variables that nobody has set are full of 0xaa, so that targets find
# them in what guests get.
FUZZ_SECONDS ?= 600
fuzz:
	@packaging/install-deps.sh build fuzz
	@$(MAKE) --no-print-directory CC=clang OPTIMISE='-O1 -ftrivial-auto-var-init=pattern' SANITIZE=fuzzer-no-link,address,undefined BUILD=build-fuzz fuzzers
	+@$(PYTHON) tests/fuzz/run.py --build build-fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

bench:
	@packaging/install-deps.sh build bench
	@$(MAKE) --no-print-directory all
	@$(PYTHON) -B bench/run.py --bin $(BUILD)/bin --out $(BUILD)/bench $(BENCH_ARGS)

docs: $(BUILD)/bin/vhostctl
	$(BUILD)/bin/vhostctl --markdown > docs/rpc.md
	$(BUILD)/bin/vhostctl --help | packaging/man-methods.sh docs/man/vhostctl.1 > $(BUILD)/vhostctl.1
	mv $(BUILD)/vhostctl.1 docs/man/vhostctl.1

install: programs
	install -D -m 0755 -t '$(DESTDIR)$(PREFIX)/sbin' $(BUILD)/bin/vhostd
	install -D -m 0755 -t '$(DESTDIR)$(PREFIX)/bin' $(BUILD)/bin/vhostctl
	install -D -m 0644 -t '$(DESTDIR)$(PREFIX)/share/man/man8' docs/man/vhostd.8
	install -D -m 0644 -t '$(DESTDIR)$(PREFIX)/share/man/man1' docs/man/vhostctl.1
	install -D -m 0644 packaging/vhostctl.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vhostctl'
	install -D -m 0644 packaging/vhostd.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vhostd'
	install -D -m 0644 packaging/vhostd.sysusers '$(DESTDIR)$(PREFIX)/lib/sysusers.d/vhostd.conf'
	install -D -m 0644 packaging/vhostd.tmpfiles '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/vhostd.conf'
	install -D -m 0644 -t '$(DESTDIR)$(UNIT_DIR)' packaging/vhostd.service
	sed -i 's|/usr/sbin|$(PREFIX)/sbin|' '$(DESTDIR)$(UNIT_DIR)/vhostd.service'

deb:
	@packaging/install-deps.sh build deb
	+@packaging/build-deb.sh $(BUILD)/deb

check-format:
	clang-format --dry-run --Werror $(shell git ls-files '*.c' '*.h')

clean:
	rm -rf build build-asan build-tsan build-fuzz

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
