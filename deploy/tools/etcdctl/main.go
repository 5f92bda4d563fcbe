// Command etcdctl is the real etcdctl, for looking into the cluster's store from a node.
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }
