package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// step is one line of what the user sees: a sentence, and the work behind it.
type step struct {
	title string
	do    func(ctx context.Context) error
}

// runSteps does the steps in order, says what each does and how long it took, and stops at the first error.
func (c *Cluster) runSteps(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		if c.Docker.DryRun != nil {
			fmt.Fprintf(c.Out, "# %s\n", s.title)
			if err := s.do(ctx); err != nil {
				return err
			}
			continue
		}
		started := time.Now()
		fmt.Fprintf(c.Out, "* %-62s", s.title+" ...")
		if err := s.do(ctx); err != nil {
			fmt.Fprintln(c.Out, "  failed")
			var command *CommandError
			if errors.As(err, &command) {
				fmt.Fprintln(c.Out, command.Tail(20))
			}
			return err
		}
		fmt.Fprintf(c.Out, "%6.1fs\n", time.Since(started).Seconds())
	}
	return nil
}

// each does something to all of the nodes at once, or in order where the commands are only printed.
func (c *Cluster) each(ctx context.Context, nodes []Node, do func(ctx context.Context, n Node) error) error {
	group, ctx := errgroup.WithContext(ctx)
	if c.Docker.DryRun != nil {
		group.SetLimit(1)
	}
	for _, n := range nodes {
		group.Go(func() error {
			if err := do(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
