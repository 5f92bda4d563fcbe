package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Docker is the docker command line.
type Docker struct {
	// DryRun, when set, gets each command that would change something, and it is not run. Questions are asked all
	// the same; where there is no Docker to answer them it is as if it held nothing.
	DryRun io.Writer
	// Run replaces the command line; for tests.
	Run func(ctx context.Context, stdin io.Reader, args []string) (stdout string, err error)

	mu sync.Mutex // orders the lines of DryRun
}

// Do runs a command that changes something. The error carries the last line of what docker said.
func (d *Docker) Do(ctx context.Context, args ...string) error {
	return d.Feed(ctx, nil, args...)
}

// Feed is Do with something on the command's standard input.
func (d *Docker) Feed(ctx context.Context, stdin io.Reader, args ...string) error {
	if d.DryRun != nil {
		return d.print(stdin, args)
	}
	_, err := d.run(ctx, stdin, args)
	return err
}

// Read runs a command that only looks and returns what it printed.
func (d *Docker) Read(ctx context.Context, args ...string) (string, error) {
	out, err := d.run(ctx, nil, args)
	if d.DryRun != nil && errors.Is(err, errNoDocker) {
		return "", nil
	}
	return out, err
}

// Ask is Read, without space around the answer.
func (d *Docker) Ask(ctx context.Context, args ...string) (string, error) {
	out, err := d.Read(ctx, args...)
	return strings.TrimSpace(out), err
}

// Lines is Ask, one string a line.
func (d *Docker) Lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := d.Ask(ctx, args...)
	if err != nil || out == "" {
		return nil, err
	}
	return strings.Split(out, "\n"), nil
}

// Attach runs a command on the caller's own terminal or pipes. A command that fails there is an *exec.ExitError
// with the command's own exit code.
func (d *Docker) Attach(ctx context.Context, args ...string) error {
	if d.DryRun != nil {
		return d.print(nil, args)
	}
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func (d *Docker) print(stdin io.Reader, args []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	line := "docker"
	for _, arg := range args {
		line += " " + quote(arg)
	}
	if stdin == nil {
		_, err := fmt.Fprintln(d.DryRun, line)
		return err
	}
	if f, ok := stdin.(*os.File); ok {
		_, err := fmt.Fprintln(d.DryRun, line+" <"+quote(f.Name()))
		return err
	}
	text, err := io.ReadAll(stdin)
	if err == nil {
		_, err = fmt.Fprintf(d.DryRun, "%s <<'EOF'\n%s\nEOF\n", line, strings.TrimRight(string(text), "\n"))
	}
	return err
}

// quote writes an argument as a shell wants it.
func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n'\"$&|;<>()*?[]#~`\\{}!") {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

func (d *Docker) run(ctx context.Context, stdin io.Reader, args []string) (string, error) {
	if d.Run != nil {
		return d.Run(ctx, stdin, args)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	// The images are built without BuildKit's extensions, and an engine without buildx must do.
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return stdout.String(), fmt.Errorf("docker %s: %w", args[0], context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return "", errNoDocker
	case strings.Contains(stderr.String(), "permission denied while trying to connect"):
		return "", errDenied
	case strings.Contains(stderr.String(), "Cannot connect to the Docker daemon"):
		return "", errNoEngine
	case errors.As(err, &exit):
		return stdout.String(), fmt.Errorf("docker %s: %w", args[0], &CommandError{exit.ExitCode(), stdout.String(), stderr.String()})
	}
	return "", fmt.Errorf("docker %s: %w", args[0], err)
}

// What may be wrong with Docker itself, in one sentence each.
var (
	errNoDocker = errors.New("docker is not installed, and the nodes are Docker containers: see https://docs.docker.com/get-docker/")
	errNoEngine = errors.New("the Docker engine does not answer: start it (Docker Desktop, or `sudo systemctl start docker`) and try again")
	errDenied   = errors.New("you may not use the Docker engine: add yourself to the group docker, log in anew and try again")
)

// CommandError is what a failed docker command said.
type CommandError struct {
	Code           int
	Stdout, Stderr string
}

// Error is the last line that begins with "error", as kubeadm's and kubectl's do, or else the last of all.
func (e *CommandError) Error() string {
	last := ""
	for line := range strings.Lines(e.Stdout + "\n" + e.Stderr) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "Error response from daemon: ")
		if line != "" && (!strings.HasPrefix(last, "error") || strings.HasPrefix(line, "error")) {
			last = line
		}
	}
	if last == "" {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return last
}

// Tail is the last lines of all that the command said, indented.
func (e *CommandError) Tail(lines int) string {
	all := strings.Split(strings.TrimSpace(e.Stdout+"\n"+e.Stderr), "\n")
	return "    " + strings.Join(all[max(0, len(all)-lines):], "\n    ")
}
