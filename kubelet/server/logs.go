package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// LogOptions is which lines of a container's log are wanted, and how.
type LogOptions struct {
	Follow     bool
	Timestamps bool
	Tail       int64 // lines from the end; negative for all
	Limit      int64 // bytes of output; negative for no limit
	Since      time.Time
	Stream     string // "stdout", "stderr", or "" for both
}

// followPoll is how often a log that is followed is looked at.
const followPoll = 100 * time.Millisecond

// CopyLog copies the log at path, in CRI's format
//
//	2026-11-21T22:06:18.123456789Z stdout F the line
//
// without its frame to the writers; stderr may be the same as stdout. A followed
// log ends when running says no and all has been read, or with the context.
//
// Upstream: k8s.io/cri-client/pkg/logs/logs.go, ReadLogs.
func CopyLog(ctx context.Context, path string, o LogOptions, running func() bool, stdout, stderr io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if o.Tail >= 0 {
		offset, err := tailOffset(f, o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return err
		}
	}
	left := o.Limit
	r := bufio.NewReader(f)
	var part []byte
	for {
		chunk, err := r.ReadBytes('\n')
		part = append(part, chunk...)
		if err == nil {
			n, err := writeLine(part, o, left, stdout, stderr)
			if err != nil {
				return err
			}
			part = part[:0]
			if left -= n; o.Limit >= 0 && left <= 0 {
				return nil
			}
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !o.Follow {
			return nil
		}
		alive := running() // asked before the last look, so that nothing is missed
		if more, err := moreToRead(f); err != nil || more {
			if err != nil {
				return err
			}
			continue
		}
		if !alive {
			return nil
		}
		if flush, ok := stdout.(interface{ Flush() }); ok {
			flush.Flush()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPoll):
		}
	}
}

// moreToRead says whether the file has grown past what has been read.
func moreToRead(f *os.File) (bool, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, err
	}
	info, err := f.Stat()
	return err == nil && info.Size() > at, err
}

// tailOffset is where the last n lines begin.
func tailOffset(f *os.File, n int64) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, err
	}
	buf := make([]byte, 4096)
	seen := int64(0)
	for end := size; end > 0; {
		begin := max(0, end-int64(len(buf)))
		b := buf[:end-begin]
		if _, err := f.ReadAt(b, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != '\n' || begin+int64(i) == size-1 {
				continue
			}
			if seen++; seen == n {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return 0, nil
}

// writeLine writes one line of the log, if it is wanted, and says how many bytes
// that took; limit counts when it is not negative.
func writeLine(line []byte, o LogOptions, limit int64, stdout, stderr io.Writer) (int64, error) {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) < 4 {
		return 0, nil // not in CRI's format
	}
	stamp, stream, tag, text := fields[0], string(fields[1]), string(fields[2]), fields[3]
	if o.Stream != "" && !strings.EqualFold(o.Stream, stream) {
		return 0, nil
	}
	if !o.Since.IsZero() {
		t, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err != nil || t.Before(o.Since) {
			return 0, nil
		}
	}
	if strings.HasPrefix(tag, "P") { // a part of a line that goes on
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	if o.Timestamps {
		text = append(append(append([]byte{}, stamp...), ' '), text...)
	}
	if o.Limit >= 0 && int64(len(text)) > limit {
		text = text[:limit]
	}
	to := stdout
	if stream == "stderr" {
		to = stderr
	}
	n, err := to.Write(text)
	return int64(n), err
}

// TailLog is the last lines of a log as text: the last words of a container that left none elsewhere.
func TailLog(ctx context.Context, path string, lines, limit int64) string {
	var b bytes.Buffer
	if err := CopyLog(ctx, path, LogOptions{Tail: lines, Limit: -1}, nil, &b, &b); err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	out := b.Bytes()
	return string(out[max(0, int64(len(out))-limit):])
}
