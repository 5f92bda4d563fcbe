// Cri-logger writes one container's output to its log. containerd's shim starts it beside each container:
// descriptors 3 and 4 are the container's stdout and stderr, and closing descriptor 5 says that the logger is ready.
//
// Upstream: containerd core/runtime/v2/logging, Run (the protocol of binary:// loggers).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"orrery/kubelet/runtime/logger"
)

func main() {
	var cfg logger.Config
	flag.StringVar(&cfg.LogPath, "log", "", "log file; empty for none")
	flag.StringVar(&cfg.Socket, "socket", "", "unix socket for attach and reopen")
	tty := flag.String("tty", "no", `"yes" when the container has a terminal, and so one stream`)
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var stderr io.Reader
	if *tty != "yes" {
		stderr = os.NewFile(4, "container stderr")
	}
	if err := logger.Run(ctx, cfg, os.NewFile(3, "container stdout"), stderr, os.NewFile(5, "ready").Close); err != nil {
		fmt.Fprintln(os.Stderr, "cri-logger:", err)
		os.Exit(1)
	}
}
