package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// lockWait is how many seconds to wait for another user of the tables.
const lockWait = "5"

// Chain is a chain of our own and all of its rules, each without "-A NAME".
type Chain struct {
	Table string
	Name  string
	Rules []string
}

// Restore makes every chain exactly what is given, table by table.
func Restore(ctx context.Context, chains ...Chain) error {
	byTable := map[string][]Chain{}
	var tables []string
	for _, c := range chains {
		if byTable[c.Table] == nil {
			tables = append(tables, c.Table)
		}
		byTable[c.Table] = append(byTable[c.Table], c)
	}
	var text strings.Builder
	for _, table := range tables {
		fmt.Fprintf(&text, "*%s\n", table)
		for _, c := range byTable[table] {
			fmt.Fprintf(&text, ":%s - [0:0]\n", c.Name) // with --noflush this empties the chain
		}
		for _, c := range byTable[table] {
			for _, rule := range c.Rules {
				fmt.Fprintf(&text, "-A %s %s\n", c.Name, rule)
			}
		}
		text.WriteString("COMMIT\n")
	}
	return run(ctx, text.String(), "iptables-restore", "-w", lockWait, "--noflush")
}

// Jump sees to it that the rule (written as arguments) stands at the end of a
// chain that is not ours.
func Jump(ctx context.Context, table, chain string, rule ...string) error {
	if run(ctx, "", "iptables", args(table, "-C", chain, rule)...) == nil {
		return nil
	}
	return run(ctx, "", "iptables", args(table, "-A", chain, rule)...)
}

// EnsureChain makes the chain if it is missing and keeps its rules otherwise.
func EnsureChain(ctx context.Context, table, chain string) error {
	if run(ctx, "", "iptables", args(table, "-n", "-L", []string{chain})...) == nil {
		return nil
	}
	err := run(ctx, "", "iptables", args(table, "-N", chain, nil)...)
	// Another process may have made it in between.
	if err != nil && run(ctx, "", "iptables", args(table, "-n", "-L", []string{chain})...) == nil {
		return nil
	}
	return err
}

// Delete removes a chain and every rule that jumps to it; what is not there is
// no error.
func Delete(ctx context.Context, table, chain string) error {
	var rules bytes.Buffer
	cmd := exec.CommandContext(ctx, "iptables", "-w", lockWait, "-t", table, "-S")
	cmd.Stdout = &rules
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("iptables -S: %w", err)
	}
	var text strings.Builder
	found := false
	for line := range strings.Lines(rules.String()) {
		line = strings.TrimSpace(line)
		found = found || line == "-N "+chain
		if rule, ok := strings.CutPrefix(line, "-A "); ok && strings.HasSuffix(line, " -j "+chain) {
			fmt.Fprintf(&text, "-D %s\n", rule)
		}
	}
	if !found {
		return nil
	}
	restore := fmt.Sprintf("*%s\n:%s - [0:0]\n%s-X %s\nCOMMIT\n", table, chain, text.String(), chain)
	return run(ctx, restore, "iptables-restore", "-w", lockWait, "--noflush")
}

func args(table, verb, chain string, rule []string) []string {
	return append([]string{"-w", lockWait, "-t", table, verb, chain}, rule...)
}

func run(ctx context.Context, stdin, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
