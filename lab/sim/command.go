package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// socketFile is where a running sim takes commands, in its folder.
const socketFile = "control.sock"

// Do carries out one command and returns what is to be said about it:
//
//	nodes                       list nodes and components
//	stop|start NAME             a node's power switch, or a component's
//	pause NAME                  freeze a node: nothing of it moves, connections stay open
//	cut NAME                    unplug a node's cable; its pods go on
//	heal NAME                   undo pause and cut
//	exit NAMESPACE/POD [CODE]   have a pod's containers exit
//
// To stop the control plane's node is to stop its components too.
func (s *Sim) Do(line string) (string, error) {
	words := strings.Fields(line)
	switch {
	case len(words) == 1 && words[0] == "nodes":
		return s.list(), nil
	case len(words) >= 2 && words[0] == "exit":
		return s.exit(words[1], words[2:])
	case len(words) == 2:
		return s.change(words[0], words[1])
	}
	return "", fmt.Errorf("unknown command %q: nodes, stop NAME, start NAME, pause NAME, cut NAME, heal NAME, exit NAMESPACE/POD [CODE]", line)
}

func (s *Sim) change(verb, name string) (string, error) {
	if n := s.Node(name); n != nil {
		do := map[string]func(){"stop": n.Stop, "start": n.Start, "pause": n.Pause, "cut": n.Link.Cut, "heal": n.Heal}[verb]
		if do == nil {
			return "", fmt.Errorf("a node cannot be told to %s", verb)
		}
		do()
		return n.Name + " " + n.State() + "\n", nil
	}
	for _, p := range s.control {
		if p.name != name {
			continue
		}
		switch verb {
		case "stop":
			p.halt()
			return name + " stopped\n", nil
		case "start":
			p.start()
			return name + " running\n", nil
		}
		return "", fmt.Errorf("%s can be stopped and started, not told to %s", name, verb)
	}
	return "", fmt.Errorf("there is no node or component %q", name)
}

func (s *Sim) exit(pod string, rest []string) (string, error) {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok {
		namespace, name = "default", pod
	}
	code := 1
	if len(rest) > 0 {
		var err error
		if code, err = strconv.Atoi(rest[0]); err != nil {
			return "", fmt.Errorf("exit code %q: %w", rest[0], err)
		}
	}
	total := 0
	for _, n := range s.all {
		total += n.Runtime.Exit(namespace, name, "", int32(code))
	}
	if total == 0 {
		return "", fmt.Errorf("no container of pod %s/%s runs", namespace, name)
	}
	return fmt.Sprintf("%d containers exited with %d\n", total, code), nil
}

func (s *Sim) list() string {
	var b strings.Builder
	for _, n := range s.all {
		fmt.Fprintf(&b, "%s\t%s\t%s\n", n.Name, n.ip, n.State())
	}
	for _, p := range s.control {
		state := "stopped"
		if p.runs() {
			state = "running"
		}
		fmt.Fprintf(&b, "%s\t\t%s\n", p.name, state)
	}
	return b.String()
}

// Stop is a power cut: the kubelet and all containers end at once and tell nobody.
func (n *Node) Stop() {
	if n.control {
		for i := len(n.sim.control) - 1; i >= 0; i-- {
			n.sim.control[i].halt()
		}
	}
	n.Link.Drop()
	n.kubelet.halt()
	n.Runtime.Crash()
}

// Start is the power coming back: the kubelet finds its pods' containers dead.
func (n *Node) Start() {
	if n.control {
		for _, p := range n.sim.control {
			p.start()
		}
	}
	n.kubelet.start()
}

// Pause freezes the node as `docker pause` does: kubelet and containers stand
// still and connections stay open.
func (n *Node) Pause() {
	n.Runtime.Freeze()
	n.Link.Cut()
}

// Heal undoes Pause and the cutting of the Link.
func (n *Node) Heal() {
	n.Link.Heal()
	n.Runtime.Thaw()
}

// State is a word on the node: running, stopped, paused or cut off.
func (n *Node) State() string {
	gate, _ := n.Link.state()
	n.Runtime.mu.Lock()
	frozen := !isClosed(n.Runtime.running)
	n.Runtime.mu.Unlock()
	switch {
	case !n.kubelet.runs():
		return "stopped"
	case frozen:
		return "paused"
	case !isClosed(gate):
		return "cut off"
	}
	return "running"
}

// ServeCommands takes commands, one a connection, at a socket in the folder, until the context ends.
func (s *Sim) ServeCommands(ctx context.Context) error {
	path := filepath.Join(s.cfg.Dir, socketFile)
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return fmt.Errorf("a simulation runs in %s already", s.cfg.Dir)
	}
	_ = os.Remove(path) // of one that did not end well
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("socket for commands: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			line, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				return
			}
			answer, err := s.Do(line)
			if err != nil {
				answer = "error: " + err.Error()
			}
			_, _ = io.WriteString(c, answer)
		})
	}
}

// Send has the simulation that runs in a folder carry out a command.
func Send(ctx context.Context, dir, line string) (string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketFile))
	if err != nil {
		return "", fmt.Errorf("no simulation runs in %s: start one with `orrery sim`", dir)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		return "", err
	}
	if text, failed := strings.CutPrefix(string(answer), "error: "); failed {
		return "", errors.New(text)
	}
	return string(answer), nil
}
