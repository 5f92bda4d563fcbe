// Command orrery-cni is the CNI plugin: the container runtime runs it from
// /opt/cni/bin for every pod sandbox that it makes or removes.
package main

import (
	"context"

	"orrery/cni/plugin"
)

func main() {
	plugin.Main(context.Background(), "orrery-cni gives a pod its interface, address and routes")
}
