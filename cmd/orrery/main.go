// Command orrery starts, stops and looks into clusters of Docker containers. Its verbs are minikube's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"orrery/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit): // a command in a node or kubectl, which has said itself what was wrong
		os.Exit(exit.ExitCode())
	case errors.Is(err, lab.ErrNotRunning):
		os.Exit(7)
	default:
		fmt.Fprintln(os.Stderr, "orrery:", err)
		os.Exit(1)
	}
}
