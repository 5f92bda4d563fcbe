package logger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxLine is the longest content, in bytes, that one log entry holds; longer lines are cut into entries tagged P.
	// Upstream: containerd pkg/cri/config, MaxContainerLogLineSize.
	maxLine = 16 * 1024
	// drainTime is how long output is still read after the order to stop: by then the pipe's other end is closed.
	drainTime = 2 * time.Second
	// slowClient is how long an attached client may refuse to read before it is let go, so that it cannot halt the container.
	slowClient = 10 * time.Second
)

// Config says where one container's output goes.
type Config struct {
	// LogPath is the CRI log file; empty means that nobody wants a log.
	LogPath string
	// Socket is the path of the unix socket on which Attach and Reopen find this logger.
	Socket string
}

// Run writes what stdout and stderr say to the log until both end, or for two more seconds after ctx is done.
// A nil stderr stands for a terminal, which has one stream only. ready is called once when the log and the socket are open.
// Errors of the log or the socket do not end it, because a reader that goes away kills or blocks the container;
// the first one is returned in the end.
func Run(ctx context.Context, cfg Config, stdout, stderr io.Reader, ready func() error) error {
	l := &logger{path: cfg.LogPath, clients: map[net.Conn]bool{}}
	l.err = l.reopen()
	os.Remove(cfg.Socket) // left by a logger that was killed
	listener, err := net.Listen("unix", cfg.Socket)
	var serving sync.WaitGroup
	if err == nil {
		serving.Go(func() { l.serve(listener, &serving) })
		defer func() {
			listener.Close()
			l.close()
			serving.Wait()
		}()
	} else if l.err == nil {
		l.err = fmt.Errorf("listening for attach: %w", err)
	}

	var reading sync.WaitGroup
	reading.Go(func() { l.pump(Stdout, stdout) })
	if stderr != nil {
		reading.Go(func() { l.pump(Stderr, stderr) })
	}
	if err := ready(); err != nil {
		return fmt.Errorf("reporting ready: %w", err)
	}
	ended := make(chan struct{})
	go func() { reading.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended:
		case <-time.After(drainTime):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// logger is the state of one Run.
type logger struct {
	path string

	mu      sync.Mutex
	file    *os.File          // nil when there is no log
	clients map[net.Conn]bool // attached clients
	closed  bool
	err     error // first write error
}

// reopen opens the log file anew: the kubelet has renamed the old one to rotate it.
func (l *logger) reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening the container log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
	}
	l.file = f
	return nil
}

func (l *logger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file != nil {
		l.file.Close()
	}
	for c := range l.clients {
		c.Close()
	}
}

// pump reads one stream to its end. Attached clients get every piece as it comes (a prompt has no newline);
// the log gets whole lines.
func (l *logger) pump(s Stream, r io.Reader) {
	var split splitter
	buf := make([]byte, 32*1024)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			l.write(s, buf[:n], split.add(s, buf[:n], time.Now()))
		}
		if err != nil {
			l.write(s, nil, split.end(s, time.Now()))
			return
		}
	}
}

// write sends raw to the clients and entries to the log file.
func (l *logger) write(s Stream, raw, entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if l.file != nil && len(entries) > 0 {
		if _, err := l.file.Write(entries); err != nil && l.err == nil {
			l.err = fmt.Errorf("writing the container log: %w", err)
		}
	}
	if len(raw) == 0 {
		return
	}
	for c := range l.clients {
		c.SetWriteDeadline(time.Now().Add(slowClient))
		if err := writeFrame(c, s, raw); err != nil {
			c.Close()
			delete(l.clients, c)
		}
	}
}

// serve answers attach and reopen on the socket until it is closed.
func (l *logger) serve(listener net.Listener, wg *sync.WaitGroup) {
	for {
		c, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		wg.Go(func() { l.answer(c) })
	}
}

func (l *logger) answer(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(slowClient))
	var verb [1]byte
	if _, err := io.ReadFull(c, verb[:]); err != nil {
		c.Close()
		return
	}
	switch verb[0] {
	case verbReopen:
		reply := ""
		if err := l.reopen(); err != nil {
			reply = err.Error()
		}
		io.WriteString(c, reply)
		c.Close()
	case verbAttach:
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, err := c.Write([]byte{verbAttach}); err != nil || l.closed {
			c.Close()
			return
		}
		l.clients[c] = true
	default:
		c.Close()
	}
}

// splitter cuts one stream into log entries; it keeps the start of an unfinished line.
type splitter struct{ rest []byte }

// add returns the entries that data completes.
func (s *splitter) add(stream Stream, data []byte, now time.Time) []byte {
	var out bytes.Buffer
	for len(data) > 0 {
		line, after, found := bytes.Cut(data, []byte{'\n'})
		data = after
		s.rest = append(s.rest, line...)
		for len(s.rest) > maxLine {
			entry(&out, stream, "P", s.rest[:maxLine], now)
			s.rest = s.rest[maxLine:]
		}
		if found {
			entry(&out, stream, "F", s.rest, now)
			s.rest = s.rest[:0]
		}
	}
	return out.Bytes()
}

// end returns the entry of a last line without a newline: partial, since it never ended.
func (s *splitter) end(stream Stream, now time.Time) []byte {
	if len(s.rest) == 0 {
		return nil
	}
	var out bytes.Buffer
	entry(&out, stream, "P", s.rest, now)
	s.rest = nil
	return out.Bytes()
}

// entry writes one line of the CRI log format: time, stream, tag (F for a full line, P for a partial one), content.
// Upstream: pkg/kubelet/kuberuntime/logs, parseCRILog (the reader of it).
func entry(out *bytes.Buffer, stream Stream, tag string, content []byte, now time.Time) {
	out.WriteString(now.Format(time.RFC3339Nano))
	out.WriteByte(' ')
	out.WriteString(stream.String())
	out.WriteByte(' ')
	out.WriteString(tag)
	out.WriteByte(' ')
	out.Write(content)
	out.WriteByte('\n')
}
