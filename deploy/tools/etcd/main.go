// Command etcd is the real etcd, in which the cluster's API server keeps everything.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
