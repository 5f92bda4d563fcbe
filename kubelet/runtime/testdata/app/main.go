// App is what the tests' images hold: one static binary that does what its first argument says.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	verb, args := os.Args[1], os.Args[2:]
	switch verb {
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		fmt.Println("pausing") // process 1 of a container does not die of a signal that it does not handle yet
		<-stop
	case "deaf": // to SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		time.Sleep(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "say": // each argument is a line; ":2" goes before one for stderr
		for _, a := range args {
			if rest, ok := strings.CutPrefix(a, ":2"); ok {
				fmt.Fprintln(os.Stderr, rest)
			} else {
				fmt.Println(a)
			}
		}
	case "count": // one line each 10 ms, for ever
		for i := 0; ; i++ {
			fmt.Println("line", i)
			time.Sleep(10 * time.Millisecond)
		}
	case "echo": // stdin, line by line
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Println("heard", lines.Text())
		}
		fmt.Println("stdin closed")
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "files":
		for _, f := range args {
			b, err := os.ReadFile(f)
			fmt.Printf("%s: %s %v\n", f, strings.TrimSpace(string(b)), err)
		}
	case "who":
		host, _ := os.Hostname()
		wd, _ := os.Getwd()
		groups, _ := os.Getgroups()
		fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "groups", groups, "host", host, "wd", wd, "pid", os.Getpid())
		for _, e := range os.Environ() {
			fmt.Println("env", e)
		}
	case "write":
		if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "sleep":
		d, _ := time.ParseDuration(args[0])
		time.Sleep(d)
	case "eat": // memory
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
	case "serve":
		l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("serving")
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Fprintf(c, "you said %s", line)
			c.Close()
		}
	}
}
