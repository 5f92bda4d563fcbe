package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
)

// lockWait is how many seconds to wait for another user of the tables, as upstream.
const lockWait = "5"

// linux is the kernel of the node that the process runs on.
type linux struct{}

func (linux) prepare(o Options, log *slog.Logger) (counters bool, err error) {
	if o.LocalhostNodePorts {
		if err := routeLocalnet(); err != nil {
			return false, fmt.Errorf("node ports on 127.0.0.1: %w", err)
		}
	}
	return makeCounters(log), nil
}

func (linux) put(ctx context.Context, r Ruleset, jumps bool) error {
	// Jumps come second: where they lead is complete by then.
	if err := r.apply(ctx); err != nil || !jumps {
		return err
	}
	return ensureJumps(ctx)
}

func (linux) forget(ports []*servicePort) error { return forgetStale(ports) }

// apply puts the rules into the kernel, in one transaction per table, and
// removes the chains of Services and endpoints that are gone.
func (r Ruleset) apply(ctx context.Context) error {
	saved, err := run(ctx, "", "iptables-save", "-t", "nat")
	if err != nil {
		return err
	}
	mangle := newTable("mangle", chainCanary)
	text := mangle.restore(nil) + r.filter.restore(nil) + r.nat.restore(r.stale(saved))
	_, err = run(ctx, text, "iptables-restore", "-w", lockWait, "--noflush")
	return err
}

// stale are the chains in the output of iptables-save that are of our making
// and no longer wanted.
func (r Ruleset) stale(saved string) (out []string) {
	for line := range strings.Lines(saved) {
		name, found := strings.CutPrefix(line, ":")
		name, _, _ = strings.Cut(name, " ")
		if _, wanted := r.nat.rules[name]; found && !wanted && ownChain.MatchString(name) {
			out = append(out, name)
		}
	}
	return out
}

// ensureJumps puts missing jumps to our chains before everything else.
func ensureJumps(ctx context.Context) error {
	for _, j := range jumps() {
		if j.run(ctx, "-C") == nil {
			continue
		}
		if err := j.run(ctx, "-I"); err != nil {
			return err
		}
	}
	return nil
}

func (j jump) run(ctx context.Context, verb string) error {
	args := append([]string{"-w", lockWait, "-t", j.table, verb, j.from}, j.match...)
	_, err := run(ctx, "", "iptables", append(args, "-j", j.to)...)
	return err
}

// Cleanup removes every rule and chain that this proxy makes; what is not there
// is no error. The kubelet's KUBE-FIREWALL stays.
//
// Upstream: pkg/proxy/iptables/cleanup.go, CleanupLeftovers.
func Cleanup(ctx context.Context) error {
	for _, j := range jumps() {
		for j.to != chainFirewall && j.run(ctx, "-D") == nil { // until none is left
		}
	}
	var errs []error
	empty := Ruleset{nat: newTable("nat")}
	for name, t := range map[string]*table{"filter": compute(nil, Options{}).filter, "nat": compute(nil, Options{}).nat, "mangle": newTable("mangle", chainCanary)} {
		saved, err := run(ctx, "", "iptables-save", "-t", name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var doomed []string
		for _, c := range t.chains {
			if c != chainFirewall && strings.Contains(saved, "\n:"+c+" ") {
				doomed = append(doomed, c)
			}
		}
		if name == "nat" {
			doomed = append(doomed, empty.stale(saved)...)
		}
		_, err = run(ctx, newTable(name).restore(doomed), "iptables-restore", "-w", lockWait, "--noflush")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// routeLocalnet lets packets for 127.0.0.0/8 be translated to other addresses,
// which node ports on 127.0.0.1 need.
func routeLocalnet() error {
	const path = "/proc/sys/net/ipv4/conf/all/route_localnet"
	if have, err := os.ReadFile(path); err == nil && string(have) == "1\n" {
		return nil // and /proc/sys may be read-only
	}
	return os.WriteFile(path, []byte("1"), 0o644)
}

func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
