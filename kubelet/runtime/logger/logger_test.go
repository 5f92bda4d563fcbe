package logger

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLinesBecomeEntriesOfTheCRIFormat(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	stamp := "2026-01-02T03:04:05.0000006Z stdout "
	for _, c := range []struct {
		what   string
		pieces []string
		want   string
	}{
		{"a line", []string{"one\n"}, stamp + "F one\n"},
		{"lines in one piece", []string{"one\n\ntwo\n"}, stamp + "F one\n" + stamp + "F \n" + stamp + "F two\n"},
		{"a line in pieces", []string{"o", "n", "e\n"}, stamp + "F one\n"},
		{"a last line without its newline", []string{"one\ntw", "o"}, stamp + "F one\n" + stamp + "P two\n"},
		{"nothing", nil, ""},
		{"a line of just the longest length", []string{strings.Repeat("x", maxLine), "\n"}, stamp + "F " + strings.Repeat("x", maxLine) + "\n"},
		{"a longer line", []string{strings.Repeat("x", maxLine+3) + "\n"}, stamp + "P " + strings.Repeat("x", maxLine) + "\n" + stamp + "F xxx\n"},
	} {
		var s splitter
		var got []byte
		for _, p := range c.pieces {
			got = append(got, s.add(Stdout, []byte(p), now)...)
		}
		got = append(got, s.end(Stdout, now)...)
		if string(got) != c.want {
			t.Errorf("%s: got %.80q, want %.80q", c.what, got, c.want)
		}
	}
}

// start runs a logger on pipes, and returns the pipes, its files, and what waits for its end.
func start(t *testing.T, ctx context.Context) (cfg Config, stdout, stderr *io.PipeWriter, wait func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg = Config{LogPath: filepath.Join(dir, "0.log"), Socket: filepath.Join(dir, "s")}
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, outR, errR, func() error { close(ready); return nil })
	}()
	<-ready
	return cfg, outW, errW, func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAnAttachedClientSeesPiecesAtOnceAndTheLogWholeLines(t *testing.T) {
	cfg, stdout, stderr, wait := start(t, t.Context())
	io.WriteString(stdout, "before\n")
	for { // until the logger has read it: what comes later is for the client too
		if log, _ := os.ReadFile(cfg.LogPath); strings.Contains(string(log), "before") {
			break
		}
		time.Sleep(time.Millisecond)
	}
	view, err := Attach(t.Context(), cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string)
	outR, outW := io.Pipe()
	var errOut bytes.Buffer
	go func() { view.Copy(outW, &errOut); outW.Close() }()
	go func() {
		buf := make([]byte, 100)
		for {
			n, err := outR.Read(buf)
			if err != nil {
				close(seen)
				return
			}
			seen <- string(buf[:n])
		}
	}()
	io.WriteString(stdout, "prompt> ")
	if got := <-seen; got != "prompt> " {
		t.Errorf("client sees %q", got)
	}
	io.WriteString(stderr, "oops\n")
	stdout.Close()
	stderr.Close()
	wait()
	if _, more := <-seen; more || errOut.String() != "oops\n" {
		t.Errorf("at the end the client has seen %q on stderr", errOut.String())
	}
	log, _ := os.ReadFile(cfg.LogPath)
	stamps := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\S+ `)
	got := stamps.ReplaceAllString(string(log), "")
	if len(got) == len(log) || !strings.Contains(got, "stdout F before\n") || !strings.Contains(got, "stderr F oops\n") || !strings.Contains(got, "stdout P prompt> \n") {
		t.Errorf("log is %q", log)
	}
}

func TestReopenStartsANewFile(t *testing.T) {
	cfg, stdout, stderr, wait := start(t, t.Context())
	io.WriteString(stdout, "one\n")
	io.WriteString(stdout, "") // the first write is in the file when the second is taken
	if err := os.Rename(cfg.LogPath, cfg.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := Reopen(t.Context(), cfg.Socket); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdout, "two\n")
	stdout.Close()
	stderr.Close()
	wait()
	for path, want := range map[string]string{cfg.LogPath + ".1": "F one\n", cfg.LogPath: "F two\n"} {
		if b, _ := os.ReadFile(path); !strings.HasSuffix(string(b), want) || strings.Count(string(b), "\n") != 1 {
			t.Errorf("%s holds %q", path, b)
		}
	}
}

func TestALogThatCannotBeWrittenDoesNotBlockTheContainer(t *testing.T) {
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	cfg := Config{LogPath: "/nowhere/at/all", Socket: "/nowhere/s"}
	go func() { ended <- Run(t.Context(), cfg, outR, nil, func() error { return nil }) }()
	for range 100 {
		if _, err := io.WriteString(outW, strings.Repeat("x", 1000)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	outW.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "opening the container log") {
		t.Errorf("Run says %v", err)
	}
}

func TestAnOrderToStopWaitsTwoSecondsForOutput(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		outR, outW := io.Pipe()
		ended := make(chan error, 1)
		cfg := Config{LogPath: filepath.Join(dir, "0.log"), Socket: "/nowhere/s"} // sockets are no part of a bubble
		go func() { ended <- Run(ctx, cfg, outR, nil, func() error { return nil }) }()
		began := time.Now()
		cancel()
		synctest.Wait()
		io.WriteString(outW, "last\n")
		<-ended
		if took := time.Since(began); took != drainTime {
			t.Errorf("it took %v", took)
		}
		outW.Close() // lets the reader end
		b, _ := os.ReadFile(cfg.LogPath)
		if !strings.HasSuffix(string(b), "stdout F last\n") {
			t.Errorf("log is %q", b)
		}
	})
}
