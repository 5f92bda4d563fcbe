// Command kubeadm turns a machine into a cluster's first node (init) or into a
// further one (join), with upstream's phases, files and messages.
//
//	init:  preflight → certs → kubeconfig → etcd and control-plane (static pods) →
//	       kubelet-start → wait → upload-config → mark-control-plane → bootstrap-token →
//	       kubelet-finalize → addon
//	join:  discovery (anonymous, checked by token signature and CA pin) →
//	       kubelet-start → TLS bootstrap
//
// Upstream: cmd/kubeadm. Left out: further control-plane nodes, upgrade,
// external etcd and CA, "phase" subcommands, patches.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"orrery/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "kubeadm", Short: "kubeadm: easily bootstrap a secure Kubernetes cluster",
		SilenceErrors: true, SilenceUsage: true,
	}
	root.AddCommand(initCommand(), joinCommand(), tokenCommand(), resetCommand(), versionCommand())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if _, ok := errors.AsType[*phaseError](err); ok {
		fmt.Fprintln(os.Stderr, "To see the stack trace of this error execute with --v=5 or higher")
	}
	stop()
	os.Exit(exitCode(err))
}

// exitCode is 2 for failed preflight checks, 3 for invalid configuration and 1
// for everything else, as upstream's cmd/kubeadm/app/util/error.go has it.
func exitCode(err error) int {
	if _, ok := errors.AsType[*preflightError](err); ok {
		return 2
	}
	if errors.Is(err, errInvalidConfig) {
		return 3
	}
	return 1
}

// phaseError says which phase of a workflow failed.
type phaseError struct {
	phase string
	err   error
}

func (e *phaseError) Error() string { return "error execution phase " + e.phase + ": " + e.err.Error() }
func (e *phaseError) Unwrap() error { return e.err }

// phase is one named step of a workflow.
type phase struct {
	name string
	run  func(ctx context.Context) error
}

// runPhases runs phases in order, but for those that were asked to be skipped.
func runPhases(ctx context.Context, phases []phase, skip []string) error {
	skipped := map[string]bool{}
	for _, s := range skip {
		skipped[s] = true
	}
	for _, p := range phases {
		if skipped[p.name] {
			continue
		}
		if err := p.run(ctx); err != nil {
			return &phaseError{p.name, err}
		}
	}
	return nil
}

func versionCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Print the version of kubeadm", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "short":
				fmt.Println(version.Kubernetes)
			case "":
				fmt.Printf("kubeadm version: %s\n", version.Kubernetes)
			default:
				return fmt.Errorf("invalid output format: %s", output)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "Output format; available options are 'short'")
	return c
}
