// Command etcd is upstream's, unchanged: the upstream kube-apiserver has none inside.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
