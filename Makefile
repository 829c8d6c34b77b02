# The project's commands. Each installs what a Debian machine lacks for it (tests/install-deps.sh).

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
PROGRAM := $(TARGET)/release/mistify-libvirt

PREFIX ?= /usr/local

.PHONY: build install deb test verify stress lab-image test-lab test-lab-agent test-lab-volumes test-lab-crash test-lab-storage test-lab-short test-lab-guests test-systemd test-new-user sanitize coverage fuzz deny demo docs docs-picture bench bench-compare soak fmt clippy doc bindings check-unit check-bindings check-locks check-release

build:
	tests/install-deps.sh build
	$(CARGO) build --release

# What belongs on a host, below $(DESTDIR): PREFIX=/usr for packages. Files of settings that are there
# stay as they are.
install: build
	install -D $(PROGRAM) -t $(DESTDIR)$(PREFIX)/sbin
	install -D -m 644 dist/*.socket -t $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in mistify-libvirt mistify-libvirt-guests mistify-libvirt-fetch@; do \
		sed 's|^Exec\(St[a-z]*\)=/usr/sbin|Exec\1=$(PREFIX)/sbin|' dist/$$unit.service | \
			install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit; \
	done
	install -D -m 644 dist/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/mistify-libvirt.conf
	install -D -m 644 dist/own-user.conf dist/grafana/*.json dist/prometheus/*.yml \
		-t $(DESTDIR)$(PREFIX)/share/mistify-libvirt
	install -D -m 644 man/mistify-libvirt.8 -t $(DESTDIR)$(PREFIX)/share/man/man8
	install -D -m 644 man/mistify-libvirt.conf.5 -t $(DESTDIR)$(PREFIX)/share/man/man5
	for shell in bash:bash-completion/completions/mistify-libvirt zsh:zsh/site-functions/_mistify-libvirt \
		fish:fish/vendor_completions.d/mistify-libvirt.fish; do \
		$(DESTDIR)$(PREFIX)/sbin/mistify-libvirt --config /dev/null completions $${shell%%:*} | \
			install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/$${shell#*:} || exit; \
	done
	test -e $(DESTDIR)/etc/mistify-libvirt.conf || \
		install -D -m 644 dist/mistify-libvirt.conf -t $(DESTDIR)/etc
	test -e $(DESTDIR)/etc/default/mistify-libvirt || \
		install -D -m 644 dist/mistify-libvirt.default $(DESTDIR)/etc/default/mistify-libvirt

# Debian's package of what `make install` brings, in target/debian. DEB_VERSION= is for another version
# than that of Cargo.toml. The directory is where cargo-deb looks for what was built.
deb:
	tests/install-deps.sh deb
	rm -rf $(TARGET)/release/package
	$(MAKE) install DESTDIR=$(TARGET)/release/package PREFIX=/usr
	$(TARGET)/tools/bin/cargo-deb --no-build --locked $(DEB_VERSION:%=--deb-version %)

# The tests of .ci/run but those that need a machine of their own, or with TEST=name the unit and integration tests
# that have it in their name. Ends with the count of skips by reason. MISTIFY_TEST_REQUIRE=qemu,... makes
# skips failures.
test:
	tests/install-deps.sh test
	tests/run-tests.sh $(if $(TEST),only $(TEST),gate)

# What takes too long for .ci/run, in at most 90 minutes. It can be stopped, and goes on where it was.
verify:
	tests/gate/verify.sh

# The integration tests N times beside 8 busy loops: a test that fails here depends on time.
stress:
	tests/install-deps.sh test
	tests/gate/stress.sh $(or $(N),5)

# Tests in a virtual machine that tests/lab/build.sh makes once.
LAB = $(CARGO) test --test it \
	--config 'target."cfg(unix)".runner=["$(CURDIR)/tests/lab/runner.sh"]' --

# The tests that need a real ZFS pool. TESTS=lab::... runs these in one boot instead.
ifdef TESTS
test-lab: lab-image
	$(LAB) $(TESTS)
else
test-lab: test-lab-agent test-lab-volumes test-lab-crash test-lab-storage test-lab-guests test-systemd
endif

lab-image:
	tests/install-deps.sh lab
	tests/lab/build.sh

# Tests that go through the agent, on pools of the lab.
test-lab-agent: lab-image
	$(LAB) lab:: --skip lab::crash:: --skip lab::systemd:: --skip lab::linux::

# Tests that go through the agent, which also run on a directory store elsewhere.
test-lab-volumes: lab-image
	$(LAB) storage::images::zpool:: storage::volumes::zpool:: api::dry_run::zpool::

# Tests that kill the agent.
test-lab-crash: lab-image
	$(LAB) lab::crash::

# The store by itself.
test-lab-storage: lab-image
	$(LAB) storage::store::zpool:: storage::store::real_zfs::

# The lab's part of .ci/run.
test-lab-short: lab-image
	$(LAB) --exact $$(sed '/^#/d' tests/gate/lab-short)

# Tests that run guests, with Debian's own qemu.conf.
test-lab-guests: lab-image
	LAB_QEMU_CONF=debian $(LAB) lab::guests:: lab::linux::

# The package in that machine with systemd as its first process: installed, upgraded and purged.
test-systemd:
	rm -rf $(TARGET)/packages
	$(MAKE) deb
	install -D $(TARGET)/debian/*.deb -t $(TARGET)/packages
	$(MAKE) deb DEB_VERSION=9999
	install $(TARGET)/debian/*.deb -t $(TARGET)/packages
	tests/install-deps.sh lab
	tests/lab/build.sh
	LAB_PACKAGES=$(TARGET)/packages $(LAB) $(or $(TESTS),lab::systemd::)

# "Getting started" on a bare Debian 12: from the first command to a login by SSH, an upgrade and a purge.
test-new-user:
	tests/install-deps.sh bare
	MISTIFY_TEST_BARE=1 MISTIFY_TEST_REQUIRE=bare $(CARGO) test --test it -- packaging::new_user::

# The tests that cross into C, under AddressSanitizer with its leak check; agents have to end without
# a leak, too. glib's own allocator would hide its objects from it.
sanitize: HOST = $(shell rustc -vV | sed -n 's/^host: //p')
sanitize:
	tests/install-deps.sh test
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address G_SLICE=always-malloc \
	CARGO_TARGET_DIR=$(abspath $(or $(CARGO_TARGET_DIR),target))/sanitize \
	$(CARGO) test --target $(HOST) --lib --test it -- \
		libvirt:: events:: client::verbs:: ops::guests::inventory:: ops::guests::screens:: api::inventory:: api::verbs:: \
		compatibility::conformance:: guests::screens:: lifecycle::qemu:: lifecycle::settings:: networks::openvswitch::

# Looks for input that breaks what must hold, SECONDS for each target of src/fuzz.rs, or FUZZ=... alone.
SECONDS ?= 60
fuzz:
	tests/install-deps.sh fuzz
	fuzz/run.sh $(SECONDS) $(FUZZ)

# How much of each module the tests run, without those that want a machine of their own; what they do not
# run is marked in target/coverage/not-run.txt. TESTS=... counts what these alone run.
coverage:
	tests/install-deps.sh coverage
	tests/coverage/run.sh $(TESTS)

# Licences, sources and bans of all packages (deny.toml). Writes tests/deny.sha256.
deny:
	tests/install-deps.sh deny
	tests/deny.sh

# Writes the generated parts of the documents and manual pages: options, limits, methods, errors, events,
# metrics, figures. `make docs-picture` takes the picture of the page, with real guests in a browser.
docs-picture:
	tests/install-deps.sh verify
	MISTIFY_WRITE_DOCS=1 MISTIFY_TEST_REQUIRE=qemu,browser $(CARGO) test --test it -- page::shown::it_is_readable

docs:
	tests/install-deps.sh build
	MISTIFY_WRITE_DOCS=1 $(CARGO) test --test it -- documents::reference:: documents::limits::

demo: build
	tests/install-deps.sh demo
	tests/install-deps.sh linux || echo "without these the demo has no real guest"
	dist/demo.sh

# The figures of docs/performance.md, in about 30 minutes once built; target/bench/all.json has them all.
bench:
	tests/install-deps.sh bench
	rm -f $(FIGURES)
	BENCH_WINDOW_S=$(or $(BENCH_WINDOW_S),15) \
	$(CARGO) bench --bench status --bench metrics --bench methods --bench guests

FIGURES := $(TARGET)/bench/all.json
NEW ?= $(FIGURES)

# Fails when a ratio is worse by 10 % than in OLD=, such a file of before; NEW= is for another one than
# that of the last `make bench`.
bench-compare:
	test -e "$(OLD)"
	test -e "$(NEW)" || $(MAKE) bench
	$(CARGO) bench --bench compare -- "$(abspath $(OLD))" "$(abspath $(NEW))"

# What the service tells glibc's allocator.
TUNABLES = $(shell sed -n 's/^Environment=\(GLIBC_TUNABLES=\)/\1/p' dist/mistify-libvirt.service)

# Everything at once for MINUTES=, by the random numbers of SEED= where it is given; the agent runs as the
# service does.
soak:
	tests/install-deps.sh test
	$(TUNABLES) SOAK_MINUTES=$(or $(MINUTES),10) SOAK_SEED=$(SEED) $(CARGO) bench --bench soak

fmt:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path tests/coverage/Cargo.toml

clippy:
	tests/install-deps.sh build
	$(CARGO) clippy --all-targets -- -D warnings

doc:
	tests/install-deps.sh build
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --document-private-items

# The units of systemd.
check-unit:
	tests/install-deps.sh gate
	tests/unit.sh

# Makes sys/bindings.rs again from the libvirt headers at hand.
bindings:
	tests/install-deps.sh gate
	tests/bindings.sh write

check-bindings: build
	tests/install-deps.sh gate
	tests/bindings.sh check

# Whether each lock file has the packages that its Cargo.toml asks for.
check-locks:
	for directory in . fuzz tests/coverage; do \
		$(CARGO) update --quiet --workspace --locked --manifest-path $$directory/Cargo.toml || exit; \
	done

# What is made for tests alone must not be in what is released (grep's 1: not found), it needs two
# libraries, no more, and has at most 4.25 MiB; all packages compile with the Rust of Cargo.toml's
# rust-version.
check-release: build
	grep -aq MISTIFY_STOP_AT $(PROGRAM); test $$? = 1
	test "$$(objdump -p $(PROGRAM) | sed -n 's/^ *NEEDED *//p' | sort | xargs)" = "libc.so.6 libvirt.so.0"
	test "$$(stat -c %s $(PROGRAM))" -le 4456448
	tests/msrv.sh
