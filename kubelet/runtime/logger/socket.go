package logger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Stream names one of a container's two outputs.
type Stream byte

// The two outputs. A terminal has only Stdout.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String is the word for the stream in the log format.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// A client of the socket sends one byte. Attach is answered by the same byte and then by frames until the container's
// output ends; reopen is answered by the error's text, or by nothing.
const (
	verbAttach byte = 'a'
	verbReopen byte = 'r'
)

// writeFrame sends one piece of output: the stream (1 byte), the length (4 bytes, big endian), the bytes.
func writeFrame(w io.Writer, s Stream, data []byte) error {
	frame := binary.BigEndian.AppendUint32([]byte{byte(s)}, uint32(len(data)))
	_, err := w.Write(append(frame, data...))
	return err
}

// Attached is a view of a container's output from the moment of attaching.
type Attached struct{ conn net.Conn }

// Attach connects to the logger that listens on socket; when it returns, no later output will be missed.
func Attach(ctx context.Context, socket string) (*Attached, error) {
	conn, err := dial(ctx, socket, verbAttach)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("attaching to the container's output: %w", err)
	}
	return &Attached{conn}, nil
}

// Copy writes the output to stdout and stderr until the container's output ends. Either writer may be nil.
func (a *Attached) Copy(stdout, stderr io.Writer) error {
	var head [5]byte
	for {
		if _, err := io.ReadFull(a.conn, head[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("reading the container's output: %w", err)
		}
		w := stdout
		if Stream(head[0]) == Stderr {
			w = stderr
		}
		if w == nil {
			w = io.Discard
		}
		if _, err := io.CopyN(w, a.conn, int64(binary.BigEndian.Uint32(head[1:]))); err != nil {
			return fmt.Errorf("copying the container's output: %w", err)
		}
	}
}

// Close ends the view; a Copy that is under way returns.
func (a *Attached) Close() error { return a.conn.Close() }

// Reopen asks the logger that listens on socket to open its log file anew.
func Reopen(ctx context.Context, socket string) error {
	conn, err := dial(ctx, socket, verbReopen)
	if err != nil {
		return err
	}
	defer conn.Close()
	reply, err := io.ReadAll(conn)
	if err != nil {
		return fmt.Errorf("asking the logger to reopen: %w", err)
	}
	if len(reply) > 0 {
		return errors.New(string(reply))
	}
	return nil
}

func dial(ctx context.Context, socket string, verb byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reaching the container's logger: %w", err)
	}
	if _, err := conn.Write([]byte{verb}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("reaching the container's logger: %w", err)
	}
	return conn, nil
}
