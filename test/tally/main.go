// Command tally runs `go test` and ends with how many tests passed, failed and were skipped, and why they were.
//
//	go run ./test/tally -- -timeout 10m ./... -- -p 1 ./test/e2e
//
// Each "--" begins a run of its own; they are counted together, and a failure in one does not keep the next from
// running. A test that fails is printed with all it said; one that passes is only counted. The exit code is 1 if any
// run failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// event is a line of `go test -json`.
//
// See `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var sum report
	failed := false
	for args := range runs(os.Args[1:]) {
		if err := run(ctx, args, &sum); err != nil {
			fmt.Fprintln(os.Stderr, "tally: go test", strings.Join(args, " ")+":", err)
			failed = true
		}
	}
	sum.print(os.Stdout)
	if failed {
		os.Exit(1)
	}
}

// runs are the arguments between one "--" and the next.
func runs(args []string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			args = args[1:] // the "--"
			end := slices.Index(args, "--")
			if end < 0 {
				end = len(args)
			}
			if !yield(args[:end]) {
				return
			}
			args = args[end:]
		}
	}
}

// run is one go test.
func run(ctx context.Context, args []string, sum *report) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	sum.count(out, os.Stdout)
	return cmd.Wait()
}

// report is what the tests of all runs came to.
type report struct {
	passed, failed int
	skipped        []string // with the reason
}

// count reads a run's events, and tells of packages that end and of tests that fail.
func (r *report) count(in io.Reader, out io.Writer) {
	said := map[string][]string{} // of a test, or of a package outside its tests
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text())
			continue
		}
		key := e.Package + e.ImportPath + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			said[key] = append(said[key], e.Output)
			continue
		case "pass":
			if e.Test == "" {
				fmt.Fprintf(out, "ok    %s %.1fs\n", e.Package, e.Elapsed)
			} else {
				r.passed++
			}
		case "fail", "build-fail":
			if e.Test != "" {
				r.failed++
			}
			fmt.Fprintf(out, "FAIL  %s\n%s", strings.TrimSpace(key), strings.Join(said[key], ""))
		case "skip":
			if e.Test != "" {
				r.skipped = append(r.skipped, strings.TrimSpace(key)+": "+reason(said[key]))
			}
		default:
			continue
		}
		delete(said, key)
	}
}

func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skipped))
	for _, s := range r.skipped {
		fmt.Fprintln(out, "  skipped", s)
	}
}

// reason is the last thing that a skipped test said, without the place in the source.
func reason(said []string) string {
	for _, line := range slices.Backward(said) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "---") || strings.HasPrefix(line, "===") {
			continue
		}
		if _, rest, found := strings.Cut(line, ".go:"); found {
			if _, text, found := strings.Cut(rest, ": "); found {
				return text
			}
		}
		return line
	}
	return "no reason given"
}
