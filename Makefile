# make demo     a channel on air on this machine, over links that lose, and whether every byte arrived
# make build    the commands, into bin/
# make test     everything that a change must pass
# make bench    the figures of docs/, measured here
# make sim      the mesh with up to 10,000 simulated peers, and plots of it in docs/sim
# make soak     every fuzz target, and half an hour of a bad network
# make lint     formatting and static analysis
# make install  into $(PREFIX), /usr/local if not set (DESTDIR for packages)

PREFIX ?= /usr/local
# watch is also a procps program, so our commands have a directory of their own and sixcast-* names in the usual one.
libexec = $(PREFIX)/libexec/sixcast
man = $(PREFIX)/share/man/man1
commands = ingest relay tracker watch record

.PHONY: all build demo test bench sim soak lint install uninstall clean

all: build

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ $(commands:%=./cmd/%)

demo: build
	scripts/demo

test:
	scripts/setup
	scripts/test

bench: build
	scripts/bench

# Hours on two cores: scripts/sim runs single scenarios.
sim:
	scripts/sim sizes --seeds 3 --json build/sizes.json --svg docs/sim
	scripts/sim uplinks --n 200 --seeds 3 --json build/uplinks.json --svg docs/sim
	scripts/sim losses --n 200 --seeds 3 --json build/losses.json --svg docs/sim

soak: build
	scripts/soak

lint:
	scripts/lint

install: build
	install -d '$(DESTDIR)$(libexec)' '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(man)'
	install $(commands:%=bin/%) '$(DESTDIR)$(libexec)/'
	for c in $(commands); do ln -sf ../libexec/sixcast/$$c '$(DESTDIR)$(PREFIX)/bin/'sixcast-$$c || exit 1; done
	for c in $(commands); do install -m 644 docs/man/$$c.1 '$(DESTDIR)$(man)/'sixcast-$$c.1 || exit 1; done
	@echo 'Installed. Either use sixcast-watch and its like, or put $(libexec) first in your PATH.'

uninstall:
	for c in $(commands); do rm -f '$(DESTDIR)$(libexec)/'$$c '$(DESTDIR)$(PREFIX)/bin/'sixcast-$$c '$(DESTDIR)$(man)/'sixcast-$$c.1; done
	-rmdir '$(DESTDIR)$(libexec)' 2>/dev/null

clean:
	rm -rf bin build
