// Command tally runs `go test` and ends with how many tests passed, failed and were skipped, and why they were.
//
//	go run ./test/tally -- -timeout 10m ./...
//
// A test that fails is printed with all it said; one that passes is only counted. The exit code is go test's.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	args := slices.DeleteFunc(os.Args[1:], func(a string) bool { return a == "--" })
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	count(out, os.Stdout)
	if err := cmd.Wait(); err != nil {
		os.Exit(1)
	}
}

// count reads the events and writes the report.
func count(in io.Reader, out io.Writer) {
	said := map[string][]string{} // of a test, or of a package outside its tests
	var passed, failed int
	var skipped []string
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
				passed++
			}
		case "fail", "build-fail":
			if e.Test != "" {
				failed++
			}
			fmt.Fprintf(out, "FAIL  %s\n%s", strings.TrimSpace(key), strings.Join(said[key], ""))
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, strings.TrimSpace(key)+": "+reason(said[key]))
			}
		default:
			continue
		}
		delete(said, key)
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", passed, failed, len(skipped))
	for _, s := range skipped {
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
